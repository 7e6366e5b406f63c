//! What a machine configuration must be before any of it reaches a command line or a file.

use std::collections::BTreeSet;

use crate::{MachineConfig, VmmError, jail_path};

/// Longest kernel command line x86 accepts, with room for the driver's own words.
const KERNEL_ARGUMENTS_LIMIT: usize = 1536;

pub(crate) fn check(config: &MachineConfig, max_vcpus: u32) -> Result<(), VmmError> {
    let refuse = |text: String| Err(VmmError::InvalidConfig(text));
    if !is_word(&config.id, 32, |byte| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit()
    }) {
        return refuse(format!("id {:?} is not 1 to 32 of a-z, 0-9", config.id));
    }
    if !config.directory.is_absolute() {
        return refuse(format!(
            "{} is not an absolute path",
            config.directory.display()
        ));
    }
    if config.vcpus == 0 || config.vcpus > max_vcpus {
        return refuse(format!("{} vcpus are not 1 to {max_vcpus}", config.vcpus));
    }
    if config.memory_mib < 64 || config.memory_mib > 1 << 24 {
        return refuse(format!(
            "{} MiB of memory are not 64 MiB to 16 TiB",
            config.memory_mib
        ));
    }
    for word in &config.kernel_arguments {
        // A quote would swallow the words after it; anything not printable has no use there.
        if word.is_empty()
            || !word
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'"')
        {
            return refuse(format!(
                "{word:?} cannot be a word of a kernel command line"
            ));
        }
    }
    let length: usize = config
        .kernel_arguments
        .iter()
        .map(|word| word.len() + 1)
        .sum();
    if length > KERNEL_ARGUMENTS_LIMIT {
        return refuse(format!(
            "kernel arguments of {length} bytes are longer than {KERNEL_ARGUMENTS_LIMIT}"
        ));
    }
    check_disks(config)
}

fn check_disks(config: &MachineConfig) -> Result<(), VmmError> {
    let refuse = |text: String| Err(VmmError::InvalidConfig(text));
    // q35 has 31 slots on its root bus and some are taken.
    if config.disks.len() > 16 {
        return refuse(format!("{} disks are more than 16", config.disks.len()));
    }
    let mut serials = BTreeSet::new();
    let mut files = BTreeSet::new();
    for disk in &config.disks {
        let serial = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !is_word(&disk.serial, 20, serial) {
            return refuse(format!(
                "disk serial {:?} is not 1 to 20 of a-z, 0-9, -",
                disk.serial
            ));
        }
        let file = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !is_word(&disk.file, 64, file) || disk.file.starts_with(['.', '-']) {
            return refuse(format!(
                "{:?} is not a file name inside the jail directory",
                disk.file
            ));
        }
        if is_reserved(&disk.file) {
            return refuse(format!(
                "{:?} cannot be a disk: the name has another use",
                disk.file
            ));
        }
        if !serials.insert(&disk.serial) || !files.insert(&disk.file) {
            return refuse(format!("disk {:?} or its file is given twice", disk.serial));
        }
    }
    Ok(())
}

fn is_reserved(file: &str) -> bool {
    [
        jail_path::KERNEL,
        jail_path::INITRAMFS,
        jail_path::AGENT_SOCKET,
        jail_path::API_SOCKET,
        jail_path::CONSOLE_SOCKET,
        jail_path::CONSOLE_LOG,
        jail_path::VMM_LOG,
        jail_path::VMM_FIFO,
        jail_path::MEMORY,
        jail_path::PROCESS,
    ]
    .contains(&file)
}

fn is_word(text: &str, limit: usize, allowed: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.len() <= limit && text.bytes().all(allowed)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{Accelerator, Disk, JailConfig, MemoryBacking};

    pub(crate) fn example() -> MachineConfig {
        MachineConfig {
            id: "0abc".into(),
            directory: "/run/banger/vm/0abc".into(),
            accelerator: Accelerator::Tcg,
            vcpus: 2,
            memory_mib: 512,
            memory: MemoryBacking::Anonymous,
            kernel_arguments: vec![],
            disks: vec![
                Disk {
                    serial: "base".into(),
                    file: "base".into(),
                    read_only: true,
                },
                Disk {
                    serial: "upper".into(),
                    file: "upper".into(),
                    read_only: false,
                },
            ],
            jail: JailConfig {
                uid: None,
                kvm_gid: None,
                cgroup: None,
                max_file_size: None,
            },
        }
    }

    #[test]
    fn a_good_one_passes() {
        check(&example(), 8).unwrap();
    }

    #[test]
    fn each_bad_field_is_named() {
        type Spoil = fn(&mut MachineConfig);
        let cases: [(&str, Spoil); 18] = [
            ("id \"\"", |c| c.id.clear()),
            ("id \"a,b\"", |c| c.id = "a,b".into()),
            ("id \"A\"", |c| c.id = "A".into()),
            ("absolute", |c| c.directory = "vm".into()),
            ("0 vcpus", |c| c.vcpus = 0),
            ("9 vcpus", |c| c.vcpus = 9),
            ("63 MiB", |c| c.memory_mib = 63),
            ("18446744073709551615 MiB", |c| c.memory_mib = u64::MAX),
            ("\"\" cannot", |c| c.kernel_arguments = vec![String::new()]),
            ("cannot be a word", |c| {
                c.kernel_arguments = vec!["a b".into()]
            }),
            ("cannot be a word", |c| {
                c.kernel_arguments = vec!["a\"b".into()]
            }),
            ("cannot be a word", |c| {
                c.kernel_arguments = vec!["é".into()]
            }),
            ("longer than", |c| {
                c.kernel_arguments = vec!["x".repeat(1536)]
            }),
            ("serial", |c| c.disks[0].serial = "x".repeat(21)),
            ("serial", |c| c.disks[0].serial = "a,b".into()),
            ("not a file name", |c| c.disks[0].file = "../base".into()),
            ("another use", |c| c.disks[0].file = "kernel".into()),
            ("twice", |c| c.disks[0].serial = "upper".into()),
        ];
        for (expected, spoil) in cases {
            let mut config = example();
            spoil(&mut config);
            let error = check(&config, 8).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let mut config = example();
        config.disks = vec![config.disks[0].clone(); 17];
        assert!(check(&config, 8).is_err());
    }
}
