//! The real [`Host`]: directories, disks, cgroups and left-over VMM processes.
//!
//! ```text
//! vms/                   the daemon's, 0700
//!   templates/           see `template`
//!   ID/                  the daemon's, 0700: the VMM never looks here
//!     base kernel initramfs    hard links, so that deleting an image or a kernel takes nothing away
//!     upper              the disk
//!     main.* console.log vmm.log    what is kept for `vm logs`
//!     jail/              the VMM's, 0700: hard links to the four files, its sockets, its logs
//! ```
//!
//! Whoever has taken over a VMM may write into `jail`, so nothing there is followed, trusted or
//! opened by name without a check. Files shared between VMs are links to inodes of the daemon's,
//! which a VMM with a uid of its own can read and not write; where the daemon is an ordinary
//! user's, a VMM has that user's rights within its sandbox, and only the sandbox protects them.

use std::fs;
use std::io::{self, ErrorKind as IoErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use banger_host::cgroup::Cgroup;
use banger_host::files::{copy_contents, open_directory, remove_tree};
use banger_host::process::{self, Handle, Identity};
use banger_protocol::name::VmId;
use banger_vmm::jail_path;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustix::process::Signal;

use super::resources::{Host, HostError, Resource};
use super::template::{self, Templates};

/// How long a killed VMM process has to be gone.
const KILL_BOUND: Duration = Duration::from_secs(10);

/// Name of the jail below a VM's directory.
pub const JAIL: &str = "jail";

/// What is moved out of the jail before it goes.
const KEPT: [&str; 2] = [jail_path::CONSOLE_LOG, jail_path::VMM_LOG];

/// The host this daemon runs on.
pub struct RealHost {
    vms: PathBuf,
    templates: Templates,
}

impl RealHost {
    /// `vms` exists and is the daemon's own.
    ///
    /// # Errors
    /// The directory for templates cannot be made or swept.
    pub fn new(vms: PathBuf) -> io::Result<Arc<Self>> {
        let templates = vms.join("templates");
        match fs::DirBuilder::new().mode(0o700).create(&templates) {
            Ok(()) => {}
            Err(error) if error.kind() == IoErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let templates = Templates::new(templates);
        templates.sweep()?;
        Ok(Arc::new(RealHost { vms, templates }))
    }

    fn directory(&self, vm: &VmId) -> PathBuf {
        self.vms.join(vm.as_str())
    }

    async fn acquire_disk(&self, vm: &VmId, mib: u64, uid: Option<u32>) -> Result<(), HostError> {
        let template = self.templates.get(mib).await?;
        let upper = self.directory(vm).join(jail_path::UPPER);
        blocking(move || {
            let file =
                template::copy(&template, &upper).map_err(io_error("copy a disk to", &upper))?;
            if uid.is_some() {
                rustix::fs::fchown(
                    &file,
                    uid.map(rustix::fs::Uid::from_raw),
                    uid.map(rustix::fs::Gid::from_raw),
                )
                .map_err(|error| io_error("give away", &upper)(error.into()))?;
            }
            Ok(())
        })
        .await
    }
}

impl Host for RealHost {
    fn acquire<'a>(
        &'a self,
        vm: &'a VmId,
        resource: &'a Resource,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        let directory = self.directory(vm);
        async move {
            match resource.clone() {
                Resource::Directory {
                    base,
                    kernel,
                    initramfs,
                } => blocking(move || make_directory(&directory, &base, &kernel, &initramfs)).await,
                Resource::Disk { mib, uid } => self.acquire_disk(vm, mib, uid).await,
                Resource::Jail { uid, initramfs } => {
                    blocking(move || make_jail(&directory, uid, initramfs.as_deref())).await
                }
                // The note in the ledger is the claim.
                Resource::Uid { .. } => Ok(()),
                // The launcher makes and joins the cgroup, and becomes the VMM.
                Resource::Cgroup { .. } | Resource::Machine => Ok(()),
            }
        }
        .boxed()
    }

    fn release<'a>(
        &'a self,
        vm: &'a VmId,
        resource: &'a Resource,
    ) -> BoxFuture<'a, Result<(), HostError>> {
        let directory = self.directory(vm);
        async move {
            match resource.clone() {
                Resource::Directory { .. } => blocking(move || remove(&directory)).await,
                Resource::Uid { .. } => Ok(()),
                Resource::Disk { .. } => {
                    blocking(move || remove(&directory.join(jail_path::UPPER))).await
                }
                Resource::Jail { .. } => blocking(move || remove_jail(&directory)).await,
                Resource::Cgroup { name, directories } => {
                    blocking(move || remove_cgroup(&name, &directories)).await
                }
                Resource::Machine => end_machine(&directory.join(JAIL)).await,
            }
        }
        .boxed()
    }

    fn leftovers(&self) -> Result<Vec<VmId>, HostError> {
        let list = || -> io::Result<Vec<VmId>> {
            fs::read_dir(&self.vms)?
                .map(|entry| Ok(entry?.file_name()))
                .filter_map(|name| match name {
                    Ok(name) => name.to_str()?.parse().ok().map(Ok),
                    Err(error) => Some(Err(error)),
                })
                .collect()
        };
        list().map_err(io_error("list", &self.vms))
    }
}

