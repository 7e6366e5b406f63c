//! Debian's own kernel, whole: from the mirror through the store and the initramfs to a boot.
//! One test, since the package has 26 MB and is fetched once per run.
#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is wrong, and not only in its `#[test]` function"
)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use banger_host::command::find;
use banger_image::apt::{AptError, host_sources};
use banger_image::catalog::Catalog;
use banger_image::initramfs::{self, Agent};
use banger_image::kernel::pull::{PullRequest, pull};
use banger_image::kernel::{Kernel, KernelError, KernelStore};
use banger_image::progress::Progress;

fn needs(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|p| find(p).is_none()).collect();
    if !missing.is_empty() {
        eprintln!("skipped: {missing:?}");
    }
    missing.is_empty()
}

#[tokio::test]
async fn debians_kernel_boots_with_its_modules() {
    if !needs(&["apt-get"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = KernelStore::new(dir.path().join("kernels"));
    let catalog = Catalog::load(None).unwrap();
    let request = PullRequest {
        entry: catalog.kernel("debian-6.1-cloud").unwrap().clone(),
        name: None,
        replace: false,
        imported_at: "2026-01-01T00:00:00Z".into(),
    };
    if host_sources().await.is_err() {
        eprintln!("skipped: apt sources");
        return;
    }
    let kernel = match pull(&store, request, &Progress::none()).await {
        Ok(pulled) => pulled.kernel,
        Err(KernelError::Package {
            source: AptError::NotOffered { package, detail },
            ..
        }) => {
            eprintln!("skipped: Debian mirror with {package} ({detail})");
            return;
        }
        Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
    };
    let manifest = &kernel.manifest;
    assert!(manifest.kernel_version.starts_with("6.1."));
    assert!(manifest.pvh);
    assert!(
        manifest
            .boot_modules
            .iter()
            .any(|m| m.ends_with("/erofs.ko"))
    );
    modprobe_finds_modules(dir.path(), &kernel);
    boots(dir.path(), &kernel);
}

/// kmod reads our indexes as if depmod had written them.
fn modprobe_finds_modules(root: &Path, kernel: &Kernel) {
    if !needs(&["modprobe"]) {
        return;
    }
    let version = &kernel.manifest.kernel_version;
    let modules = root.join("guest/lib/modules");
    std::fs::create_dir_all(&modules).unwrap();
    std::os::unix::fs::symlink(kernel.modules(), modules.join(version)).unwrap();
    let would_load = |words: &[&str]| {
        let output = Command::new("modprobe")
            .args([
                "--dry-run",
                "--show-depends",
                "--ignore-install",
                "-C",
                "/dev/null",
                "-d",
            ])
            .arg(root.join("guest"))
            .args(["-S", version])
            .args(words)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| line.trim().rsplit('/').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(would_load(&["overlay"]), ["overlay.ko"]);
    assert_eq!(would_load(&["bridge"]), ["llc.ko", "stp.ko", "bridge.ko"]);
    // By alias, with a pattern, as the kernel asks: a virtio network card.
    let network = would_load(&["virtio:d00000001v00001AF4"]);
    assert_eq!(network.last().unwrap(), "virtio_net.ko");
    let nat = would_load(&["nft-chain-1-nat"]);
    assert_eq!(nat.last().unwrap(), "nft_chain_nat.ko");
    // Built in: nothing to load, and no error.
    assert_eq!(would_load(&["ext4"]), ["builtin ext4"]);
}

/// The uncompressed image boots, every boot module loads in the given order, and another by modprobe.
fn boots(root: &Path, kernel: &Kernel) {
    if !needs(&["qemu-system-x86_64", "busybox", "cpio"]) {
        return;
    }
    let busybox = find("busybox").unwrap();
    // A directory of programs is more than our initramfs holds, so a second archive follows it:
    // the kernel unpacks both, the later over the earlier.
    let agent_path = root.join("agent");
    std::fs::write(
        &agent_path,
        b"#!/bin/busybox sh\nexec /bin/busybox sh /run.sh\n",
    )
    .unwrap();
    let agent = Agent::open(&agent_path).unwrap();
    let cache = root.join("initramfs");
    let path = initramfs::ensure(&cache, &agent, kernel).unwrap();
    assert_eq!(initramfs::ensure(&cache, &agent, kernel).unwrap(), path);
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 1);

    let listing = Command::new("cpio")
        .args(["-t", "--quiet"])
        .stdin(std::fs::File::open(&path).unwrap())
        .output()
        .unwrap();
    assert!(listing.status.success());
    let listing = String::from_utf8(listing.stdout).unwrap();
    for name in ["init", "dev/console", "modules.order"] {
        assert!(listing.lines().any(|line| line == name), "{name}");
    }

    let extra = root.join("extra");
    std::fs::create_dir_all(extra.join("bin")).unwrap();
    std::fs::copy(busybox, extra.join("bin/busybox")).unwrap();
    std::fs::write(
        extra.join("run.sh"),
        "export PATH=/bin\nb=/bin/busybox\n$b mkdir -p /proc /sys\n\
         $b mount -t proc proc /proc; $b mount -t sysfs sys /sys\n\
         echo \"up $($b cut -d' ' -f1 /proc/uptime)\"\n\
         n=0\nwhile read m; do $b insmod $m || { echo BAD $m; $b poweroff -f; }; n=$((n+1)); done < /modules.order\n\
         echo \"loaded $n at $($b cut -d' ' -f1 /proc/uptime)\"\n\
         $b modprobe nft_chain_nat && $b modprobe bridge && echo modprobe fine\n\
         for f in overlay erofs ext4; do $b grep -qw $f /proc/filesystems && echo has $f; done\n\
         echo END; $b poweroff -f\n",
    )
    .unwrap();
    let archive = Command::new("sh")
        .args(["-c", "find . | cpio -o -H newc --quiet"])
        .current_dir(&extra)
        .output()
        .unwrap();
    assert!(archive.status.success());
    let initrd = root.join("initrd");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend(archive.stdout);
    std::fs::write(&initrd, bytes).unwrap();

    let started = Instant::now();
    let child = Command::new("timeout")
        .arg("120")
        .arg("qemu-system-x86_64")
        .args([
            "-M",
            "q35",
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-m",
            "256",
            "-nodefaults",
        ])
        .args([
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
        ])
        .arg("-kernel")
        .arg(kernel.vmlinux())
        .arg("-initrd")
        .arg(&initrd)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let console = String::from_utf8_lossy(&child.stdout).into_owned();
    let took: Duration = started.elapsed();
    for line in [
        "END",
        "modprobe fine",
        "has overlay",
        "has erofs",
        "has ext4",
    ] {
        assert!(
            console.lines().any(|l| l.trim() == line),
            "{line} after {took:?}: {console} {}",
            String::from_utf8_lossy(&child.stderr)
        );
    }
    let count = kernel.manifest.boot_modules.len();
    assert!(console.contains(&format!("loaded {count} at")), "{console}");
    if std::env::var_os("BANGER_TEST_NUMBERS").is_some() {
        eprintln!(
            "{console}\nwhole boot {took:?}; vmlinux {} initramfs {} bytes; {} boot modules, {} in all, {} bytes",
            kernel.manifest.size,
            path.metadata().unwrap().len(),
            count,
            kernel.manifest.module_count,
            kernel.manifest.modules_size,
        );
    }
}
