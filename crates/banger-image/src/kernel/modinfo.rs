//! What a kernel module says of itself: its `.modinfo` section, NUL-terminated `key=value` strings.

use object::{Object, ObjectSection};

use super::KernelError;

/// Largest `.modinfo` read; the largest of Debian's has 60 KiB (amdgpu's aliases).
const MAX_MODINFO: usize = 1 << 20;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModInfo {
    /// With `_` for `-`, as the kernel calls it.
    pub name: String,
    pub depends: Vec<String>,
    pub softdep_pre: Vec<String>,
    pub softdep_post: Vec<String>,
    pub aliases: Vec<String>,
    /// The kernel version it was built for (first word of `vermagic`).
    pub built_for: Option<String>,
}

/// Module names are the same with `-` and `_`.
pub fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The module name that a file is found under: `virtio-rng.ko.xz` is `virtio_rng`.
pub fn name_of_file(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let stem = [".ko", ".ko.gz", ".ko.xz", ".ko.zst"]
        .iter()
        .find_map(|suffix| file.strip_suffix(suffix))?;
    (!stem.is_empty()).then(|| canonical(stem))
}

/// Reads an uncompressed module.
pub fn read(path: &str, module: &[u8]) -> Result<ModInfo, KernelError> {
    let bad = |reason: String| KernelError::BadModule {
        path: path.to_owned(),
        reason,
    };
    let file = object::File::parse(module).map_err(|e| bad(e.to_string()))?;
    if file.architecture() != object::Architecture::X86_64
        || file.kind() != object::ObjectKind::Relocatable
    {
        return Err(bad("it is not an x86-64 object file".into()));
    }
    let section = file
        .section_by_name(".modinfo")
        .ok_or_else(|| bad("it has no .modinfo section".into()))?;
    let data = section.data().map_err(|e| bad(e.to_string()))?;
    if data.len() > MAX_MODINFO {
        return Err(bad("its .modinfo section is too large".into()));
    }
    let mut info = parse(data);
    if info.name.is_empty() {
        // Modules before Linux 4.13 do not name themselves.
        info.name = name_of_file(path).ok_or_else(|| bad("it has no name".into()))?;
    }
    Ok(info)
}

/// Reads the bytes of a `.modinfo` section. Strings of other forms are skipped.
pub fn parse(section: &[u8]) -> ModInfo {
    let mut info = ModInfo::default();
    for entry in section.split(|&b| b == 0) {
        let Ok(text) = std::str::from_utf8(entry) else {
            continue;
        };
        let Some((key, value)) = text.split_once('=') else {
            continue;
        };
        match key {
            "name" => info.name = canonical(value),
            "depends" => info.depends.extend(
                value
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(canonical),
            ),
            "softdep" => softdep(value, &mut info),
            // Whatever becomes a line of modules.alias must stay one line.
            "alias" if !value.contains(char::is_whitespace) => info.aliases.push(value.into()),
            "vermagic" => info.built_for = value.split_whitespace().next().map(str::to_owned),
            _ => {}
        }
    }
    info
}

/// `pre: a b post: c`.
fn softdep(value: &str, info: &mut ModInfo) {
    let mut list = None;
    for word in value.split_whitespace() {
        match word {
            "pre:" => list = Some(&mut info.softdep_pre as &mut Vec<String>),
            "post:" => list = Some(&mut info.softdep_post),
            name => {
                if let Some(list) = &mut list {
                    list.push(name.to_owned());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_section_is_read() {
        let section = b"license=GPL\0\0softdep=pre: crc32c x post: y\0alias=fs-ext4\0alias=two words\0\
            depends=jbd2,mbcache,a-b,\0name=ext4\0vermagic=6.1.0-56-cloud-amd64 SMP mod_unload \0junk";
        let info = parse(section);
        assert_eq!(
            info,
            ModInfo {
                name: "ext4".into(),
                depends: vec!["jbd2".into(), "mbcache".into(), "a_b".into()],
                softdep_pre: vec!["crc32c".into(), "x".into()],
                softdep_post: vec!["y".into()],
                aliases: vec!["fs-ext4".into()],
                built_for: Some("6.1.0-56-cloud-amd64".into()),
            }
        );
    }

    #[test]
    fn file_names() {
        for (file, name) in [
            (
                "kernel/drivers/char/hw_random/virtio-rng.ko",
                Some("virtio_rng"),
            ),
            ("a.ko.xz", Some("a")),
            ("a.ko.zst", Some("a")),
            ("a.ko.gz", Some("a")),
            ("a.ko.bz2", None),
            ("modules.dep", None),
            (".ko", None),
        ] {
            assert_eq!(name_of_file(file).as_deref(), name, "{file}");
        }
    }

    #[test]
    fn what_is_no_module_is_refused() {
        for bytes in [&b""[..], b"\x7fELF", b"#!/bin/sh\n"] {
            assert!(matches!(
                read("x.ko", bytes),
                Err(KernelError::BadModule { .. })
            ));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            parse(&bytes);
            let _ = read("x.ko", &bytes);
        }
    }
}