fn io_error(deed: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HostError {
    let path = path.to_owned();
    move |source| HostError::Io { deed, path, source }
}

/// Runs what may wait for a disk off the async threads.
async fn blocking(
    work: impl FnOnce() -> Result<(), HostError> + Send + 'static,
) -> Result<(), HostError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(HostError::Other(format!("a host task failed: {error}"))))
}

fn make_private(path: &Path) -> Result<(), HostError> {
    fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(io_error("make", path))
}

fn make_directory(
    directory: &Path,
    base: &Path,
    kernel: &Path,
    initramfs: &Path,
) -> Result<(), HostError> {
    make_private(directory)?;
    for (from, name) in [
        (base, jail_path::BASE),
        (kernel, jail_path::KERNEL),
        (initramfs, jail_path::INITRAMFS),
    ] {
        pin(from, &directory.join(name))?;
    }
    Ok(())
}

/// A second name for a file, or a copy where the file systems differ or the links run out.
fn pin(from: &Path, to: &Path) -> Result<(), HostError> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                IoErrorKind::CrossesDevices
                    | IoErrorKind::TooManyLinks
                    | IoErrorKind::PermissionDenied
            ) =>
        {
            let copy = || -> io::Result<()> {
                let source = fs::File::open(from)?;
                let target = fs::File::create_new(to)?;
                copy_contents(&source, &target)?;
                target.set_permissions(fs::Permissions::from_mode(0o444))
            };
            copy().map_err(io_error("copy", from))
        }
        Err(error) => Err(io_error("link", from)(error)),
    }
}

fn make_jail(
    directory: &Path,
    uid: Option<u32>,
    initramfs: Option<&Path>,
) -> Result<(), HostError> {
    if let Some(newer) = initramfs {
        let pinned = directory.join(jail_path::INITRAMFS);
        let next = directory.join("initramfs.next");
        remove(&next)?;
        pin(newer, &next)?;
        fs::rename(&next, &pinned).map_err(io_error("replace", &pinned))?;
        // Renaming one name of a file over another name of it leaves both.
        remove(&next)?;
    }
    for name in KEPT {
        remove(&directory.join(name))?;
    }
    let jail = directory.join(JAIL);
    make_private(&jail)?;
    for name in [
        jail_path::BASE,
        jail_path::KERNEL,
        jail_path::INITRAMFS,
        jail_path::UPPER,
    ] {
        let from = directory.join(name);
        fs::hard_link(&from, jail.join(name)).map_err(io_error("link", &from))?;
    }
    if uid.is_some() {
        std::os::unix::fs::chown(&jail, uid, uid).map_err(io_error("give away", &jail))?;
    }
    Ok(())
}

/// Keeps the logs of the latest run and removes the rest. What the VMM put in a log's place (a
/// link, another name of some file) is not kept.
fn remove_jail(directory: &Path) -> Result<(), HostError> {
    let jail = directory.join(JAIL);
    for name in KEPT {
        let log = jail.join(name);
        let plain = fs::symlink_metadata(&log)
            .is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 1);
        if plain {
            let kept = directory.join(name);
            fs::rename(&log, &kept).map_err(io_error("keep", &log))?;
        }
    }
    remove(&jail)
}

/// Removes a file or a tree, whoever writes to it; absence is success.
fn remove(path: &Path) -> Result<(), HostError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(HostError::Other(format!("{} has no name", path.display())));
    };
    let parent = match open_directory(parent) {
        Ok(parent) => parent,
        Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("open the directory of", path)(error)),
    };
    remove_tree(parent, Path::new(name)).map_err(io_error("remove", path))
}

