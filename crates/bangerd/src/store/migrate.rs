//! Versions of the store's schema.
//!
//! The version is SQLite's `user_version`, the owner its `application_id`. Migration `n` is the
//! file `migrations/00n_*.sql` and takes a store from version `n - 1` to `n` in one transaction,
//! the version included. A migration that was released is never edited.

use std::fs::File;
use std::io::{ErrorKind as IoErrorKind, Read};
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::StoreError;

/// `bngr`.
const APPLICATION_ID: i32 = 0x626e_6772;

/// In order; the first makes version 1.
const MIGRATIONS: &[&str] = &[include_str!("migrations/001_baseline.sql")];

/// Version this bangerd reads and writes.
const KNOWN: i64 = MIGRATIONS.len() as i64;

pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (next, sql) in (1i64..).zip(MIGRATIONS).skip(version.max(0) as usize) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", next)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Looks at a file before anything writes to it. A missing or empty file is fine.
pub(super) fn refuse_what_is_not_ours(path: &Path) -> Result<(), StoreError> {
    let foreign = || StoreError::Foreign {
        path: path.to_owned(),
    };
    let Some(header) = header(path)? else {
        return Ok(());
    };
    if header[..16] != *b"SQLite format 3\0" {
        return Err(foreign());
    }
    // Big endian, at the offsets of SQLite's file format. A version that is still in the WAL is
    // found by the query below; this one needs no file beside the store.
    let word = |at: usize| {
        i32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let (version, application) = (i64::from(word(60)), word(68));
    if application == APPLICATION_ID && version > KNOWN {
        return Err(newer(path, version));
    }
    let look = look(path).map_err(|source| StoreError::Open {
        deed: "look into",
        path: path.to_owned(),
        source,
    })?;
    if look.application == APPLICATION_ID {
        if look.version > KNOWN {
            return Err(newer(path, look.version));
        }
        return Ok(());
    }
    let has = |table: &str| look.tables.iter().any(|name| name == table);
    if has("vms") && has("images") {
        return Err(StoreError::GoBanger {
            path: path.to_owned(),
        });
    }
    // A crash before the first migration leaves a file with a header and no table.
    if look.application == 0 && look.version == 0 && look.tables.is_empty() {
        return Ok(());
    }
    Err(foreign())
}

fn newer(path: &Path, found: i64) -> StoreError {
    StoreError::Newer {
        path: path.to_owned(),
        found,
        known: KNOWN,
    }
}

struct Look {
    application: i32,
    version: i64,
    tables: Vec<String>,
}

/// Reads without a checkpoint, so that neither the file nor its WAL changes.
fn look(path: &Path) -> rusqlite::Result<Look> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let look = Look {
        application: connection.pragma_query_value(None, "application_id", |row| row.get(0))?,
        version: connection.pragma_query_value(None, "user_version", |row| row.get(0))?,
        tables: connection
            .prepare("SELECT name FROM sqlite_master WHERE type = 'table'")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?,
    };
    Ok(look)
}

/// The first 100 bytes; `None` where the file is missing or empty.
fn header(path: &Path) -> Result<Option<[u8; 100]>, StoreError> {
    let read = |source| StoreError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read(error)),
    };
    if file.metadata().map_err(read)?.len() == 0 {
        return Ok(None);
    }
    let mut header = [0; 100];
    match file.read_exact(&mut header) {
        Ok(()) => Ok(Some(header)),
        Err(error) if error.kind() == IoErrorKind::UnexpectedEof => Err(StoreError::Foreign {
            path: path.to_owned(),
        }),
        Err(error) => Err(read(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;
    use std::fs;

    fn bytes_of(directory: &Path) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap())
            // Shared memory of the WAL: SQLite makes and drops it when it only reads, too.
            .filter(|entry| !entry.file_name().to_string_lossy().ends_with("-shm"))
            .map(|entry| {
                (
                    entry.file_name().to_string_lossy().into_owned(),
                    fs::read(entry.path()).unwrap(),
                )
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn a_new_store_has_the_newest_version_and_opens_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        for _ in 0..2 {
            let store = Store::open(&path).unwrap();
            let version: i64 = store
                .lock()
                .pragma_query_value(None, "user_version", |row| row.get(0))
                .unwrap();
            assert_eq!(version, KNOWN);
        }
    }

    #[test]
    fn a_newer_store_is_refused_and_not_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        drop(Store::open(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        connection
            .pragma_update(None, "user_version", KNOWN + 1)
            .unwrap();
        // Still in the WAL: the connection is open.
        let before = bytes_of(directory.path());
        for _ in 0..2 {
            let error = Store::open(&path).unwrap_err();
            assert!(
                matches!(error, StoreError::Newer { found, .. } if found == KNOWN + 1),
                "{error}"
            );
        }
        assert!(bytes_of(directory.path()) == before);
        // And once it is in the file itself.
        drop(connection);
        let before = bytes_of(directory.path());
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Newer { .. }), "{error}");
        assert!(bytes_of(directory.path()) == before);
    }

    #[test]
    fn a_store_of_the_go_banger_is_named_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE images (id TEXT, managed INTEGER);
                 CREATE TABLE vms (id TEXT, runtime_json TEXT);
                 CREATE TABLE guest_sessions (id TEXT);",
            )
            .unwrap();
        drop(connection);
        let before = bytes_of(directory.path());
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::GoBanger { .. }), "{error}");
        assert!(error.to_string().contains("state.db"));
        assert!(bytes_of(directory.path()) == before);
    }

    #[test]
    fn other_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in [("text", &b"hello"[..]), ("long", &[b'x'; 4096][..])] {
            let path = directory.path().join(name);
            fs::write(&path, bytes).unwrap();
            let error = Store::open(&path).unwrap_err();
            assert!(
                matches!(error, StoreError::Foreign { .. }),
                "{name}: {error}"
            );
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        let path = directory.path().join("other.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch("CREATE TABLE notes (text TEXT)")
            .unwrap();
        drop(connection);
        let error = Store::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
        let empty = directory.path().join("empty.db");
        fs::write(&empty, b"").unwrap();
        assert!(Store::open(&empty).is_ok());
    }

    #[test]
    fn a_failing_migration_leaves_the_version_before_it() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch("CREATE TABLE ledger (x TEXT)")
            .unwrap();
        assert!(migrate(&mut connection).is_err());
        let version: i64 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        assert_eq!(version, 0);
        let images: i64 = connection
            .query_row(
                "SELECT count(*) FROM sqlite_master WHERE name = 'images'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(images, 0);
    }
}
