//! Rows of `images`.

use banger_protocol::api::image::{Image, ImageConfig};
use banger_protocol::name::{ImageName, KernelName};
use rusqlite::OptionalExtension;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Store, StoreError};

/// An image as it is stored: all the API shows but its users, which are computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageRecord {
    pub name: ImageName,
    /// A canonical reference, `catalog:NAME`, `oci-archive:FILE` and so on.
    pub source: String,
    /// Manifest digest; for local sources the digest of the layers.
    pub digest: String,
    /// Identity of the base file.
    pub base_digest: String,
    pub size_bytes: u64,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    pub kernel: Option<KernelName>,
    pub config: ImageConfig,
}

impl ImageRecord {
    pub fn into_image(self, used_by: Vec<String>) -> Image {
        Image {
            name: self.name,
            source: self.source,
            digest: self.digest,
            base_digest: self.base_digest,
            size_bytes: self.size_bytes,
            created_at: self.created_at,
            kernel: self.kernel,
            config: self.config,
            used_by,
        }
    }
}

fn parse(text: &str) -> Result<ImageRecord, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Malformed {
        what: "image",
        text: error.to_string(),
    })
}

impl Store {
    /// All images, by name.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let rows: Vec<String> = self.with("list images", |connection| {
            connection
                .prepare_cached("SELECT record FROM images ORDER BY name")?
                .query_map([], |row| row.get(0))?
                .collect()
        })?;
        rows.iter().map(|text| parse(text)).collect()
    }

    /// # Errors
    /// The store cannot be read.
    pub fn image(&self, name: &ImageName) -> Result<Option<ImageRecord>, StoreError> {
        let row: Option<String> = self.with("read an image", |connection| {
            connection
                .prepare_cached("SELECT record FROM images WHERE name = ?1")?
                .query_row([name.as_str()], |row| row.get(0))
                .optional()
        })?;
        row.as_deref().map(parse).transpose()
    }

    /// Stores an image, in place of what had its name. `decide` sees that, under the same lock,
    /// and may refuse: so of two racing pulls exactly one wins.
    ///
    /// # Errors
    /// The store cannot be written, or `decide` refused.
    pub fn put_image<E: From<StoreError>>(
        &self,
        image: &ImageRecord,
        decide: impl FnOnce(Option<&ImageRecord>) -> Result<(), E>,
    ) -> Result<(), E> {
        let statement = |source| StoreError::Statement {
            deed: "store an image",
            source,
        };
        let mut connection = self.lock();
        let transaction = connection.transaction().map_err(statement)?;
        let before: Option<String> = transaction
            .query_row(
                "SELECT record FROM images WHERE name = ?1",
                [image.name.as_str()],
                |row| row.get(0),
            )
            .optional()
            .map_err(statement)?;
        let before = before.as_deref().map(parse).transpose()?;
        decide(before.as_ref())?;
        let record = serde_json::to_string(image).map_err(|error| StoreError::Malformed {
            what: "image",
            text: error.to_string(),
        })?;
        transaction
            .execute(
                "INSERT OR REPLACE INTO images (name, base_digest, kernel, record) VALUES (?1, ?2, ?3, ?4)",
                (
                    image.name.as_str(),
                    &image.base_digest,
                    image.kernel.as_ref().map(KernelName::as_str),
                    record,
                ),
            )
            .map_err(statement)?;
        transaction.commit().map_err(statement)?;
        Ok(())
    }

    /// Forgets a name; `false` where there was none.
    ///
    /// # Errors
    /// The store cannot be written.
    pub fn remove_image(&self, name: &ImageName) -> Result<bool, StoreError> {
        self.with("remove an image", |connection| {
            Ok(connection.execute("DELETE FROM images WHERE name = ?1", [name.as_str()])? > 0)
        })
    }

    /// Whether an image or a VM names a base.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn base_is_named(&self, base_digest: &str) -> Result<bool, StoreError> {
        self.with("look for users of a base", |connection| {
            connection
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM images WHERE base_digest = ?1)
                         OR EXISTS (SELECT 1 FROM vms WHERE base_digest = ?1)",
                )?
                .query_row([base_digest], |row| row.get(0))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, source: &str) -> ImageRecord {
        ImageRecord {
            name: name.parse().unwrap(),
            source: source.to_owned(),
            digest: "sha256:1".to_owned(),
            base_digest: "b1".to_owned(),
            size_bytes: 1 << 40,
            created_at: OffsetDateTime::UNIX_EPOCH,
            kernel: Some("k-1".parse().unwrap()),
            config: ImageConfig {
                env: vec!["A=b".to_owned()],
                ..ImageConfig::default()
            },
        }
    }

    #[test]
    fn images_come_back_as_they_were_put() {
        let store = Store::in_memory().unwrap();
        let any = |_: Option<&ImageRecord>| Ok::<_, StoreError>(());
        store.put_image(&image("b", "x"), any).unwrap();
        store.put_image(&image("a", "x"), any).unwrap();
        assert_eq!(store.images().unwrap(), [image("a", "x"), image("b", "x")]);
        assert_eq!(
            store.image(&"b".parse().unwrap()).unwrap(),
            Some(image("b", "x"))
        );
        assert!(store.base_is_named("b1").unwrap());
        assert!(store.remove_image(&"a".parse().unwrap()).unwrap());
        assert!(!store.remove_image(&"a".parse().unwrap()).unwrap());
        assert!(store.remove_image(&"b".parse().unwrap()).unwrap());
        assert!(!store.base_is_named("b1").unwrap());
    }

    #[test]
    fn a_refused_replacement_changes_nothing() {
        let store = Store::in_memory().unwrap();
        store
            .put_image(&image("a", "first"), |before| {
                assert_eq!(before, None);
                Ok::<_, StoreError>(())
            })
            .unwrap();
        let refused = store.put_image(&image("a", "second"), |before| {
            Err(StoreError::NameTaken {
                name: before.unwrap().source.clone(),
            })
        });
        assert!(matches!(refused, Err(StoreError::NameTaken { name }) if name == "first"));
        assert_eq!(store.images().unwrap(), [image("a", "first")]);
    }
}
