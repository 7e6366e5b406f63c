//! Rows of `ledger`: what must be given back.

use banger_protocol::name::VmId;

use super::{Store, StoreError, is_duplicate};
use crate::vm::resources::Resource;

impl Store {
    /// Notes a resource before it is acquired. Noting the same again replaces the note.
    ///
    /// # Errors
    /// [`StoreError::Claimed`] where another VM holds what only one may hold.
    pub fn note_resource(&self, vm: &VmId, resource: &Resource) -> Result<(), StoreError> {
        let json = serde_json::to_string(resource).map_err(|error| StoreError::Malformed {
            what: "resource",
            text: error.to_string(),
        })?;
        let claim = resource.claim();
        let noted = self.lock().execute(
            "INSERT INTO ledger (vm, kind, claim, resource) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (vm, kind) DO UPDATE SET claim = excluded.claim, resource = excluded.resource",
            (vm.as_str(), resource.kind(), &claim, json),
        );
        match (noted, claim) {
            (Ok(_), _) => Ok(()),
            (Err(error), Some(claim)) if is_duplicate(&error) => Err(StoreError::Claimed {
                claim: format!("{} {claim}", resource.kind()),
            }),
            (Err(source), _) => Err(StoreError::Statement {
                deed: "note a resource",
                source,
            }),
        }
    }

    /// Strikes a resource off, after it was released.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn strike_resource(&self, vm: &VmId, resource: &Resource) -> Result<(), StoreError> {
        self.with("strike a resource", |connection| {
            connection
                .execute(
                    "DELETE FROM ledger WHERE vm = ?1 AND kind = ?2",
                    (vm.as_str(), resource.kind()),
                )
                .map(drop)
        })
    }

    /// What a VM holds, in the order in which it was acquired.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn resources_of(&self, vm: &VmId) -> Result<Vec<Resource>, StoreError> {
        let rows: Vec<String> = self.with("read the ledger", |connection| {
            connection
                .prepare_cached("SELECT resource FROM ledger WHERE vm = ?1")?
                .query_map([vm.as_str()], |row| row.get(0))?
                .collect()
        })?;
        let mut resources = rows
            .iter()
            .map(|text| parse(text))
            .collect::<Result<Vec<_>, _>>()?;
        resources.sort_by_key(Resource::rank);
        Ok(resources)
    }

    /// Everything any VM holds.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn resources(&self) -> Result<Vec<Resource>, StoreError> {
        let rows: Vec<String> = self.with("read the ledger", |connection| {
            connection
                .prepare_cached("SELECT resource FROM ledger")?
                .query_map([], |row| row.get(0))?
                .collect()
        })?;
        rows.iter().map(|text| parse(text)).collect()
    }
}

fn parse(text: &str) -> Result<Resource, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Malformed {
        what: "resource",
        text: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::spec::tests::row;

    #[test]
    fn the_ledger_keeps_order_and_guards_the_vm() {
        let store = Store::in_memory().unwrap();
        let vm = row("web");
        store.insert_vm(&vm).unwrap();
        let uid = Resource::Uid { uid: 7 };
        store.note_resource(&vm.id, &Resource::Machine).unwrap();
        store.note_resource(&vm.id, &uid).unwrap();
        store.note_resource(&vm.id, &uid).unwrap();
        assert_eq!(
            store.resources_of(&vm.id).unwrap(),
            [uid.clone(), Resource::Machine]
        );
        assert!(store.remove_vm(&vm.id).is_err(), "it still holds something");
        store.strike_resource(&vm.id, &uid).unwrap();
        store.strike_resource(&vm.id, &uid).unwrap();
        store.strike_resource(&vm.id, &Resource::Machine).unwrap();
        store.remove_vm(&vm.id).unwrap();
    }

    #[test]
    fn a_uid_is_held_by_one_vm() {
        let store = Store::in_memory().unwrap();
        let (web, api) = (row("web"), row("api"));
        store.insert_vm(&web).unwrap();
        store.insert_vm(&api).unwrap();
        store
            .note_resource(&web.id, &Resource::Uid { uid: 7 })
            .unwrap();
        let error = store
            .note_resource(&api.id, &Resource::Uid { uid: 7 })
            .unwrap_err();
        assert!(matches!(error, StoreError::Claimed { claim } if claim == "uid 7"));
        store
            .note_resource(&api.id, &Resource::Uid { uid: 8 })
            .unwrap();
        assert_eq!(store.resources().unwrap().len(), 2);
    }
}
