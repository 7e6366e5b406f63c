//! Who this machine is: names, resolver, random numbers, loopback.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use banger_protocol::agent::BootConfig;

use super::Progress;
use super::files::{read_file, update_file};

/// Writes what the image cannot know.
pub fn apply(config: &BootConfig, progress: &mut Progress) {
    let hostname = &config.hostname;
    progress.tolerate(
        "set the host name",
        rustix::system::sethostname(hostname.as_bytes()).map_err(io::Error::from),
    );
    let mut update = |path: &str, text: &[u8]| {
        progress.tolerate(&format!("write {path}"), update_file(Path::new(path), text));
    };
    update("/etc/hostname", format!("{hostname}\n").as_bytes());
    let hosts = read_file(Path::new("/etc/hosts")).unwrap_or_default();
    update("/etc/hosts", &with_host(&hosts, hostname));
    if !config.resolv_conf.is_empty() {
        let text = config.resolv_conf.join("\n") + "\n";
        update("/etc/resolv.conf", text.as_bytes());
    }
    if let Some(id) = &config.machine_id {
        update("/etc/machine-id", format!("{id}\n").as_bytes());
    }
    progress.tolerate("bring up the loopback interface", loopback_up());
}

/// The hosts file with what must be in it, and all that is.
fn with_host(text: &[u8], hostname: &str) -> Vec<u8> {
    let mut text = text.to_vec();
    let needed = [
        (
            "localhost",
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned(),
        ),
        (hostname, format!("127.0.1.1\t{hostname}\n")),
    ];
    for (name, line) in needed {
        if !has_host(&text, name) {
            if text.last().is_some_and(|last| *last != b'\n') {
                text.push(b'\n');
            }
            text.extend_from_slice(line.as_bytes());
        }
    }
    text
}

fn has_host(text: &[u8], name: &str) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| {
        let line = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        line.split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty())
            .skip(1)
            .any(|word| word == name.as_bytes())
    })
}

/// `_IOW('R', 0x03, int[2])`
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;

/// As much as the kernel's pool can use.
const MAX_ENTROPY: usize = 512;

/// What the kernel takes: counts in bits and bytes, then the bytes.
#[repr(C)]
struct Entropy {
    bits: libc::c_int,
    bytes: libc::c_int,
    data: [u8; MAX_ENTROPY],
}

/// Gives the kernel random bytes of the host's, which it may count on.
pub fn add_entropy(bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let length = bytes.len().min(MAX_ENTROPY);
    let mut entropy = Entropy {
        bits: length as libc::c_int * 8,
        bytes: length as libc::c_int,
        data: [0; MAX_ENTROPY],
    };
    entropy.data[..length].copy_from_slice(&bytes[..length]);
    let random = File::options().write(true).open("/dev/random")?;
    // SAFETY: the call reads the structure, which holds as many bytes as it says.
    let result = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const entropy) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn loopback_up() -> io::Result<()> {
    // SAFETY: plain system calls on a structure of our own, whose name ends with zeros.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = OwnedFd::from_raw_fd(socket);
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_keep_what_they_have() {
        let ours =
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tweb\n";
        let cases = [
            ("", ours.to_owned()),
            (ours, ours.to_owned()),
            (
                "127.0.0.1 localhost # web",
                "127.0.0.1 localhost # web\n127.0.1.1\tweb\n".to_owned(),
            ),
            (
                "10.0.0.1  a web b\n::1 localhost\n",
                "10.0.0.1  a web b\n::1 localhost\n".to_owned(),
            ),
            ("web\n", format!("web\n{ours}")),
        ];
        for (before, after) in cases {
            let text = with_host(before.as_bytes(), "web");
            assert_eq!(String::from_utf8(text).unwrap(), after, "{before:?}");
        }
    }
}