fn remove_cgroup(name: &str, directories: &[PathBuf]) -> Result<(), HostError> {
    let failed = |deed, source: Box<dyn std::error::Error + Send + Sync>| HostError::Cgroup {
        deed,
        name: name.to_owned(),
        source,
    };
    if let Some(cgroup) = Cgroup::open(name).map_err(|error| failed("look for", error.into()))? {
        cgroup
            .kill(KILL_BOUND)
            .map_err(|error| failed("empty", error.into()))?;
        cgroup
            .remove()
            .map_err(|error| failed("remove", error.into()))?;
    }
    for directory in directories {
        match fs::remove_dir(directory) {
            Ok(()) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    IoErrorKind::NotFound | IoErrorKind::NotADirectory
                ) => {}
            Err(error) => return Err(failed("remove", error.into())),
        }
    }
    Ok(())
}

/// Kills the VMM whose working directory is the jail: its launcher enters it first thing, and the
/// VMM never leaves. Files in the jail could lie about a process id; this cannot.
async fn end_machine(jail: &Path) -> Result<(), HostError> {
    let place = match fs::metadata(jail) {
        Ok(metadata) => (metadata.dev(), metadata.ino()),
        Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("look at", jail)(error)),
    };
    for identity in vmms_in(place).map_err(io_error("read", Path::new("/proc")))? {
        let pid = identity.pid;
        let signal = io_error("signal the process of", jail);
        let Some(process) =
            Handle::open(identity).map_err(io_error("open the process of", jail))?
        else {
            continue;
        };
        if !process.signal(Signal::KILL).map_err(signal)? {
            continue;
        }
        tracing::info!(pid, jail = %jail.display(), "killed a VMM that was left");
        match tokio::time::timeout(KILL_BOUND, process.ended()).await {
            Ok(ended) => ended.map_err(io_error("wait for the process of", jail))?,
            Err(_) => return Err(HostError::Undying { pid }),
        }
        // Where it is a child of ours, nobody else waits for it; otherwise this does nothing.
        let _ = process.reap();
    }
    Ok(())
}

/// VMMs, and their launchers, that are in a directory. A shell in which somebody looks around there
/// is none: see [`banger_vmm::jail`] for what each of those is.
fn vmms_in(place: (u64, u64)) -> io::Result<Vec<Identity>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        // A process that ends meanwhile, or that is not ours to look at, is not in the jail.
        let here = |pid| {
            fs::metadata(format!("/proc/{pid}/cwd"))
                .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == place)
        };
        if !here(pid) {
            continue;
        }
        if let Some(identity) = Identity::of(pid)?
            && is_launched(pid)?
            && here(pid)
        {
            found.push(identity);
        }
    }
    Ok(found)
}

fn is_launched(pid: i32) -> io::Result<bool> {
    let alone = process::stat(pid)?.is_some_and(|stat| stat.session == pid && stat.terminal == 0);
    Ok(alone && process::has_no_new_privs(pid)?)
}

