//! Which kernel the host runs, and since when.

use std::io;

/// Release of the running kernel, as `uname -r` prints it.
pub fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// An id that is new at every boot of the host.
pub fn boot_id() -> io::Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn are_known_and_stable() {
        assert!(super::release().starts_with(|c: char| c.is_ascii_digit()));
        assert_eq!(super::boot_id().unwrap().len(), 36);
        assert_eq!(super::boot_id().unwrap(), super::boot_id().unwrap());
    }
}
