//! The initramfs: the agent as `/init`, a kernel's modules, and nothing of any VM.
//!
//! ```text
//! /init                     the agent
//! /dev/console              so that the agent has stdout before it mounts devtmpfs
//! /lib/modules/VERSION/…    every module kept of the kernel, and modprobe's indexes
//! /modules.order            absolute paths of the boot modules, one a line, in load order
//! ```
//!
//! The agent loads `/modules.order` before it mounts anything, and then bind-mounts `/lib/modules`
//! into the new root, so that the guest's own modprobe finds the rest.
//!
//! One file serves all VMs of one kernel and one agent: it is kept as `initramfs/KEY`, where KEY is
//! the digest of what goes into it, so that a lookup reads nothing but the name. It is not
//! compressed: the guest would pay for that at each boot, and the page cache holds one copy anyway.

pub mod cpio;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::kernel::{Kernel, KernelError};
use cpio::{Content, Entry};

/// Part of the key: raised when the layout above changes.
const LAYOUT: u32 = 1;

/// The guest agent's binary.
#[derive(Clone, Debug)]
pub struct Agent {
    pub path: PathBuf,
    pub digest: Digest,
}

impl Agent {
    /// Reads the binary once, to know what it is.
    ///
    /// # Errors
    /// It cannot be read, or needs a dynamic linker.
    pub fn open(path: impl Into<PathBuf>) -> Result<Agent, KernelError> {
        let path = path.into();
        let bytes = std::fs::read(&path).map_err(KernelError::io("read", &path))?;
        if needs_linker(&bytes) {
            return Err(KernelError::DynamicAgent {
                path: path.display().to_string(),
            });
        }
        let digest = Digest::of(&bytes);
        Ok(Agent { path, digest })
    }
}

/// Whether the kernel would ask a dynamic linker to start it (`PT_INTERP`).
fn needs_linker(program: &[u8]) -> bool {
    let headers = elf::FileHeader64::<object::Endianness>::parse(program).and_then(|header| {
        let endian = header.endian()?;
        Ok((endian, header.program_headers(endian, program)?))
    });
    headers.is_ok_and(|(endian, headers)| {
        headers
            .iter()
            .any(|header| header.p_type(endian) == elf::PT_INTERP)
    })
}

/// What the VMM driver carries the guest link on; it decides which modules are loaded at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// QEMU.
    VirtioSerial,
    /// Firecracker.
    Vsock,
}

/// The modules to load before anything is mounted, in order.
fn load_order(kernel: &Kernel, link: Link) -> impl Iterator<Item = &String> {
    let vsock = match link {
        Link::VirtioSerial => &[][..],
        Link::Vsock => &kernel.manifest.vsock_modules,
    };
    kernel.manifest.boot_modules.iter().chain(vsock)
}

/// The file name of the initramfs of this agent and kernel.
pub fn key(agent: &Digest, kernel: &Kernel, link: Link) -> Digest {
    let manifest = &kernel.manifest;
    let mut hash = Sha256::new();
    hash.update(LAYOUT.to_le_bytes());
    hash.update(agent.as_bytes());
    for text in [&manifest.kernel_version, &manifest.modules_digest]
        .into_iter()
        .chain(load_order(kernel, link))
    {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    Digest::from_bytes(hash.finalize().into())
}

/// As [`ensure_for`], for a link on virtio-serial.
pub fn ensure(cache: &Path, agent: &Agent, kernel: &Kernel) -> Result<PathBuf, KernelError> {
    ensure_for(cache, agent, kernel, Link::VirtioSerial)
}

/// The path of the initramfs in `cache`, which is made where it is not there yet. Blocking.
pub fn ensure_for(
    cache: &Path,
    agent: &Agent,
    kernel: &Kernel,
    link: Link,
) -> Result<PathBuf, KernelError> {
    let path = cache.join(key(&agent.digest, kernel, link).hex());
    if path.is_file() {
        return Ok(path);
    }
    std::fs::create_dir_all(cache).map_err(KernelError::io("create", cache))?;
    let archive = cpio::build(&entries(agent, kernel, link)?)?;
    let write = || {
        let mut file = tempfile::Builder::new()
            .prefix(STAGING_PREFIX)
            .tempfile_in(cache)?;
        file.write_all(&archive)?;
        file.as_file().sync_all()?;
        // The VMM's own user reads it.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(mode)?;
        // Another thread that made the same bytes meanwhile is simply replaced.
        file.persist(&path).map_err(|e| e.error)?;
        std::io::Result::Ok(())
    };
    write().map_err(KernelError::io("write", &path))?;
    Ok(path)
}

/// Prefix of files that are not yet whole.
const STAGING_PREFIX: &str = ".new-";

/// Removes what a killed process left half-written; for the daemon's start.
pub fn sweep(cache: &Path) -> Result<(), KernelError> {
    let entries = match std::fs::read_dir(cache) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(KernelError::io("read", cache)(e)),
    };
    for entry in entries.flatten() {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(STAGING_PREFIX)
        {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(KernelError::io("remove", &path))?;
        }
    }
    Ok(())
}

fn entries(agent: &Agent, kernel: &Kernel, link: Link) -> Result<Vec<Entry>, KernelError> {
    let version = &kernel.manifest.kernel_version;
    let init = std::fs::read(&agent.path).map_err(KernelError::io("read", &agent.path))?;
    if Digest::of(&init) != agent.digest {
        // Replaced under us by an upgrade; a new daemon will come with it.
        return Err(KernelError::io("read", &agent.path)(std::io::Error::other(
            "it changed since the daemon started",
        )));
    }
    let mut entries = vec![
        Entry::directory("dev"),
        Entry::device("dev/console", 5, 1, 0o600),
        Entry::device("dev/null", 1, 3, 0o666),
        Entry::file("init", 0o755, init),
    ];
    let root = kernel.modules();
    let prefix = format!("lib/modules/{version}");
    let mut directories = std::collections::BTreeSet::new();
    for relative in kernel.module_files()? {
        let path = root.join(&relative);
        let name = format!("{prefix}/{relative}");
        let mut at = 0;
        while let Some(slash) = name[at..].find('/') {
            at += slash;
            if directories.insert(name[..at].to_owned()) {
                entries.push(Entry::directory(&name[..at]));
            }
            at += 1;
        }
        let data = std::fs::read(&path).map_err(KernelError::io("read", &path))?;
        entries.push(Entry {
            name,
            mode: 0o644,
            content: Content::File(data),
        });
    }
    let order: String = load_order(kernel, link)
        .map(|module| format!("/{prefix}/{module}\n"))
        .collect();
    entries.push(Entry::file("modules.order", 0o644, order.into_bytes()));
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_needs_a_linker_is_refused() {
        // This test itself is one.
        let own = std::env::current_exe().unwrap();
        assert!(matches!(
            Agent::open(own),
            Err(KernelError::DynamicAgent { .. })
        ));
        for other in [&b""[..], b"\x7fELF", b"#!/bin/sh\n"] {
            assert!(!needs_linker(other));
        }
    }
}
