//! From a kernel with an initramfs to a machine: disks, overlay root, identity.
//!
//! ```text
//! initramfs            new root
//! /base    EROFS  ──┐
//! /upper   ext4   ──┴► overlay ── moved to /, entered by chroot; then /proc, /sys, /dev, /run …
//!   root, work         volumes/… are mounted over what must not lie on an overlay
//!   overlay.json       which base and which options it was made with
//! ```
//!
//! Everything after the chroot takes paths inside the new root, so that an image's symlinks lead
//! nowhere else. What the machine cannot do without is an error; the rest is a warning in the
//! report, since an image may be anything.

mod disks;
mod files;
mod identity;
mod mounts;
mod overlay;
mod root;
mod seed;
mod volumes;

pub use files::{ensure_directory, write_file};

/// The text of a small regular file of the image.
pub fn read_text(path: &std::path::Path) -> Option<String> {
    files::read_file(path).and_then(|text| String::from_utf8(text).ok())
}

use std::io;
use std::os::fd::OwnedFd;

use banger_protocol::agent::{AgentError, AgentErrorKind, BootConfig, BootReport, Init, Phase};
use banger_protocol::build::this_build;

use crate::agent::Machine;
use crate::{clock, processors, systemd};

/// A step that the machine cannot do without has failed.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("cannot {deed} {what}")]
    Io {
        deed: &'static str,
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("there is no disk with serial {0:?}")]
    NoDisk(String),
    #[error("the writable disk belongs to base {found}, this is {expected}")]
    BaseMismatch { found: String, expected: String },
    #[error("the writable disk was made with overlay options {found}, these are {expected}")]
    OptionsMismatch { found: String, expected: String },
    #[error("the writable disk holds a root that is not ours")]
    ForeignUpper,
    #[error("the image has no init")]
    NoInit,
    #[error("the image's init cannot be executed: {0}")]
    InitFailed(String),
}

impl BootError {
    pub fn io(deed: &'static str, what: impl Into<String>) -> impl FnOnce(io::Error) -> BootError {
        let what = what.into();
        move |source| BootError::Io { deed, what, source }
    }
}

impl From<BootError> for AgentError {
    fn from(error: BootError) -> Self {
        let kind = match &error {
            BootError::BaseMismatch { .. }
            | BootError::OptionsMismatch { .. }
            | BootError::ForeignUpper => AgentErrorKind::BaseMismatch,
            _ => AgentErrorKind::BootFailed,
        };
        let mut message = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        AgentError::new(kind, message)
    }
}

/// Phases so far, and what went wrong without stopping anything.
#[derive(Default)]
pub struct Progress {
    phases: Vec<Phase>,
    warnings: Vec<String>,
}

impl Progress {
    pub fn phase(&mut self, name: &str) {
        self.phases.push(Phase {
            name: name.to_owned(),
            end_us: clock::uptime_us(),
        });
    }

    pub fn warn(&mut self, message: String) {
        // A hostile image could have thousands of reasons.
        if self.warnings.len() < 32 {
            crate::log::warn(&message);
            self.warnings.push(message);
        }
    }

    /// Notes a failure that is none of the machine.
    pub fn tolerate<E: std::fmt::Display>(&mut self, deed: &str, result: Result<(), E>) {
        if let Err(error) = result {
            self.warn(format!("cannot {deed}: {error}"));
        }
    }
}

/// The machine of a process that the kernel started as /init.
pub struct InitMachine {
    progress: Option<Progress>,
    processors: Option<processors::Coming>,
}

impl InitMachine {
    pub fn new(progress: Progress, processors: Option<processors::Coming>) -> Self {
        InitMachine {
            progress: Some(progress),
            processors,
        }
    }
}

impl Machine for InitMachine {
    fn boot(&mut self, config: &BootConfig) -> Result<BootReport, AgentError> {
        let mut progress = self.progress.take().unwrap_or_default();
        progress.phase("hello");
        let mut init = None;
        let upper = enter(config, &mut progress)?;
        crate::shutdown::remember(upper, config.end_by_reset);
        if let Some(coming) = self.processors.take() {
            for (switch, error) in coming.wait() {
                progress.warn(format!("{}: {error}", switch.display()));
            }
            progress.phase("processors");
        }
        let wanted = match config.init {
            Init::Agent => None,
            Init::Image => Some(systemd::find_init().ok_or(BootError::NoInit)?),
            Init::Auto => systemd::find_init().filter(|path| systemd::is_systemd(path)),
        };
        if let Some(path) = wanted {
            systemd::prepare(&path, config.end_by_reset, &mut progress);
            crate::image_init::hand_over(&path).map_err(BootError::InitFailed)?;
            init = Some(path.into_os_string().into());
            progress.phase("init");
        } else {
            // Beside an image's init only the agent gets more than the kernel gives to all.
            crate::image_init::raise_limits();
        }
        Ok(BootReport {
            init,
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            build: this_build(),
            phases: progress.phases,
            warnings: progress.warnings,
        })
    }
}

/// Returns a directory of the writable disk, by which it can be reached from the new root.
fn enter(config: &BootConfig, progress: &mut Progress) -> Result<OwnedFd, BootError> {
    if let Some(time) = config.realtime_ns {
        progress.tolerate("set the clock", clock::set_realtime(time));
    }
    progress.tolerate(
        "add entropy",
        identity::add_entropy(config.entropy.as_bytes()),
    );
    let base = disks::find(&config.disks.base)?;
    let upper = disks::find(&config.disks.upper)?;
    disks::mount_base(&base)?;
    disks::mount_upper(&upper)?;
    progress.tolerate("grow the writable disk", disks::grow(&upper));
    progress.phase("disks");
    let upper = overlay::mount(&config.disks.base_digest)?;
    let modules = root::take_modules();
    progress.phase("overlay");
    root::switch()?;
    mounts::mount_all(progress)?;
    if let Some(modules) = modules {
        progress.tolerate("mount the kernel's modules", root::place_modules(&modules));
    }
    progress.phase("root");
    volumes::mount_all(&upper, &config.volumes, progress);
    progress.phase("volumes");
    identity::apply(config, progress);
    progress.phase("identity");
    Ok(upper)
}
