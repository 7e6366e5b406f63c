//! Kernels, modules, packages and apt repositories made by hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub const VERSION: &str = "6.1.0-1-fake-amd64";

/// Bytes that pass for an uncompressed kernel of this version.
pub fn vmlinux(version: &str) -> Vec<u8> {
    let text = format!("Linux version {version} (gcc) #1 SMP\n\0");
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    out.extend(2u16.to_le_bytes());
    out.extend(62u16.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend([0u64, 64, 0].iter().flat_map(|w| w.to_le_bytes()));
    out.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    out.extend(1u32.to_le_bytes());
    out.extend(5u32.to_le_bytes());
    for word in [120u64, 0, 0, text.len() as u64, text.len() as u64, 4] {
        out.extend(word.to_le_bytes());
    }
    out.extend(text.as_bytes());
    out
}

/// An object file with a `.modinfo` section and nothing else.
pub fn module(name: &str, depends: &str, version: &str) -> Vec<u8> {
    let modinfo =
        format!("name={name}\0depends={depends}\0alias=fake-{name}\0vermagic={version} SMP\0");
    let names = b"\0.modinfo\0.shstrtab\0";
    let modinfo_at = 64u64;
    let names_at = modinfo_at + modinfo.len() as u64;
    let sections_at = (names_at + names.len() as u64).next_multiple_of(8);
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    out.extend(1u16.to_le_bytes());
    out.extend(62u16.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend([0u64, 0, sections_at].iter().flat_map(|w| w.to_le_bytes()));
    out.extend(0u32.to_le_bytes());
    for half in [64u16, 0, 0, 64, 3, 2] {
        out.extend(half.to_le_bytes());
    }
    out.extend(modinfo.as_bytes());
    out.extend(names);
    out.resize(sections_at as usize, 0);
    let mut section = |name: u32, kind: u32, offset: u64, size: u64| {
        out.extend(name.to_le_bytes());
        out.extend(kind.to_le_bytes());
        for word in [0, 0, offset, size] {
            out.extend(u64::to_le_bytes(word));
        }
        out.extend([0; 8]);
        out.extend([1u64, 0].iter().flat_map(|w| w.to_le_bytes()));
    };
    section(0, 0, 0, 0);
    section(1, 1, modinfo_at, modinfo.len() as u64);
    section(10, 3, names_at, names.len() as u64);
    out
}

pub fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A directory as `make modules_install` and a copied image give it.
pub fn kernel_tree(root: &Path, version: &str) {
    write(
        &root.join(format!("boot/vmlinuz-{version}")),
        vmlinux(version),
    );
    let modules = root.join(format!("lib/modules/{version}"));
    for (path, name, depends) in [
        ("kernel/drivers/virtio/virtio.ko", "virtio", ""),
        (
            "kernel/drivers/virtio/virtio_pci.ko",
            "virtio_pci",
            "virtio",
        ),
        ("kernel/drivers/net/virtio_net.ko", "virtio_net", "virtio"),
        ("kernel/fs/overlayfs/overlay.ko", "overlay", ""),
        ("kernel/sound/snd.ko", "snd", ""),
    ] {
        write(&modules.join(path), module(name, depends, version));
    }
    write(
        &modules.join("modules.builtin"),
        "kernel/a/virtio_console.ko\nkernel/a/virtio_blk.ko\nkernel/a/erofs.ko\nkernel/a/ext4.ko\n",
    );
}

pub fn tar_of(directory: &Path) -> Vec<u8> {
    let output = Command::new("tar")
        .args(["-c", "-C"])
        .arg(directory)
        .arg(".")
        .output()
        .unwrap();
    assert!(output.status.success());
    output.stdout
}

pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub fn installed(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs
        .iter()
        .filter(|program| banger_host::command::find(program).is_none())
        .collect();
    if !missing.is_empty() {
        eprintln!("skipped: {missing:?}");
    }
    missing.is_empty()
}

/// A flat apt repository on this disk, signed or not.
pub struct Repository {
    pub directory: PathBuf,
    gnupg: Option<PathBuf>,
}

impl Repository {
    pub fn new(root: &Path) -> Repository {
        let directory = root.join("repository");
        fs::create_dir_all(&directory).unwrap();
        Repository {
            directory,
            gnupg: None,
        }
    }

    /// Adds the meta package and the kernel's own.
    pub fn add_kernel(&self, version: &str) {
        let kernel = format!("linux-image-{version}");
        let tree = self.directory.join("../tree");
        kernel_tree(&tree, version);
        self.add_package(&tree, &kernel, "");
        let empty = self.directory.join("../empty");
        fs::create_dir_all(&empty).unwrap();
        self.add_package(
            &empty,
            "linux-image-fake-amd64",
            &format!("Depends: {kernel} (= 1-1)\n"),
        );
    }

    fn add_package(&self, tree: &Path, name: &str, depends: &str) {
        write(
            &tree.join("DEBIAN/control"),
            format!(
                "Package: {name}\nVersion: 1-1\nArchitecture: amd64\n\
                 Maintainer: x <x@x>\n{depends}Description: x\n"
            ),
        );
        run(Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zxz", "-z1", "--build"])
            .arg(tree)
            .arg(self.directory.join(format!("{name}.deb"))));
        fs::remove_dir_all(tree).unwrap();
    }

    /// Writes the indexes of what is there now.
    pub fn index(&self) {
        let sha256 = |path: &Path| {
            run(Command::new("sha256sum").arg(path))
                .split(' ')
                .next()
                .unwrap()
                .to_owned()
        };
        let mut packages = String::new();
        let mut files: Vec<_> = fs::read_dir(&self.directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "deb"))
            .collect();
        files.sort();
        for path in files {
            packages += &run(Command::new("dpkg-deb").arg("--field").arg(&path));
            packages += &format!(
                "Filename: ./{}\nSize: {}\nSHA256: {}\n\n",
                path.file_name().unwrap().to_string_lossy(),
                path.metadata().unwrap().len(),
                sha256(&path)
            );
        }
        let path = self.directory.join("Packages");
        fs::write(&path, &packages).unwrap();
        let date = run(Command::new("date").args(["-u", "+%a, %d %b %Y %H:%M:%S UTC"]));
        fs::write(
            self.directory.join("Release"),
            format!(
                "Date: {date}SHA256:\n {} {} Packages\n",
                sha256(&path),
                packages.len()
            ),
        )
        .unwrap();
    }

    /// Signs `Release` with a key made for it; gives the keyring.
    pub fn sign(&mut self, root: &Path) -> PathBuf {
        let home = root.join("g");
        if self.gnupg.is_none() {
            fs::create_dir_all(&home).unwrap();
            fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700))
                .unwrap();
            self.gnupg = Some(home.clone());
            run(self
                .gpg()
                .args(["--passphrase", "", "--quick-generate-key", "x@x", "ed25519"]));
        }
        run(self
            .gpg()
            .args(["--yes", "--clearsign", "--output"])
            .arg(self.directory.join("InRelease"))
            .arg(self.directory.join("Release")));
        let keyring = root.join("keyring.gpg");
        run(self
            .gpg()
            .args(["--yes", "--output"])
            .arg(&keyring)
            .args(["--export", "x@x"]));
        keyring
    }

    fn gpg(&self) -> Command {
        let mut command = Command::new("gpg");
        command
            .args(["--batch", "--quiet", "--homedir"])
            .arg(self.gnupg.as_ref().unwrap());
        command
    }

    pub fn source(&self, options: &str) -> String {
        format!("deb [{options}] file:{} ./\n", self.directory.display())
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        // gpg leaves its agent running.
        if let Some(home) = &self.gnupg {
            let _ = Command::new("gpgconf")
                .arg("--homedir")
                .arg(home)
                .args(["--kill", "all"])
                .status();
        }
    }
}