/// The directories a cgroup of this name has, or would have, below this process's own.
pub(super) fn cgroup_directories(name: &str) -> Vec<PathBuf> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    banger_host::cgroup::discover(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
        .into_iter()
        .map(|hierarchy| hierarchy.own.join(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::hex12;
    use std::process::{Command, Stdio};

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    struct Fixture {
        root: tempfile::TempDir,
        host: Arc<RealHost>,
        vm: VmId,
    }

    impl Fixture {
        fn new() -> Fixture {
            let root = tempfile::tempdir().unwrap();
            for name in ["base", "kernel", "initramfs", "initramfs2"] {
                fs::write(root.path().join(name), name).unwrap();
            }
            let vms = root.path().join("vms");
            fs::create_dir(&vms).unwrap();
            Fixture {
                host: RealHost::new(vms).unwrap(),
                root,
                vm: hex12(),
            }
        }

        fn directory_resource(&self) -> Resource {
            Resource::Directory {
                base: self.root.path().join("base"),
                kernel: self.root.path().join("kernel"),
                initramfs: self.root.path().join("initramfs"),
            }
        }

        fn directory(&self) -> PathBuf {
            self.host.directory(&self.vm)
        }

        async fn with_jail(&self, jail: &Resource) {
            self.host
                .acquire(&self.vm, &self.directory_resource())
                .await
                .unwrap();
            fs::write(self.directory().join("upper"), b"disk").unwrap();
            self.host.acquire(&self.vm, jail).await.unwrap();
        }
    }

    fn jail() -> Resource {
        Resource::Jail {
            uid: None,
            initramfs: None,
        }
    }

    #[tokio::test]
    async fn deleting_image_and_kernel_takes_nothing_from_a_vm() {
        let fixture = Fixture::new();
        fixture.with_jail(&jail()).await;
        for name in ["base", "kernel", "initramfs"] {
            fs::remove_file(fixture.root.path().join(name)).unwrap();
        }
        let jail = fixture.directory().join(JAIL);
        assert_eq!(names(&jail), ["base", "initramfs", "kernel", "upper"]);
        assert_eq!(fs::read(jail.join("base")).unwrap(), b"base");
        let mode = fs::metadata(&jail).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o700);
    }

    #[tokio::test]
    async fn a_newer_initramfs_takes_the_place_of_the_old() {
        let fixture = Fixture::new();
        let newer = fixture.root.path().join("initramfs2");
        let with_newer = Resource::Jail {
            uid: None,
            initramfs: Some(newer),
        };
        fixture.with_jail(&with_newer).await;
        for _ in 0..2 {
            let pinned = fixture.directory().join("initramfs");
            assert_eq!(fs::read(&pinned).unwrap(), b"initramfs2");
            assert_eq!(
                names(&fixture.directory()),
                ["base", "initramfs", "jail", "kernel", "upper"]
            );
            // Again, with the very same file.
            fixture
                .host
                .release(&fixture.vm, &with_newer)
                .await
                .unwrap();
            fixture
                .host
                .acquire(&fixture.vm, &with_newer)
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn logs_outlive_the_jail_but_links_do_not() {
        let fixture = Fixture::new();
        fixture.with_jail(&jail()).await;
        let directory = fixture.directory();
        fs::write(directory.join("jail/console.log"), b"hello").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", directory.join("jail/vmm.log")).unwrap();
        fixture.host.release(&fixture.vm, &jail()).await.unwrap();
        assert_eq!(
            names(&directory),
            ["base", "console.log", "initramfs", "kernel", "upper"]
        );
        assert_eq!(fs::read(directory.join("console.log")).unwrap(), b"hello");
        // The next run begins with empty logs.
        fixture.host.acquire(&fixture.vm, &jail()).await.unwrap();
        assert!(!directory.join("console.log").exists());
    }

    #[tokio::test]
    async fn releasing_twice_or_what_never_was_succeeds() {
        let fixture = Fixture::new();
        let all = [
            fixture.directory_resource(),
            Resource::Uid { uid: 1 },
            Resource::Disk { mib: 16, uid: None },
            jail(),
            Resource::Cgroup {
                name: "banger-test/x".to_owned(),
                directories: vec![fixture.root.path().join("gone")],
            },
            Resource::Machine,
        ];
        for resource in all.iter().rev() {
            fixture.host.release(&fixture.vm, resource).await.unwrap();
        }
        fixture.with_jail(&jail()).await;
        for resource in all.iter().rev().chain(all.iter().rev()) {
            fixture.host.release(&fixture.vm, resource).await.unwrap();
        }
        assert_eq!(names(&fixture.host.vms), ["templates"]);
    }

    #[tokio::test]
    async fn what_is_left_in_a_jail_is_killed_and_nothing_else() {
        let fixture = Fixture::new();
        fixture.with_jail(&jail()).await;
        let sleep = |words: &[&str], directory: &Path| {
            Command::new(words[0])
                .args(&words[1..])
                .args(["sleep", "60"])
                .current_dir(directory)
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        };
        let jail = fixture.directory().join(JAIL);
        let launched = ["setpriv", "--no-new-privs", "setsid"];
        let mut inside = sleep(&launched, &jail);
        let mut others = [
            sleep(&launched, &fixture.directory()),
            // Somebody looks around, from a container's shell or a session's first process.
            sleep(&["setpriv", "--no-new-privs"], &jail),
            sleep(&["setsid"], &jail),
        ];
        let is_sleep = |pid: u32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n")
        };
        for child in others.iter().chain([&inside]) {
            while !is_sleep(child.id()) {
                std::thread::yield_now();
            }
        }
        fixture
            .host
            .release(&fixture.vm, &Resource::Machine)
            .await
            .unwrap();
        // Its status may have been taken already; then there is nothing left to wait for.
        if let Ok(status) = inside.wait() {
            assert!(!status.success());
        }
        for other in &mut others {
            assert!(other.try_wait().unwrap().is_none(), "it must live on");
            other.kill().unwrap();
            other.wait().unwrap();
        }
    }

    #[tokio::test]
    async fn leftovers_are_the_directories_named_by_an_id() {
        let fixture = Fixture::new();
        assert_eq!(fixture.host.leftovers().unwrap(), []);
        fixture
            .host
            .acquire(&fixture.vm, &fixture.directory_resource())
            .await
            .unwrap();
        assert_eq!(
            fixture.host.leftovers().unwrap(),
            std::slice::from_ref(&fixture.vm)
        );
    }
}
