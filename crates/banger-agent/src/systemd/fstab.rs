//! Lines of /etc/fstab that would make the image's init wait for devices this machine lacks.
//!
//! An image of a physical or other virtual machine names its own disks. systemd waits 90 seconds
//! for each, and then starts no login. Such lines get `nofail` and a short wait; the line of the
//! root, which is ours, is commented out.

use std::io;
use std::path::Path;

use crate::boot::{read_text, write_file};

/// Longest wait for a device that may not come.
const OPTIONS: &str = "nofail,x-systemd.device-timeout=1s";

pub fn adapt_file(path: &Path) -> io::Result<()> {
    let Some(text) = read_text(path) else {
        return Ok(());
    };
    match adapt(&text, |device| Path::new(device).exists()) {
        Some(adapted) => write_file(path, adapted.as_bytes(), 0o644),
        None => Ok(()),
    }
}

/// The text with lines adapted, or `None` where none has to be.
fn adapt(text: &str, exists: impl Fn(&str) -> bool) -> Option<String> {
    let mut changed = false;
    let lines: Vec<String> = text
        .lines()
        .map(|line| match adapt_line(line, &exists) {
            Some(line) => {
                changed = true;
                line
            }
            None => line.to_owned(),
        })
        .collect();
    changed.then(|| lines.join("\n") + "\n")
}

fn adapt_line(line: &str, exists: &impl Fn(&str) -> bool) -> Option<String> {
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let [source, target, kind, rest @ ..] = &fields[..] else {
        return None;
    };
    if source.starts_with('#') {
        return None;
    }
    if *target == "/" {
        return Some(format!("# the root is banger's: {line}"));
    }
    let device = device(source)?;
    let options = rest.first().copied().unwrap_or("defaults");
    if exists(&device)
        || options
            .split(',')
            .any(|option| option == "nofail" || option == "noauto")
    {
        return None;
    }
    let tail = rest.get(1..).unwrap_or_default().join(" ");
    Some(
        format!("{source} {target} {kind} {options},{OPTIONS} {tail}")
            .trim_end()
            .to_owned(),
    )
}

/// The path at which a source would appear, where it is a device.
fn device(source: &str) -> Option<String> {
    if source.starts_with("/dev/") {
        return Some(source.to_owned());
    }
    let (tag, value) = source.split_once('=')?;
    let directory = match tag {
        "UUID" => "by-uuid",
        "LABEL" => "by-label",
        "PARTUUID" => "by-partuuid",
        "PARTLABEL" => "by-partlabel",
        _ => return None,
    };
    let value = value.trim_matches('"');
    Some(format!("/dev/disk/{directory}/{value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_missing_devices_change() {
        let cases = [
            ("# UNCONFIGURED FSTAB FOR BASE SYSTEM", None),
            ("", None),
            ("tmpfs /tmp tmpfs defaults 0 0", None),
            ("/dev/vdc /data ext4 defaults 0 2", None),
            ("UUID=1-2 /mnt vfat nofail 0 0", None),
            ("/dev/cdrom /media iso9660 user,noauto 0 0", None),
            ("short line", None),
            (
                "UUID=1-2 /boot/efi vfat umask=0077 0 1",
                Some("UUID=1-2 /boot/efi vfat umask=0077,nofail,x-systemd.device-timeout=1s 0 1"),
            ),
            (
                "/dev/sda5  none\tswap",
                Some("/dev/sda5 none swap defaults,nofail,x-systemd.device-timeout=1s"),
            ),
            (
                "UUID=3 / ext4 errors=remount-ro 0 1",
                Some("# the root is banger's: UUID=3 / ext4 errors=remount-ro 0 1"),
            ),
        ];
        for (line, expected) in cases {
            let adapted = adapt(line, |device| device == "/dev/vdc");
            assert_eq!(
                adapted.as_deref(),
                expected.map(|text| format!("{text}\n")).as_deref()
            );
        }
        let text = "# keep\nLABEL=x /x ext4\ntmpfs /t tmpfs\n";
        let adapted = adapt(text, |_| false).unwrap();
        assert_eq!(
            adapted,
            "# keep\nLABEL=x /x ext4 defaults,nofail,x-systemd.device-timeout=1s\ntmpfs /t tmpfs\n"
        );
        assert_eq!(adapt(&adapted, |_| false), None);
    }
}
