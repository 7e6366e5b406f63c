//! Room kept for the store, so that on a full disk VMs can still be stopped and deleted, which is
//! how people make room.
//!
//! A commit appends to the WAL, which begins anew after each checkpoint and is overwritten in
//! place. So it is grown once, and a checkpoint made before it would grow any further.
//!
//! Limits: what makes the store itself larger, such as a new VM, may fail before the reserve is
//! used up; that is as it should be.

use rusqlite::Connection;

/// Bytes the WAL is grown to.
const RESERVE: u32 = 1 << 20;

/// Frames of the WAL after which there is a checkpoint: well below the reserve, since a page takes
/// 4 KiB and its head, and a transaction is not cut in two.
const CHECKPOINT: u32 = RESERVE / 4096 / 2;

/// Bytes of one row of what is written to grow it.
const ROW: u32 = 16 << 10;

/// # Errors
/// There is no room for it now, or the store cannot be written.
pub(super) fn keep(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT)?;
    let grown = connection.execute_batch(&format!(
        "DROP TABLE IF EXISTS reserve;
         BEGIN;
         CREATE TABLE reserve (room BLOB);
         WITH RECURSIVE rows (row) AS (SELECT 1 UNION ALL SELECT row + 1 FROM rows WHERE row < {rows})
         INSERT INTO reserve SELECT zeroblob({ROW}) FROM rows;
         COMMIT;",
        rows = RESERVE / ROW,
    ));
    if grown.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    grown?;
    connection.execute_batch("DROP TABLE reserve; PRAGMA wal_checkpoint(RESTART);")
}

#[cfg(test)]
mod tests {
    use crate::store::Store;
    use crate::vm::spec::tests::row;

    #[test]
    fn the_log_does_not_grow_past_its_reserve() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let store = Store::open(&path).unwrap();
        let wal = || {
            std::fs::metadata(directory.path().join("state.db-wal"))
                .unwrap()
                .len()
        };
        let reserved = wal();
        assert!(reserved >= u64::from(super::RESERVE));
        let mut vm = row("web");
        store.insert_vm(&vm).unwrap();
        for number in 1..3000 {
            vm.transition = number;
            store
                .update_vm(&vm.id, vm.state, vm.transition, &vm.observed)
                .unwrap();
        }
        assert_eq!(wal(), reserved);
        assert_eq!(store.vms().unwrap()[0].transition, 2999);
    }
}
