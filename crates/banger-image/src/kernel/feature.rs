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
/// What is only needed after the root file system is mounted belongs to [`EXTRA`].
const BOOT: &[Feature] = &[
    Feature {
        what: "virtio bus",
        any_of: &["virtio_pci", "virtio_mmio"],
    },
    Feature {
        what: "transport for the guest link",
        any_of: &["virtio_console", VSOCK],
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

/// What a driver whose guest link is vsock loads as well. A module takes 5 to 30 ms of a boot under
/// TCG, and there the link is virtio-serial.
const VSOCK: &str = "vmw_vsock_virtio_transport";

/// What the guest may load later: devices that come after boot, containers, VPNs. A trailing `*` stands for any ending.
///
/// Every megabyte here stays in the guest's memory and costs 13 ms of its boot under TCG, so
/// that hardware which a microVM has not, file systems of disks and networks, volume managers and
/// protocols that nobody routes through a sandbox are left out: 9 MB of Debian's 90 remain.
const EXTRA: &[&str] = &[
    // devices
    "virtio_net",
    "virtio_balloon",
    "virtio_rng",
    "virtiofs",
    "vsock_diag",
    "vsock_loopback",
    "loop",
    "zram",
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
    "ipvlan",
    "vxlan",
    "8021q",
    "wireguard",
    "tcp_bbr",
    "ipip",
    // packet filters: Docker, Kubernetes, firewalls
    "nf_tables",
    "nf_conntrack",
    "nf_conntrack_bridge",
    "nf_conntrack_ftp",
    "nf_conntrack_netlink",
    "nf_conntrack_tftp",
    "nf_log_syslog",
    "nf_nat",
    "nf_nat_ftp",
    "nf_nat_tftp",
    "nf_reject_*",
    "nf_tproxy_*",
    "nft_*",
    "nfnetlink",
    "nfnetlink_log",
    "nfnetlink_queue",
    "x_tables",
    "xt_addrtype",
    "xt_bpf",
    "xt_cgroup",
    "xt_CHECKSUM",
    "xt_comment",
    "xt_connlimit",
    "xt_connmark",
    "xt_conntrack",
    "xt_CT",
    "xt_hashlimit",
    "xt_hl",
    "xt_iprange",
    "xt_ipvs",
    "xt_length",
    "xt_limit",
    "xt_LOG",
    "xt_mac",
    "xt_mark",
    "xt_MASQUERADE",
    "xt_multiport",
    "xt_nat",
    "xt_NFLOG",
    "xt_NFQUEUE",
    "xt_owner",
    "xt_physdev",
    "xt_pkttype",
    "xt_policy",
    "xt_recent",
    "xt_REDIRECT",
    "xt_set",
    "xt_socket",
    "xt_state",
    "xt_statistic",
    "xt_string",
    "xt_TCPMSS",
    "xt_tcpmss",
    "xt_tcpudp",
    "xt_TPROXY",
    "ip_tables",
    "ip6_tables",
    "iptable_*",
    "ip6table_*",
    "ipt_REJECT",
    "ipt_rpfilter",
    "ip6t_REJECT",
    "ip6t_rpfilter",
    "ip_set",
    "ip_set_bitmap_port",
    "ip_set_hash_ip",
    "ip_set_hash_ipport",
    "ip_set_hash_net",
    // Docker's swarm mode
    "ip_vs",
    "ip_vs_rr",
    // traffic control
    "sch_fq",
    "sch_fq_codel",
    "sch_htb",
    "sch_ingress",
    "sch_netem",
    "sch_prio",
    "sch_sfq",
    "sch_tbf",
    "cls_bpf",
    "cls_cgroup",
    "cls_fw",
    "cls_matchall",
    "cls_u32",
    "act_mirred",
    "act_police",
    // file systems and formats
    "fuse",
    "9p",
    "9pnet_virtio",
    "binfmt_misc",
    "configfs",
    // a faster crc32c for ext4
    "crc32c_intel",
];

/// The modules to keep, in load order within each set.
#[derive(Debug)]
pub struct Selection<'a> {
    /// Loaded before anything is mounted.
    pub boot: Vec<&'a Module>,
    /// Loaded after `boot` where the guest link is vsock.
    pub vsock: Vec<&'a Module>,
    /// Everything that is kept: `boot`, `vsock`, and what the guest may load.
    pub kept: Vec<&'a Module>,
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
    let boot_names = || {
        BOOT.iter()
            .flat_map(|feature| feature.any_of)
            .copied()
            .filter(|&name| name != VSOCK)
    };
    let boot = tree.load_order(boot_names())?;
    let with_vsock = tree.load_order(boot_names().chain([VSOCK]))?;
    let extra_names = tree
        .modules()
        .map(|module| module.info.name.as_str())
        .filter(|name| EXTRA.iter().any(|pattern| matches(pattern, name)));
    let kept = tree.load_order(boot_names().chain([VSOCK]).chain(extra_names))?;
    // Adding names at the end only adds modules at the end.
    let vsock = with_vsock.get(boot.len()..).unwrap_or_default().to_vec();
    Ok(Selection { boot, vsock, kept })
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
    fn boot_is_minimal() {
        let tree = tree(
            &[
                ("virtio", &[]),
                ("virtio_pci", &["virtio"]),
                ("virtio_blk", &["virtio"]),
                ("vmw_vsock_virtio_transport", &["vsock", "virtio"]),
                ("vsock", &[]),
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
            names(&selection.vsock),
            ["vsock", "vmw_vsock_virtio_transport"]
        );
        assert_eq!(
            names(&selection.kept),
            [
                "virtio",
                "virtio_pci",
                "virtio_blk",
                "vsock",
                "vmw_vsock_virtio_transport",
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
        assert!(select(&tree, "6.1").unwrap().kept.is_empty());
    }
}
