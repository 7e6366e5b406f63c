//! What banger needs from the host operating system, and nothing about VMs.
//!
//! - [`command`]: running a program, the only way a part of banger does it
//! - [`files`]: atomic writes, copies that share extents, locks, paths that cannot be led astray
//! - [`process`]: who a process is, waiting for it, signalling it
//! - [`cgroup`]: a cgroup per process tree, where the host lets us make one
//! - [`kernel`]: which kernel the host runs
//! - [`layout`]: where a banger lives on this host
//! - [`check`]: the unit of `banger doctor`
//!
//! Limits: no state is kept here and no policy is decided; callers say what and where.

pub mod cgroup;
pub mod check;
pub mod command;
pub mod files;
pub mod kernel;
pub mod layout;
pub mod process;
