//! Which modules a microVM needs. Data, and the choice made by it; pure.

use super::KernelError;
use super::module_tree::{Module, ModuleTree};

/// Something without which a kernel cannot run a VM of ours; one of the names is enough.
struct Feature {
    what: &'static str,
    any_of: &'static [&'static str],
}

/// In the order in which the agent meets them. The transport of the guest link comes first, so that
/// a guest that fails later can say so.
///
/// Each module here costs 5 to 30 ms of every boot under TCG; what is only needed after the
/// root file system is mounted belongs to [`EXTRA`].
const BOOT: &[Feature] = &[
    Feature {
        what: "virtio bus",
        any_of: &["virtio_pci", "virtio_mmio"],
    },
    Feature {
        what: "transport for the guest link",
        any_of: &["virtio_console", "vmw_vsock_virtio_transport"],
    },
    Feature {
        what: "virtio block device",
        any_of: &["virtio_blk"],
    },
    Feature {
        what: "EROFS",
        any_of: &["erofs"],
    },
    Feature {
        what: "ext4",
        any_of: &["ext4"],
    },
    Feature {
        what: "overlayfs",
        any_of: &["overlay"],
    },
];

/// What the guest may load later: devices that come after boot, containers, VPNs, the usual file
/// systems. A trailing `*` stands for any ending.
///
/// Left out on purpose: hardware that a microVM has not, network file systems, and file systems of
/// more than a megabyte (btrfs, xfs) that nothing here makes.
const EXTRA: &[&str] = &[
    // devices
    "virtio_net",
    "virtio_balloon",
    "virtio_rng",
    "virtio_mem",
    "virtio_input",
    "virtiofs",
    "vsock_diag",
    "vsock_loopback",
    "loop",
    "nbd",
    "zram",
    "dm_mod",
    "dm_snapshot",
    "dm_thin_pool",
    "dm_crypt",
    "dm_verity",
    // sockets and interfaces
    "af_packet",
    "af_packet_diag",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "unix_diag",
    "netlink_diag",
    "bridge",
    "br_netfilter",
    "veth",
    "tun",
    "tap",
    "dummy",
    "ifb",
    "macvlan",
    "macvtap",
    "ipvlan",
    "vxlan",
    "geneve",
    "vrf",
    "8021q",
    "wireguard",
    "tls",
    "tcp_bbr",
    "ipip",
    "sit",
    "ip_gre",
    "ip6_tunnel",
    // packet filters: Docker, Kubernetes, firewalls
    "nf_*",
    "nft_*",
    "nfnetlink*",
    "x_tables",
    "xt_*",
    "ip_tables",
    "ip6_tables",
    "arp_tables",
    "iptable_*",
    "ip6table_*",
    "ipt_REJECT",
    "ipt_rpfilter",
    "ip6t_REJECT",
    "ip6t_rpfilter",
    "ebtables",
    "ebtable_*",
    "ip_set*",
    "ip_vs",
    "ip_vs_rr",
    "ip_vs_wrr",
    "ip_vs_sh",
    "ip_vs_lc",
    // traffic control
    "sch_*",
    "cls_bpf",
    "cls_cgroup",
    "cls_flower",
    "cls_fw",
    "cls_matchall",
    "cls_u32",
    "act_bpf",
    "act_mirred",
    "act_police",
    // file systems and formats
    "fuse",
    "cuse",
    "9p",
    "9pnet_virtio",
    "isofs",
    "squashfs",
    "vfat",
    "msdos",
    "udf",
    "binfmt_misc",
    "configfs",
    "autofs4",
    "nls_ascii",
    "nls_cp437",
    "nls_iso8859_1",
    "nls_utf8",
    // crypto behind user-space sockets, and a faster crc32c for ext4
    "crc32c_intel",
    "af_alg",
    "algif_*",
];

/// The modules to keep, in load order within each set. `extra` holds `boot` as well.
#[derive(Debug)]
pub struct Selection<'a> {
    pub boot: Vec<&'a Module>,
    pub extra: Vec<&'a Module>,
}

/// Chooses from all modules of a kernel, and refuses a kernel that cannot run a VM.
pub fn select<'a>(tree: &'a ModuleTree, version: &str) -> Result<Selection<'a>, KernelError> {
    for feature in BOOT {
        if feature.any_of.iter().all(|name| tree.is_missing(name)) {
            return Err(KernelError::MissingFeature {
                version: version.to_owned(),
                feature: feature.what,
                names: feature.any_of.iter().map(|&n| n.to_owned()).collect(),
            });
        }
    }
    let boot_names = || BOOT.iter().flat_map(|feature| feature.any_of).copied();
    let boot = tree.load_order(boot_names())?;
    let extra_names = tree
        .modules()
        .map(|module| module.info.name.as_str())
        .filter(|name| EXTRA.iter().any(|pattern| matches(pattern, name)));
    let extra = tree.load_order(boot_names().chain(extra_names))?;
    Ok(Selection { boot, extra })
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::super::modinfo::ModInfo;
    use super::*;

    fn tree(modules: &[(&str, &[&str])], builtin: Option<&str>) -> ModuleTree {
        let mut tree = ModuleTree::default();
        for (name, depends) in modules {
            tree.insert(Module {
                path: format!("kernel/{name}.ko"),
                info: ModInfo {
                    name: (*name).into(),
                    depends: depends.iter().map(|&d| d.into()).collect(),
                    ..ModInfo::default()
                },
            });
        }
        if let Some(builtin) = builtin {
            tree.set_builtin(builtin);
        }
        tree
    }

    fn names(modules: &[&Module]) -> Vec<String> {
        modules.iter().map(|m| m.info.name.clone()).collect()
    }

    #[test]
    fn boot_is_minimal_and_extra_holds_it() {
        let tree = tree(
            &[
                ("virtio", &[]),
                ("virtio_pci", &["virtio"]),
                ("virtio_blk", &["virtio"]),
                ("virtio_net", &["virtio", "failover"]),
                ("failover", &[]),
                ("nft_nat", &["nf_tables"]),
                ("nf_tables", &[]),
                ("snd_hda_intel", &[]),
            ],
            Some("x/virtio_console.ko\nx/erofs.ko\nx/ext4.ko\nx/overlay.ko\n"),
        );
        let selection = select(&tree, "6.1").unwrap();
        assert_eq!(
            names(&selection.boot),
            ["virtio", "virtio_pci", "virtio_blk"]
        );
        assert_eq!(
            names(&selection.extra),
            [
                "virtio",
                "virtio_pci",
                "virtio_blk",
                "nf_tables",
                "nft_nat",
                "failover",
                "virtio_net"
            ]
        );
    }

    #[test]
    fn a_kernel_that_cannot_run_a_vm_is_refused() {
        let tree = tree(
            &[],
            Some("x/virtio_mmio.ko\nx/virtio_console.ko\nx/virtio_blk.ko\n"),
        );
        assert_eq!(
            select(&tree, "6.1").unwrap_err().to_string(),
            "kernel 6.1 has no EROFS (erofs), neither built in nor as a module"
        );
    }

    #[test]
    fn without_modules_builtin_nothing_is_known_to_be_missing() {
        let tree = tree(&[], None);
        assert!(select(&tree, "6.1").unwrap().extra.is_empty());
    }
}
