//! The agent in the guest: makes a machine of a kernel, and does in it what the host asks for.
//!
//! ```text
//! /init (process 1)                init, modules: from the kernel to the port
//!   └ port, listen, serve          the guest link, one request per stream
//!       ├ boot                     disks → overlay root → identity; BootConfig → BootReport
//!       │   └ systemd, image_init  --init image: a copy serves on, process 1 becomes the init
//!       ├ process, user, reaper    exec and main: spawn, streams, terminals, signals, statuses
//!       └ shutdown, hook, local    the end: by us, or by the image's init
//! ```
//!
//! The agent trusts the host and nothing in the guest. An image's files are read with bounds, and
//! a fault that an image can cause is a warning or an error to the host, never the end of process
//! 1: tasks are isolated by unwinding.
//!
//! Limits: one virtio-serial port; no network but loopback; files, ports and sessions are not
//! served yet.

use std::sync::atomic::{AtomicBool, Ordering};

pub mod agent;
pub mod boot;
pub mod clock;
pub mod hook;
pub mod image_init;
pub mod init;
pub mod listen;
pub mod local;
pub mod log;
pub mod main_process;
pub mod modules;
pub mod port;
pub mod process;
pub mod processors;
pub mod reaper;
pub mod serve;
pub mod shutdown;
pub mod stats;
pub mod systemd;
pub mod user;
pub mod watch;

static SERVING: AtomicBool = AtomicBool::new(false);

/// This process serves a machine though it is not process 1.
fn is_serving() -> bool {
    SERVING.load(Ordering::Relaxed)
}

fn set_serving() {
    SERVING.store(true, Ordering::Relaxed);
}
