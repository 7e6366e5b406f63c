//! The name of one daemon on its host: everything host-wide that it makes carries it.

use std::path::Path;

use sha2::{Digest, Sha256};

/// Eight hexadecimal digits from the state directory's path: short enough for the name of a network
/// device, and the same after each restart.
pub fn instance(state: &Path) -> String {
    let digest = Sha256::digest(state.as_os_str().as_encoded_bytes());
    digest
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_stable_and_differs_by_directory() {
        let system = instance(Path::new("/var/lib/banger"));
        assert_eq!(system.len(), 8);
        assert_eq!(system, instance(Path::new("/var/lib/banger")));
        assert_ne!(system, instance(Path::new("/var/lib/banger2")));
    }
}
