//! Files on the host: written whole or not at all, copied without their holes, found without
//! being led astray.
//!
//! Everything here is synchronous and blocks for as long as the disk does; async callers use a
//! blocking thread for whatever touches data.
//!
//! Limits: durability is what `fsync` of the file system gives. Locks are advisory and of one
//! host.

mod atomic;
mod beneath;
mod copy;
mod lock;
mod private;
mod remove;
mod usage;

pub use atomic::{sync_directory, write_atomic};
pub use beneath::{open_beneath, open_directory};
pub use copy::{CopyMethod, copy_contents};
pub use lock::{FileLock, LockError};
pub use private::{PrivateDirError, private_directory};
pub use remove::{remove_contents, remove_tree};
pub use usage::{Usage, allocated, tree_usage};
