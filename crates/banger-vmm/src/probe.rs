//! Where a kernel can run: on KVM, or translated.
//!
//! Flags in /proc/cpuinfo and the mere existence of `/dev/kvm` prove nothing: there are hosts whose
//! device opens and answers, and on which no ordinary kernel ever boots. So the kernel in question
//! is booted once under KVM, bounded in time, and the verdict is kept.
//!
//! ```text
//! device? ── no ─────────────────────────────────► TCG, with the reason and a remedy
//!   │ usable
//! verdict known? ── yes ─────────────────────────► KVM or TCG
//!   │ no
//! boot, bounded ── answers ──────────────────────► KVM, kept
//!              ├── ends ─────────────────────────► TCG, kept
//!              ├── cannot start ─────────────────► TCG, kept until the host boots or /dev/kvm
//!              │                                   changes owner or mode
//!              ├── hangs ── again, 4 times longer ► TCG, kept as long
//!              └── was not possible ─────────────► TCG this time
//! ```
//!
//! A sign of life is an answer to the question that the caller asks on the agent's pipe: a guest that
//! merely prints has not shown that it runs.
//!
//! Limits: one probe at a time; the machine has no disks and little memory.

pub mod device;
mod verdicts;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use banger_host::check::{Check, Status};
use banger_host::files::{open_directory, private_directory, remove_tree};
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::jail::end_leftover;
use crate::{
    Accelerator, JailConfig, Machine, MachineConfig, MemoryBacking, Vmm, VmmError, jail_path,
};
use device::KvmDevice;
use verdicts::Verdicts;
pub use verdicts::{Key, Outcome};

/// Memory of the probe's machine in MiB.
const MEMORY_MIB: u64 = 256;
/// How much longer than the first the second try may take.
const SECOND_TRY: u32 = 4;
/// Name of the probe's directory below the one it is given.
const DIRECTORY: &str = "machine";

/// What a user may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// KVM where it works.
    Auto,
    Only(Accelerator),
}

/// Where a kernel runs, and why there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rung {
    pub accelerator: Accelerator,
    /// One sentence.
    pub reason: String,
    /// What would make it faster, where something would.
    pub remedy: Option<String>,
}

/// What has to be done to know the rung.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Rung(Rung),
    Probe,
}

/// Decides from what is known.
pub fn choose(wish: Wish, device: &KvmDevice, verdict: Option<&Outcome>) -> Decision {
    let rung = |accelerator, reason: String, remedy: Option<&str>| {
        Decision::Rung(Rung {
            accelerator,
            reason,
            remedy: remedy.map(str::to_owned),
        })
    };
    match (wish, device, verdict) {
        (Wish::Only(accelerator), ..) => {
            rung(accelerator, "the configuration says so".to_owned(), None)
        }
        (Wish::Auto, KvmDevice::Usable, None) => Decision::Probe,
        (Wish::Auto, KvmDevice::Usable, Some(Outcome::Boots { ms })) => rung(
            Accelerator::Kvm,
            format!("a probe booted on KVM in {ms} ms"),
            None,
        ),
        (Wish::Auto, KvmDevice::Usable, Some(outcome)) => {
            let reason = match outcome {
                Outcome::Hangs { after_ms } => format!(
                    "/dev/kvm answers, but this kernel did not boot on it within {after_ms} ms"
                ),
                Outcome::Ends { reason } => {
                    format!("/dev/kvm answers, but this kernel does not boot on it: {reason}")
                }
                Outcome::Refused { reason } => {
                    format!("/dev/kvm answers, but no machine starts on it: {reason}")
                }
                Outcome::Boots { .. } => String::new(),
            };
            let remedy = if reason.contains("Permission denied") {
                "let a group own /dev/kvm that is not root's (chgrp kvm, chmod 660): the VMM keeps it"
            } else {
                "use a host with its own KVM, or one whose nested virtualisation is complete"
            };
            rung(Accelerator::Tcg, reason, Some(remedy))
        }
        (Wish::Auto, KvmDevice::Absent, _) => rung(
            Accelerator::Tcg,
            "there is no /dev/kvm".to_owned(),
            Some(
                "switch virtualisation on in the firmware and load kvm_intel or kvm_amd, or allow nested virtualisation",
            ),
        ),
        (Wish::Auto, KvmDevice::Forbidden, _) => rung(
            Accelerator::Tcg,
            "this user may not open /dev/kvm".to_owned(),
            Some(
                "add the user to the group that owns /dev/kvm (usually kvm), log in again, and stop bangerd",
            ),
        ),
        (Wish::Auto, KvmDevice::Broken { reason }, _) => rung(
            Accelerator::Tcg,
            format!("/dev/kvm is not usable: {reason}"),
            Some("look at the kernel's log for kvm"),
        ),
    }
}

