//! A daemon's VMs on a real store, real directories and a fake VMM whose guests speak the real
//! guest link.

pub mod guest;
pub mod host;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use banger_protocol::api::image::ImageConfig;
use banger_protocol::api::vm::{Vm, VmList, VmState, WaitFor, WaitQuery};
use banger_protocol::error::ApiError;
use banger_vmm::Accelerator;
use banger_vmm::fake::FakeVmm;
use bangerd::agent::AgentSettings;
use bangerd::operation::Context;
use bangerd::store::Store;
use bangerd::vm::host::RealHost;
use bangerd::vm::spec::{HostLimits, ImageSource, KernelSource, NewVm};
use bangerd::vm::{BootAdvice, Settings, VmDeps, Vms};

use guest::{CountingVmm, Guests};
use host::FaultyHost;

/// Everything that outlives a daemon.
pub struct World {
    pub root: tempfile::TempDir,
    pub vmm: FakeVmm,
    pub guests: Guests,
    pub host: Arc<FaultyHost>,
    pub settings: Settings,
}

impl World {
    pub fn new() -> World {
        let root = tempfile::tempdir().unwrap();
        for name in ["base", "kernel", "initramfs"] {
            std::fs::write(root.path().join(name), name).unwrap();
        }
        let vms = root.path().join("vms");
        std::fs::create_dir(&vms).unwrap();
        let guests = Guests::default();
        let vmm = guests.vmm();
        let host = FaultyHost::new(RealHost::new(vms).unwrap(), vmm.clone());
        World {
            root,
            vmm,
            guests,
            host,
            settings: settings(),
        }
    }

    pub fn vms_directory(&self) -> PathBuf {
        self.root.path().join("vms")
    }

    pub fn store(&self) -> Arc<Store> {
        Arc::new(Store::open(&self.root.path().join("state.db")).unwrap())
    }

    /// A daemon's VMs; dropping them is a crash of that daemon.
    pub async fn open(&self) -> Vms {
        let advisor = Arc::new(|_| {
            let advice: futures_util::future::BoxFuture<'static, _> = Box::pin(async {
                Ok(BootAdvice {
                    accelerator: Accelerator::Tcg,
                    initramfs: None,
                })
            });
            advice
        });
        let deps = VmDeps::new(
            self.store(),
            Arc::new(CountingVmm {
                inner: self.vmm.clone(),
                guests: self.guests.clone(),
            }),
            self.host.clone(),
            advisor,
            self.vms_directory(),
            self.settings.clone(),
        );
        Vms::open(deps).await.unwrap()
    }

    pub fn new_vm(&self, name: &str) -> NewVm {
        NewVm {
            name: Some(name.parse().unwrap()),
            image: ImageSource {
                name: "debian-12".to_owned(),
                digest: "sha256:1".to_owned(),
                base_digest: "b1".to_owned(),
                base: self.root.path().join("base"),
                config: ImageConfig::default(),
            },
            kernel: KernelSource {
                name: "k-1".parse().unwrap(),
                sha256: "0".repeat(64),
                kernel: self.root.path().join("kernel"),
                initramfs: self.root.path().join("initramfs"),
            },
            vcpus: 1,
            memory_mib: 256,
            disk_mib: 16,
            init: None,
            env: Vec::new(),
            user: None,
            workdir: None,
            main: None,
            ephemeral: false,
            no_start: false,
        }
    }

    /// Names in the VMs' directory, but for the templates.
    pub fn directories(&self) -> Vec<String> {
        names(&self.vms_directory())
            .into_iter()
            .filter(|name| name != "templates")
            .collect()
    }

    /// Nothing of any VM is left: no directory, no note, no row, no machine.
    #[track_caller]
    pub fn assert_empty(&self) {
        assert_eq!(self.directories(), Vec::<String>::new(), "directories");
        let store = self.store();
        assert_eq!(store.resources().unwrap(), [], "ledger");
        assert_eq!(store.vms().unwrap(), [], "rows");
        assert_eq!(self.vmm.running(), Vec::<String>::new(), "machines");
    }
}

pub fn settings() -> Settings {
    Settings {
        instance: "test".to_owned(),
        limits: HostLimits {
            max_vcpus: 4,
            max_memory_mib: 4096,
        },
        uids: None,
        kvm_gid: None,
        cgroups: false,
        boot_timeout: Duration::from_secs(20),
        stop_timeout: Duration::from_secs(20),
        agent: AgentSettings {
            answer: Duration::from_secs(5),
            heartbeat: Duration::from_millis(50),
        },
        main_log_bound: 1 << 20,
        main_grace: Duration::from_secs(60),
    }
}

pub fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Disks need it; it is essential on Debian, and may be missing elsewhere.
pub fn have_mke2fs() -> bool {
    let found = [
        "/sbin/mke2fs",
        "/usr/sbin/mke2fs",
        "/bin/mke2fs",
        "/usr/bin/mke2fs",
    ]
    .iter()
    .any(|path| Path::new(path).exists());
    if !found {
        eprintln!("skipped: mke2fs");
    }
    found
}

pub async fn create(vms: &Vms, new: NewVm) -> Result<Vm, ApiError> {
    vms.create(new, &Context::detached()).await
}

pub fn listed(vms: &Vms) -> Vec<Vm> {
    serde_json::from_slice::<VmList>(&vms.list().unwrap())
        .unwrap()
        .vms
}

pub async fn wait_for(vms: &Vms, vm: &str, wait_for: WaitFor) -> Option<i32> {
    let query = WaitQuery {
        wait_for,
        timeout_ms: Some(20_000),
    };
    match vms.wait(vm, query).await {
        Ok(result) => result.exit_code,
        Err(error) if error.kind == banger_protocol::error::ErrorKind::NotFound => None,
        Err(error) => panic!("waiting for {wait_for:?} of {vm}: {error}"),
    }
}

/// Waits until a VM is in a state.
pub async fn until_state(vms: &Vms, vm: &str, state: VmState) -> Vm {
    let reached = async {
        loop {
            let shown = vms.show(vm).await.unwrap();
            if shown.state == state {
                return shown;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match tokio::time::timeout(Duration::from_secs(20), reached).await {
        Ok(vm) => vm,
        Err(_) => panic!(
            "{vm} is {:?}, not {state:?}",
            vms.show(vm).await.unwrap().state
        ),
    }
}
