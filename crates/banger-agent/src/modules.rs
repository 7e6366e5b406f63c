//! Kernel modules of the initramfs, which lists them in the order they must be loaded.

use std::fs::File;
use std::io;

use crate::boot::Progress;

const ORDER: &str = "/modules.order";

/// `MODULE_INIT_COMPRESSED_FILE`: the kernel unpacks it.
const COMPRESSED: libc::c_int = 4;

/// Loads all of them. One that cannot be loaded may not be needed, so it is but a warning.
pub fn load(progress: &mut Progress) {
    // A kernel that has everything built in comes without a list.
    let Ok(order) = std::fs::read_to_string(ORDER) else {
        return;
    };
    for path in order.lines().filter(|path| !path.is_empty()) {
        progress.tolerate(&format!("load {path}"), load_one(path));
    }
}

fn load_one(path: &str) -> io::Result<()> {
    let packed = [".xz", ".gz", ".zst"].iter().any(|end| path.ends_with(end));
    let flags = if packed { COMPRESSED } else { 0 };
    match rustix::system::finit_module(File::open(path)?, c"", flags) {
        // Built in, or loaded as another's need.
        Err(rustix::io::Errno::EXIST) => Ok(()),
        result => Ok(result?),
    }
}
