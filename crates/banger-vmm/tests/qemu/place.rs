//! Jail directories, drivers, and what is asked about processes from outside.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use banger_host::cgroup::{Cgroup, Limits};
use banger_host::process::Identity;
use banger_vmm::jail::Launcher;
use banger_vmm::qemu::{Qemu, QemuConfig};
use banger_vmm::{
    Accelerator, JailConfig, Machine, MachineConfig, MachineRecord, MemoryBacking, Vmm, jail_path,
};

use crate::guest::{self, Deed};

/// Arguments of this program's other faces.
pub const LAUNCHER: &str = "launcher";
pub const DAEMON: &str = "daemon";

/// Longest anything of a healthy machine takes on a busy host.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// A number no other test has, of this process or another that runs now.
fn own_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Process ids of one host differ; 64 is more than the tests of one process that need one.
    std::process::id() * 64 + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Makes a machine's directory with a guest in it.
pub struct Place {
    root: tempfile::TempDir,
    number: u32,
}

impl Place {
    pub fn new(deeds: &[Deed]) -> Self {
        let place = Self {
            root: tempfile::tempdir().unwrap(),
            number: own_number(),
        };
        std::fs::create_dir(place.directory()).unwrap();
        place.write(jail_path::KERNEL, &guest::kernel(deeds));
        place.write(jail_path::INITRAMFS, b"nothing the guest reads");
        place
    }

    pub fn directory(&self) -> PathBuf {
        self.root.path().join("jail")
    }

    /// A user id nobody on this host has.
    pub fn uid(&self) -> u32 {
        300_000 + self.number % 200_000
    }

    pub fn cgroup(&self) -> String {
        format!("banger-vmm-test-{}", self.number)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.directory().join(name), bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        let bytes = std::fs::read(self.directory().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn config(&self) -> MachineConfig {
        MachineConfig {
            id: format!("t{}", self.number),
            directory: self.directory(),
            accelerator: Accelerator::Tcg,
            vcpus: 1,
            memory_mib: 64,
            memory: MemoryBacking::Anonymous,
            kernel_arguments: Vec::new(),
            disks: Vec::new(),
            jail: JailConfig {
                uid: None,
                kvm_gid: None,
                cgroup: None,
                max_file_size: None,
            },
        }
    }

    pub async fn launch(&self) -> Arc<dyn Machine> {
        driver().launch(self.config()).await.unwrap()
    }

    /// Gives the directory and all in it to a user.
    pub fn give_to(&self, uid: u32) {
        let entries = std::fs::read_dir(self.directory()).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        for path in paths.chain([self.directory(), self.root.path().to_owned()]) {
            std::os::unix::fs::chown(path, Some(uid), Some(uid)).unwrap();
        }
    }
}

impl Drop for Place {
    /// Ends what a failed test left running: every VMM's working directory is its jail.
    fn drop(&mut self) {
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let cwd = std::fs::read_link(process.path().join("cwd"));
            let pid = process
                .file_name()
                .to_str()
                .and_then(|pid| pid.parse().ok());
            if let (Ok(cwd), Some(pid)) = (cwd, pid)
                && cwd.starts_with(self.root.path())
                && let Some(pid) = rustix::process::Pid::from_raw(pid)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// The driver as a daemon has it, this program being the launcher.
pub fn driver() -> Qemu {
    Qemu::new(settings())
}

pub fn settings() -> QemuConfig {
    QemuConfig::new(Launcher {
        program: "/proc/self/exe".into(),
        args: vec![LAUNCHER.to_owned()],
    })
}

pub async fn adopt(record: &MachineRecord) -> Option<Arc<dyn Machine>> {
    driver().adopt(record.clone()).await.unwrap()
}

pub fn identity(record: &MachineRecord) -> Identity {
    Identity {
        pid: record.pid,
        start_time: record.start_time,
    }
}

pub fn signal(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Looks again and again until it is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for a text on the console.
pub async fn console_shows(machine: &Arc<dyn Machine>, text: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let console = machine.console_tail(1000);
        if console.contains(text) {
            return;
        }
        assert!(Instant::now() < deadline, "no {text:?} in {console:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A field of `/proc/PID/status`.
pub fn status(process: &Path, field: &str) -> String {
    let text = std::fs::read_to_string(process.join("status")).unwrap();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value
        .unwrap_or_else(|| panic!("no {field} in {text}"))
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// Processes whose real user is this one. A zombie is its parent's affair, which for a killed
/// daemon's VMM is the host's init.
pub fn processes_of(uid: u32) -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let text = std::fs::read_to_string(path.join("status")).unwrap_or_default();
            let user = format!("Uid:\t{uid}\t");
            text.lines().any(|line| line.starts_with(&user)) && !text.contains("State:\tZ")
        })
        .collect()
}

pub fn cgroups_are_writable() -> bool {
    let name = format!("banger-vmm-test-{}", own_number());
    match Cgroup::create(&name, &Limits::default()) {
        Ok((Some(cgroup), _)) => cgroup.remove().is_ok(),
        _ => false,
    }
}

/// A daemon in a process of its own, killed when dropped.
pub struct Daemon {
    child: Child,
    pub record: MachineRecord,
}

impl Daemon {
    /// Starts one that launches the machine, as root's `uid` where that is given.
    pub fn launch(config: &MachineConfig, uid: Option<u32>) -> Self {
        use std::os::unix::process::CommandExt;

        let mut command = Command::new("/proc/self/exe");
        command
            .arg(DAEMON)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(uid) = uid {
            // Drops the supplementary groups as well.
            command.uid(uid).gid(uid);
        }
        let mut child = command.spawn().unwrap();
        let config = serde_json::to_vec(config).unwrap();
        child.stdin.take().unwrap().write_all(&config).unwrap();
        let mut answer = String::new();
        let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut stdout, &mut answer).unwrap();
        let record = serde_json::from_str(&answer)
            .unwrap_or_else(|error| panic!("the daemon answered {answer:?}: {error}"));
        Self { child, record }
    }

    /// As a crash or an out-of-memory kill ends it.
    pub fn kill(mut self) -> MachineRecord {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.record.clone()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The daemon's face: configuration on stdin, record on stdout, then it keeps the machine.
pub async fn daemon() -> ExitCode {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).unwrap();
    let config = serde_json::from_str(&text).unwrap();
    let machine = match driver().launch(config).await {
        Ok(machine) => machine,
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let record = serde_json::to_string(machine.record()).unwrap();
    println!("{record}");
    machine.wait().await;
    ExitCode::SUCCESS
}