/// What is known, as doctor tells it.
fn judge(wish: Wish, device: &KvmDevice, verdict: Option<&Outcome>) -> Check {
    const NAME: &str = "accelerator";
    const TRANSLATED: &str = "VMs run translated: with all features, and 10 to 50 times slower";
    let auto = choose(Wish::Auto, device, verdict);
    match (wish, auto) {
        (Wish::Auto, Decision::Probe) => Check::pass(
            NAME,
            "/dev/kvm answers; the first VM shows whether a kernel boots on it",
        ),
        (Wish::Auto, Decision::Rung(rung)) if rung.accelerator == Accelerator::Kvm => {
            Check::pass(NAME, format!("VMs run on KVM: {}", rung.reason))
        }
        (Wish::Auto, Decision::Rung(rung)) => Check::problem(
            NAME,
            Status::Warn,
            rung.reason,
            TRANSLATED,
            rung.remedy.unwrap_or_default(),
        ),
        (Wish::Only(Accelerator::Kvm), Decision::Rung(rung))
            if rung.accelerator == Accelerator::Tcg =>
        {
            // Of one kernel once, perhaps when the host was busy; a device that is none is for all.
            let (status, consequence) = match device {
                KvmDevice::Usable => (Status::Warn, "VMs may hang, or not start"),
                _ => (Status::Fail, "no VM will start"),
            };
            Check::problem(
                NAME,
                status,
                format!("the configuration says KVM, and {}", rung.reason),
                consequence,
                rung.remedy.unwrap_or_default() + "; or set accelerator = \"auto\"",
            )
        }
        (Wish::Only(Accelerator::Kvm), _) => Check::pass(
            NAME,
            "VMs run on KVM: the configuration says so, and /dev/kvm answers",
        ),
        (Wish::Only(Accelerator::Tcg), _) => {
            let mut check = Check::pass(NAME, format!("{TRANSLATED}; the configuration says so"));
            check.details.push(
                "accelerator = \"auto\" uses KVM where a kernel really boots on it".to_owned(),
            );
            check
        }
    }
}

/// A kernel to ask about.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    pub key: Key,
}

/// Asks the guest for a sign of life on its agent's pipe; true where it came.
pub type SignOfLife = Arc<dyn Fn(Arc<dyn Machine>) -> BoxFuture<'static, bool> + Send + Sync>;

/// Finds out, and remembers.
pub struct Prober {
    vmm: Arc<dyn Vmm>,
    sign_of_life: SignOfLife,
    /// Holds the verdicts and the probe's machine.
    directory: PathBuf,
    bound: Duration,
    jail: JailConfig,
    device: fn() -> KvmDevice,
    turn: Mutex<()>,
}

impl Prober {
    /// `directory` is made when it is needed, on the file system of the kernels, and belongs to the
    /// prober; `bound` is the first try's.
    pub fn new(
        vmm: Arc<dyn Vmm>,
        sign_of_life: SignOfLife,
        directory: PathBuf,
        bound: Duration,
        jail: JailConfig,
    ) -> Self {
        Prober {
            vmm,
            sign_of_life,
            directory,
            bound,
            jail,
            device: device::look,
            turn: Mutex::new(()),
        }
    }

    /// The same with another opinion of the device than [`device::look`]'s: for tests, which
    /// must not depend on the host's.
    pub fn with_device(mut self, device: fn() -> KvmDevice) -> Self {
        self.device = device;
        self
    }

    /// Where this kernel runs; boots it where that is not known. Whatever goes wrong with the
    /// probe itself ends in TCG, with the reason.
    pub async fn rung(&self, wish: Wish, candidate: &Candidate) -> Rung {
        if let Decision::Rung(rung) =
            choose(wish, &(self.device)(), self.known(&candidate.key).as_ref())
        {
            return rung;
        }
        let _turn = self.turn.lock().await;
        let outcome = match self.known(&candidate.key) {
            Some(outcome) => outcome,
            None => self.probe(candidate).await,
        };
        match choose(wish, &(self.device)(), Some(&outcome)) {
            Decision::Rung(rung) => rung,
            // Not reached: a verdict was given.
            Decision::Probe => Rung {
                accelerator: Accelerator::Tcg,
                reason: "the probe came to no verdict".to_owned(),
                remedy: None,
            },
        }
    }

