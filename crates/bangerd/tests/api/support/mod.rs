//! A whole daemon in this process, on a fake VMM with real guest links, and a client of its socket.

pub mod client;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use banger_host::layout::{Kind, Layout};
use banger_protocol::error::ApiError;
use banger_vmm::Accelerator;
use banger_vmm::fake::FakeVmm;
use bangerd::agent_program::AgentProgram;
use bangerd::config::Config;
use bangerd::daemon::{Daemon, Opened, Parts, Start};
use bangerd::vm::host::RealHost;
use bangerd::vm::{BootAdvice, VmDeps, Vms};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::vm_support::guest::{CountingVmm, Guests};
use crate::vm_support::host::FaultyHost;
use crate::vm_support::settings;
use client::Client;

pub const KERNEL: &str = "k-test";

/// What outlives a daemon.
pub struct World {
    pub root: tempfile::TempDir,
    pub guests: Guests,
    pub vmm: FakeVmm,
    pub config: String,
}

/// A daemon that serves.
pub struct Running {
    pub layout: Layout,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), ApiError>>,
}

impl World {
    pub fn new() -> World {
        let root = tempfile::tempdir().unwrap();
        let guests = Guests::default();
        let vmm = guests.vmm();
        let world = World {
            root,
            guests,
            vmm,
            // Nothing here may wait for a network.
            config: format!(
                "default_kernel = \"{KERNEL}\"\ndefault_image = \"tiny\"\nmemory = \"256M\"\n\
                 disk_size = \"16M\"\nregistry_attempts = 1\nregistry_timeout = \"2s\"\n"
            ),
        };
        std::fs::write(world.agent(), "not a real agent").unwrap();
        world.put_kernel();
        world
    }

    pub fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    fn agent(&self) -> PathBuf {
        self.root.path().join("agent")
    }

    /// A kernel that no machine could boot, as the fake ones need none.
    pub fn put_kernel(&self) {
        let directory = self.state().join("kernels").join(KERNEL);
        std::fs::create_dir_all(directory.join("modules")).unwrap();
        std::fs::write(directory.join("vmlinux"), "vmlinux").unwrap();
        let manifest = serde_json::json!({
            "name": KERNEL, "distro": "test", "arch": "x86_64", "kernel_version": "6.1.0-test",
            "sha256": "0".repeat(64), "size": 7, "source": "import:test",
            "imported_at": "2026-01-01T00:00:00Z", "pvh": true,
        });
        std::fs::write(
            directory.join("manifest.json"),
            serde_json::to_vec(&manifest).unwrap(),
        )
        .unwrap();
    }

    pub fn layout(&self) -> Layout {
        Layout {
            kind: Kind::Root,
            config_file: self.root.path().join("config.toml"),
            state: self.state(),
            runtime: self.root.path().join("run"),
        }
    }

    pub async fn open(&self) -> Result<Daemon, ApiError> {
        let guests = self.guests.clone();
        let vmm = self.vmm.clone();
        let parts = Parts {
            agent: Arc::new(AgentProgram::new(vec![self.agent()])),
            driver: Box::new(|| Box::pin(async { Vec::new() })),
            open_vms: Box::new(move |opened| Box::pin(open_vms(opened, vmm, guests))),
        };
        let config = Config::parse(&self.config, Path::new("config.toml"))?;
        Daemon::open(self.layout(), config, Start::default(), parts).await
    }

    pub async fn start(&self) -> Running {
        let daemon = self.open().await.unwrap();
        Running {
            layout: self.layout(),
            stop: daemon.stop(),
            serving: tokio::spawn(daemon.serve()),
        }
    }

    /// Files below a directory of the state, relative.
    pub fn files(&self, below: &str) -> Vec<String> {
        let mut files = Vec::new();
        let mut directories = vec![self.state().join(below)];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    let relative = path.strip_prefix(self.state()).unwrap();
                    files.push(relative.display().to_string());
                }
            }
        }
        files.sort();
        files
    }
}

async fn open_vms(opened: Opened, vmm: FakeVmm, guests: Guests) -> Result<Vms, ApiError> {
    let advisor = Arc::new(|_| {
        let advice: futures_util::future::BoxFuture<'static, _> = Box::pin(async {
            Ok(BootAdvice {
                accelerator: Accelerator::Tcg,
                initramfs: None,
            })
        });
        advice
    });
    let host = FaultyHost::new(RealHost::new(opened.vms.clone()).unwrap(), vmm.clone());
    Vms::open(VmDeps::new(
        opened.store,
        Arc::new(CountingVmm { inner: vmm, guests }),
        host,
        advisor,
        opened.vms,
        settings(),
    ))
    .await
}

impl Running {
    pub fn client(&self) -> Client {
        Client::new(self.layout.socket())
    }

    /// Stops it in order.
    pub async fn stop(self) {
        self.stop.cancel();
        self.serving.await.unwrap().unwrap();
    }

    /// Waits until it has stopped by itself.
    pub async fn stopped(self) {
        tokio::time::timeout(Duration::from_secs(20), self.serving)
            .await
            .expect("it stops")
            .unwrap()
            .unwrap();
    }
}

/// Waits until something is so.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let waited = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(20), waited)
            .await
            .is_ok(),
        "not so: {what}"
    );
}

/// A tar archive with one file.
pub fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000755\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}
