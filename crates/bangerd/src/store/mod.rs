//! What bangerd remembers, in one SQLite file.
//!
//! | table    | rows                                             | methods in  |
//! |----------|--------------------------------------------------|-------------|
//! | `images` | names for bases                                  | [`images`]  |
//! | `vms`    | specs, and what became of them                   | [`vms`]     |
//! | `ledger` | resources that must be given back                | [`ledger`]  |
//!
//! One connection, used under a lock that is held for one statement or transaction and never
//! across an `await`. WAL with `synchronous = NORMAL`: killing bangerd loses nothing; a crash of
//! the host may lose the last moments, never the file's consistency, and what a lost ledger row
//! would have named is found by the sweep of recovery.
//!
//! Limits: no policy. Which state may follow which is [`crate::vm::state`]'s business.

pub mod images;
pub mod ledger;
mod migrate;
mod reserve;
pub mod vms;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use banger_protocol::error::{ApiError, ErrorKind};
use rusqlite::Connection;

/// The store of one daemon.
#[derive(Debug)]
pub struct Store {
    connection: Mutex<Connection>,
}

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store {path} was left by the Go version of banger, and is left as it is", path = path.display())]
    GoBanger { path: PathBuf },
    #[error("{path} is not a store of banger, and is left as it is", path = path.display())]
    Foreign { path: PathBuf },
    #[error(
        "the store {path} is of version {found}, and this bangerd knows versions up to {known}",
        path = path.display()
    )]
    Newer {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    #[error("cannot {deed} the store {path}", path = path.display())]
    Open {
        deed: &'static str,
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("cannot read the store {path}", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the store could not {deed}")]
    Statement {
        deed: &'static str,
        #[source]
        source: rusqlite::Error,
    },
    #[error("the name {name} is taken")]
    NameTaken { name: String },
    #[error("{claim} is held by another VM")]
    Claimed { claim: String },
    #[error("the store holds a {what} that cannot be understood: {text}")]
    Malformed { what: &'static str, text: String },
}

impl Store {
    /// Opens the store, making or migrating it as needed.
    ///
    /// # Errors
    /// A store of a newer bangerd, of the Go banger, or of another program is refused before a
    /// byte of it is written.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        migrate::refuse_what_is_not_ours(path)?;
        let open = |deed, source| StoreError::Open {
            deed,
            path: path.to_owned(),
            source,
        };
        let mut connection = Connection::open(path).map_err(|source| open("open", source))?;
        configure(&connection).map_err(|source| open("configure", source))?;
        migrate::migrate(&mut connection).map_err(|source| open("migrate", source))?;
        if let Err(error) = reserve::keep(&connection) {
            // A store that can be read shows what there is to delete.
            tracing::warn!(path = %path.display(), %error, "no room is kept for the store");
        }
        Ok(Store {
            connection: Mutex::new(connection),
        })
    }

    /// A store that is gone when it is dropped.
    ///
    /// # Errors
    /// SQLite cannot allocate.
    pub fn in_memory() -> Result<Store, StoreError> {
        let open = |source| StoreError::Open {
            deed: "open",
            path: PathBuf::from(":memory:"),
            source,
        };
        let mut connection = Connection::open_in_memory().map_err(open)?;
        configure(&connection).map_err(open)?;
        migrate::migrate(&mut connection).map_err(open)?;
        Ok(Store {
            connection: Mutex::new(connection),
        })
    }

    /// A panic while the lock was held left at most an open transaction, which its drop rolled
    /// back; so the connection is fit for use.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs statements that belong together; `deed` is for the error.
    fn with<T>(
        &self,
        deed: &'static str,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        work(&mut self.lock()).map_err(|source| StoreError::Statement { deed, source })
    }
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Pages of the cache; a daemon's rows fit in far fewer, and idle memory counts.
    connection.pragma_update(None, "cache_size", -512)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

/// Whether a statement failed on a UNIQUE or PRIMARY KEY constraint.
fn is_duplicate(error: &rusqlite::Error) -> bool {
    matches!(
        error,
        rusqlite::Error::SqliteFailure(code, _)
            if matches!(
                code.extended_code,
                rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE | rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY
            )
    )
}

impl StoreError {
    fn is_no_space(&self) -> bool {
        let (StoreError::Open { source, .. } | StoreError::Statement { source, .. }) = self else {
            return false;
        };
        let rusqlite::Error::SqliteFailure(code, _) = source else {
            return false;
        };
        code.code == rusqlite::ErrorCode::DiskFull
            // No room for the index of the WAL.
            || code.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        let kind = match &error {
            _ if error.is_no_space() => ErrorKind::NoSpace,
            StoreError::NameTaken { .. } => ErrorKind::AlreadyExists,
            StoreError::Claimed { .. } => ErrorKind::InUse,
            StoreError::Newer { .. } => ErrorKind::VersionMismatch,
            StoreError::GoBanger { .. }
            | StoreError::Foreign { .. }
            | StoreError::Open { .. }
            | StoreError::Read { .. } => ErrorKind::BadConfig,
            StoreError::Statement { .. } | StoreError::Malformed { .. } => ErrorKind::Internal,
        };
        let hint = match &error {
            StoreError::GoBanger { .. } | StoreError::Foreign { .. } => {
                Some("move the file away, or set BANGER_ROOT to another directory")
            }
            StoreError::Newer { .. } => {
                Some("run the newer bangerd, or set BANGER_ROOT to another directory")
            }
            _ if kind == ErrorKind::NoSpace => {
                Some("free space on the file system of the state directory")
            }
            _ => None,
        };
        let mut api = ApiError::new(kind, with_sources(&error));
        api.hint = hint.map(str::to_owned);
        api
    }
}

/// The text of an error and of what caused it, in one sentence.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
