//! The daemon as a process: limits, memory, panics.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use tokio::runtime::{Builder, Runtime};

/// Enough for an API and a handful of guest links: what is slow runs on blocking threads.
const WORKERS: usize = 2;
/// Imports take three or four each.
const MAX_BLOCKING: usize = 128;
const IDLE_THREAD: Duration = Duration::from_secs(10);

/// What must be so before anything else runs.
pub fn prepare() {
    // Files are given their mode where it matters; elsewhere it shall not depend on who starts us.
    umask(rustix::fs::Mode::from_raw_mode(0o022));
    // Each exec, follower and guest link takes a descriptor.
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Where this is refused the soft limit goes on to hold.
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        );
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets a number; no other thread exists yet that could allocate.
    unsafe {
        // One arena a thread would keep the peak of each import as resident memory.
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Gives memory that imports freed back to the host.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes no pointer and may be called from any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// # Errors
/// Threads cannot be made.
pub fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(MAX_BLOCKING)
        .thread_keep_alive(IDLE_THREAD)
        .thread_name("bangerd")
        .enable_all()
        .build()
}

/// A panic is a fault of ours: it goes to the log, where the operation's error points.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("{panic}");
    }));
}