    /// What doctor says, without booting anything.
    pub fn check(&self, wish: Wish) -> Check {
        judge(wish, &(self.device)(), self.verdicts().latest().as_ref())
    }

    fn verdicts(&self) -> Verdicts {
        Verdicts::load(&self.directory.join("verdicts.json"))
    }

    fn known(&self, key: &Key) -> Option<Outcome> {
        self.verdicts().find(key)
    }

    async fn probe(&self, candidate: &Candidate) -> Outcome {
        let mut attempt = self.attempt(candidate, self.bound).await;
        if matches!(attempt, Ok(Outcome::Hangs { .. })) {
            attempt = self.attempt(candidate, self.bound * SECOND_TRY).await;
        }
        tracing::info!(?attempt, kernel = %candidate.key.guest_kernel, "probed KVM");
        let outcome = match attempt {
            Ok(outcome) => outcome,
            // Says nothing about KVM, so it is not remembered.
            Err(reason) => return Outcome::Refused { reason },
        };
        let kept = self
            .verdicts()
            .remember(candidate.key.clone(), outcome.clone());
        if let Err(error) = kept {
            tracing::warn!(%error, "the verdict on KVM is not kept");
        }
        outcome
    }

    /// One boot; an error is the probe's own.
    async fn attempt(&self, candidate: &Candidate, bound: Duration) -> Result<Outcome, String> {
        // A daemon killed in the middle of a probe leaves a machine that nobody else knows of.
        end_leftover(&self.directory.join(DIRECTORY), self.jail.cgroup.as_deref())
            .await
            .map_err(|error| with_source(&error))?;
        let directory = self
            .prepare(candidate)
            .map_err(|error| format!("the probe cannot be prepared: {error}"))?;
        let outcome = self.boot(self.config(directory), bound).await;
        if let Err(error) = self.clear() {
            tracing::warn!(%error, "the probe's directory stays");
        }
        outcome
    }

    async fn boot(&self, config: MachineConfig, bound: Duration) -> Result<Outcome, String> {
        let start = Instant::now();
        let hangs = Ok(Outcome::Hangs {
            after_ms: milliseconds(bound),
        });
        let machine = match timeout(bound, self.vmm.launch(config)).await {
            Ok(Ok(machine)) => machine,
            Err(_) | Ok(Err(VmmError::Timeout { .. })) => return hangs,
            Ok(Err(error @ VmmError::Launch { .. })) => {
                return Ok(Outcome::Refused {
                    reason: with_source(&error),
                });
            }
            Ok(Err(error)) => return Err(with_source(&error)),
        };
        let left = bound.saturating_sub(start.elapsed());
        let answer = (self.sign_of_life)(machine.clone());
        let watched = async {
            tokio::select! {
                true = answer => Outcome::Boots { ms: milliseconds(start.elapsed()) },
                exit = machine.wait() => Outcome::Ends {
                    reason: format!("its machine ended ({exit:?})"),
                },
            }
        };
        let outcome = timeout(left, watched).await.map_or(hangs, Ok);
        if let Err(error) = machine.kill().await {
            tracing::warn!(%error, "the probe's machine did not end");
        }
        outcome
    }

    fn prepare(&self, candidate: &Candidate) -> std::io::Result<PathBuf> {
        let other = |error: banger_host::files::PrivateDirError| std::io::Error::other(error);
        private_directory(&self.directory).map_err(other)?;
        self.clear()?;
        let directory = self.directory.join(DIRECTORY);
        private_directory(&directory).map_err(other)?;
        for (from, name) in [
            (&candidate.kernel, jail_path::KERNEL),
            (&candidate.initramfs, jail_path::INITRAMFS),
        ] {
            place(from, &directory.join(name))?;
        }
        Ok(directory)
    }

    /// Removes what this or an earlier probe left.
    fn clear(&self) -> std::io::Result<()> {
        match remove_tree(open_directory(&self.directory)?, Path::new(DIRECTORY)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn config(&self, directory: PathBuf) -> MachineConfig {
        MachineConfig {
            id: "probe".to_owned(),
            directory,
            accelerator: Accelerator::Kvm,
            vcpus: 1,
            memory_mib: MEMORY_MIB,
            memory: MemoryBacking::Anonymous,
            kernel_arguments: Vec::new(),
            disks: Vec::new(),
            jail: self.jail.clone(),
        }
    }
}

fn place(from: &Path, to: &Path) -> std::io::Result<()> {
    match std::fs::hard_link(from, to) {
        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
            std::fs::copy(from, to).map(drop)
        }
        result => result,
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn with_source(error: &VmmError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
