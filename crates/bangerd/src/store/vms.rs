//! Rows of `vms`.

use banger_protocol::name::{VmId, VmName};
use rusqlite::{OptionalExtension, Row};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Store, StoreError, is_duplicate};
use crate::vm::spec::{Observed, VmSpec};
use crate::vm::state::State;

/// One VM as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct VmRow {
    pub id: VmId,
    pub name: VmName,
    pub state: State,
    /// Number of the transition that led to `state`; 0 when it was created.
    pub transition: u64,
    pub spec: VmSpec,
    pub observed: Observed,
}

fn to_json(what: &'static str, value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Malformed {
        what,
        text: error.to_string(),
    })
}

fn from_json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Malformed {
        what,
        text: error.to_string(),
    })
}

/// A row before its JSON and names are understood.
struct Raw {
    id: String,
    name: String,
    state: String,
    transition: i64,
    spec: String,
    observed: String,
}

impl Raw {
    const COLUMNS: &str = "id, name, state, transition, spec, observed";

    fn read(row: &Row<'_>) -> rusqlite::Result<Raw> {
        Ok(Raw {
            id: row.get(0)?,
            name: row.get(1)?,
            state: row.get(2)?,
            transition: row.get(3)?,
            spec: row.get(4)?,
            observed: row.get(5)?,
        })
    }

    fn understand(self) -> Result<VmRow, StoreError> {
        let malformed = |what, text: &str| StoreError::Malformed {
            what,
            text: text.to_owned(),
        };
        Ok(VmRow {
            id: self.id.parse().map_err(|_| malformed("VM id", &self.id))?,
            name: self
                .name
                .parse()
                .map_err(|_| malformed("VM name", &self.name))?,
            state: State::from_name(&self.state)
                .ok_or_else(|| malformed("VM state", &self.state))?,
            transition: u64::try_from(self.transition).unwrap_or_default(),
            spec: from_json("VM spec", &self.spec)?,
            observed: from_json("VM record", &self.observed)?,
        })
    }
}

impl Store {
    /// All VMs, by name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn vms(&self) -> Result<Vec<VmRow>, StoreError> {
        let rows: Vec<Raw> = self.with("list VMs", |connection| {
            connection
                .prepare_cached(&format!("SELECT {} FROM vms ORDER BY name", Raw::COLUMNS))?
                .query_map([], Raw::read)?
                .collect()
        })?;
        rows.into_iter().map(Raw::understand).collect()
    }

    /// # Errors
    /// The store cannot be read.
    pub fn vm(&self, id: &VmId) -> Result<Option<VmRow>, StoreError> {
        let row = self.with("read a VM", |connection| {
            connection
                .prepare_cached(&format!("SELECT {} FROM vms WHERE id = ?1", Raw::COLUMNS))?
                .query_row([id.as_str()], Raw::read)
                .optional()
        })?;
        row.map(Raw::understand).transpose()
    }

    /// # Errors
    /// [`StoreError::NameTaken`], or the store cannot be written.
    pub fn insert_vm(&self, vm: &VmRow) -> Result<(), StoreError> {
        let spec = to_json("VM spec", &vm.spec)?;
        let observed = to_json("VM record", &vm.observed)?;
        let inserted = self.lock().execute(
            "INSERT INTO vms (id, name, base_digest, kernel, state, transition, spec, observed)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            (
                vm.id.as_str(),
                vm.name.as_str(),
                &vm.spec.base_digest,
                vm.spec.kernel.as_str(),
                vm.state.name(),
                i64::try_from(vm.transition).unwrap_or(i64::MAX),
                spec,
                observed,
            ),
        );
        match inserted {
            Ok(_) => Ok(()),
            Err(error) if is_duplicate(&error) => Err(StoreError::NameTaken {
                name: vm.name.to_string(),
            }),
            Err(source) => Err(StoreError::Statement {
                deed: "store a VM",
                source,
            }),
        }
    }

    /// Stores where a VM is now, and what is known about it.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn update_vm(
        &self,
        id: &VmId,
        state: State,
        transition: u64,
        observed: &Observed,
    ) -> Result<(), StoreError> {
        let observed = to_json("VM record", observed)?;
        self.with("update a VM", |connection| {
            connection
                .prepare_cached(
                    "UPDATE vms SET state = ?2, transition = ?3, observed = ?4 WHERE id = ?1",
                )?
                .execute((
                    id.as_str(),
                    state.name(),
                    i64::try_from(transition).unwrap_or(i64::MAX),
                    observed,
                ))
                .map(drop)
        })
    }

    /// Forgets a VM. Refused by the schema while its ledger names anything.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn remove_vm(&self, id: &VmId) -> Result<(), StoreError> {
        self.with("remove a VM", |connection| {
            connection
                .execute("DELETE FROM vms WHERE id = ?1", [id.as_str()])
                .map(drop)
        })
    }

    /// Names of the VMs whose base this is, in order.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn vms_of_base(&self, base_digest: &str) -> Result<Vec<String>, StoreError> {
        self.names(
            "SELECT name FROM vms WHERE base_digest = ?1 ORDER BY name",
            base_digest,
        )
    }

    /// Names of the VMs created with this kernel, in order.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn vms_of_kernel(&self, kernel: &str) -> Result<Vec<String>, StoreError> {
        self.names(
            "SELECT name FROM vms WHERE kernel = ?1 ORDER BY name",
            kernel,
        )
    }

    fn names(&self, sql: &str, key: &str) -> Result<Vec<String>, StoreError> {
        self.with("look for VMs", |connection| {
            connection
                .prepare_cached(sql)?
                .query_map([key], |row| row.get(0))?
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::spec::tests::row;

    #[test]
    fn vms_come_back_as_they_were_put() {
        let store = Store::in_memory().unwrap();
        let mut first = row("web");
        store.insert_vm(&first).unwrap();
        let second = row("api");
        store.insert_vm(&second).unwrap();
        assert_eq!(store.vms().unwrap(), [second.clone(), first.clone()]);

        first.state = State::Starting;
        first.transition = 1;
        first.observed.note = Some("n".to_owned());
        store
            .update_vm(&first.id, first.state, first.transition, &first.observed)
            .unwrap();
        assert_eq!(store.vm(&first.id).unwrap(), Some(first.clone()));
        assert_eq!(
            store.vms_of_base(&first.spec.base_digest).unwrap(),
            ["api", "web"]
        );
        assert_eq!(
            store.vms_of_kernel(first.spec.kernel.as_str()).unwrap(),
            ["api", "web"]
        );
        store.remove_vm(&first.id).unwrap();
        assert_eq!(store.vm(&first.id).unwrap(), None);
        assert_eq!(store.vms().unwrap(), [second]);
    }

    #[test]
    fn a_name_is_taken_once() {
        let store = Store::in_memory().unwrap();
        store.insert_vm(&row("web")).unwrap();
        let error = store.insert_vm(&row("web")).unwrap_err();
        assert!(matches!(error, StoreError::NameTaken { name } if name == "web"));
    }
}
