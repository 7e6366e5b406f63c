//! One daemon in a directory of its own, and the CLI that speaks to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::run::Run;
use crate::{fixture, leaks};

/// Under emulation a boot takes seconds, and two tests share two cores.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct Host {
    directory: tempfile::TempDir,
    /// Runs the daemon and the CLI as this user.
    user: Option<u32>,
    /// The state is a file system of its own.
    mounted: bool,
}

impl Host {
    /// A daemon's directory with the fixture's kernel and images. The daemon starts when the CLI
    /// first needs it.
    #[expect(
        clippy::new_without_default,
        reason = "a host is a machine, not a value"
    )]
    pub fn new() -> Host {
        Host::with_config("")
    }

    pub fn with_config(config: &str) -> Host {
        Host::build(config, None, true)
    }

    /// As an ordinary user, which needs root to become one.
    pub fn as_user(uid: u32) -> Host {
        Host::build("", Some(uid), true)
    }

    /// A daemon whose state lies on a file system of so many MiB, which needs root.
    pub fn on_a_small_disk(mib: u64) -> Host {
        let mut host = Host::build("", None, false);
        fs::create_dir(host.state()).unwrap();
        nix::mount::mount(
            Some("tmpfs"),
            &host.state(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(format!("size={mib}m,mode=700").as_str()),
        )
        .unwrap();
        host.mounted = true;
        fixture::copy_into(host.root(), false);
        host
    }

    /// Nothing pulled, nothing imported.
    pub fn empty() -> Host {
        Host::build("", None, false)
    }

    pub(crate) fn build(config: &str, user: Option<u32>, seeded: bool) -> Host {
        let directory = tempfile::Builder::new()
            .prefix("banger-e2e-")
            .tempdir()
            .unwrap();
        // The probe would try a device that is known not to work here, in every test again.
        let config = format!("accelerator = \"tcg\"\n{config}");
        fs::write(directory.path().join("config.toml"), config).unwrap();
        if seeded {
            // What is handed to another user must not be the fixture's own.
            fixture::copy_into(directory.path(), user.is_none());
        }
        if let Some(uid) = user {
            let owner = format!("{uid}:{uid}");
            Run::of(
                Command::new("chown")
                    .arg("-R")
                    .arg(owner)
                    .arg(directory.path()),
                b"",
            )
            .ok();
        }
        Host {
            directory,
            user,
            mounted: false,
        }
    }

    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    pub fn state(&self) -> PathBuf {
        self.root().join("state")
    }

    /// The CLI with these arguments, not yet run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let programs = programs();
        let mut command = match self.user {
            None => Command::new(programs.join("banger")),
            Some(uid) => {
                let mut command = Command::new("setpriv");
                command
                    .args([format!("--reuid={uid}"), format!("--regid={uid}")])
                    .args(["--clear-groups", "--"])
                    .arg(programs.join("banger"))
                    .env("HOME", self.root());
                command
            }
        };
        command
            .args(arguments)
            .env("BANGER_ROOT", self.root())
            .env_remove("XDG_RUNTIME_DIR")
            .current_dir(self.root());
        command
    }

    pub fn banger(&self, arguments: &[&str]) -> Run {
        self.banger_with(arguments, b"")
    }

    pub fn banger_with(&self, arguments: &[&str], stdin: &[u8]) -> Run {
        Run::of(&mut self.command(arguments), stdin)
    }

    /// Creates and starts a VM from a fixture image.
    pub fn vm(&self, image: &str, name: &str) {
        self.banger(&["vm", "create", image, "--name", name]).ok();
    }

    /// Runs a shell line in a VM.
    pub fn sh(&self, vm: &str, line: &str) -> Run {
        self.banger(&["vm", "exec", vm, "--", "/bin/sh", "-c", line])
    }

    /// Whether the VM runs and the line succeeds in it.
    pub fn sh_if_running(&self, vm: &str, line: &str) -> bool {
        self.vm_names().iter().any(|name| name == vm)
            && self.state_of(vm) == "running"
            && self.sh(vm, line).status.success()
    }

    pub fn show(&self, vm: &str) -> Value {
        self.banger(&["--json", "vm", "show", vm]).ok().json()
    }

    pub fn state_of(&self, vm: &str) -> String {
        self.show(vm)["state"].as_str().unwrap().to_owned()
    }

    /// Waits until the VM says it is in this state.
    #[track_caller]
    pub fn wait_for_state(&self, vm: &str, state: &str) {
        wait_until(&format!("{vm} is {state}"), || self.state_of(vm) == state);
    }

    /// The daemon's status; it is started if need be.
    pub fn daemon(&self) -> Value {
        self.banger(&["daemon", "start"]).ok();
        self.banger(&["--json", "daemon", "status"]).ok().json()
    }

    pub fn daemon_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.daemon()["pid"].as_i64().unwrap()).unwrap())
    }

    /// Process id of the VM's VMM.
    pub fn vmm_pid(&self, vm: &str) -> Pid {
        Pid::from_raw(i32::try_from(self.show(vm)["machine"]["pid"].as_i64().unwrap()).unwrap())
    }

    /// Kills the daemon as a crash would, and waits until it is gone. The next command of the CLI
    /// starts another.
    pub fn crash_daemon(&self) {
        let pid = self.daemon_pid();
        kill(pid, Signal::SIGKILL).unwrap();
        wait_until("the daemon is gone", || !alive(pid));
    }

    /// Names of what lies where VMs lie, besides the empty disks from which theirs are made.
    pub fn vm_directories(&self) -> Vec<String> {
        fs::read_dir(self.state().join("vms"))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name != "templates")
            .collect()
    }

    pub fn vm_names(&self) -> Vec<String> {
        let list = self.banger(&["--json", "vm", "list"]).ok().json();
        list["vms"]
            .as_array()
            .unwrap()
            .iter()
            .map(|vm| vm["name"].as_str().unwrap().to_owned())
            .collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end();
        if self.mounted {
            let _ = nix::mount::umount2(&self.state(), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

impl Host {
    /// Ends all that runs, and unless the test has failed looks for what was left behind.
    fn end(&mut self) {
        if thread::panicking() {
            // Nothing may panic now, so only what cannot: end what runs.
            let _ = self.command(&["daemon", "start"]).output();
            if let Ok(list) = self.command(&["--json", "vm", "list"]).output()
                && let Ok(list) = serde_json::from_slice::<Value>(&list.stdout)
            {
                for vm in list["vms"].as_array().into_iter().flatten() {
                    let name = vm["name"].as_str().unwrap_or_default();
                    let _ = self.command(&["vm", "delete", name]).output();
                }
            }
            let _ = self.command(&["daemon", "stop"]).output();
            return;
        }
        let names = self.vm_names();
        let instance = self.daemon()["instance"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let deleted: Vec<Run> = names
            .iter()
            .map(|name| self.banger(&["vm", "delete", name]))
            .collect();
        let stopped = self.banger(&["daemon", "stop"]);
        for run in deleted {
            run.ok();
        }
        stopped.ok();
        let left = leaks::find(self.root(), &instance);
        assert!(left.is_empty(), "left behind: {left:#?}");
    }
}

/// A zombie is gone: only its parent's `wait` is missing.
pub fn alive(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| !rest.starts_with(" Z"))
    })
}

#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < PATIENCE,
            "not so after {PATIENCE:?}: {what}"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

/// Directory of `banger` and `bangerd`.
pub fn programs() -> PathBuf {
    std::env::var_os("BANGER_TEST_PROGRAMS").map_or_else(
        || {
            let test = std::env::current_exe().unwrap();
            test.ancestors().nth(2).unwrap().to_owned()
        },
        PathBuf::from,
    )
}
