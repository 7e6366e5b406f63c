//! Images with systemd, as process 1 and beside it.

use banger_e2e::host::{Host, wait_until};

#[test]
fn systemd_is_init_where_the_image_has_it() {
    let host = Host::new();
    host.vm("debian-12", "deb");
    assert_eq!(host.show("deb")["init"], "image");
    // Process 1 is the agent until it has handed over.
    wait_until("systemd is process 1", || {
        host.sh("deb", "readlink /proc/1/exe").text() == "/usr/lib/systemd/systemd"
    });
    wait_until("the agent's unit is active", || {
        host.sh("deb", "systemctl is-active banger-vsock-agent")
            .text()
            == "active"
    });
    wait_until("systemd has started everything", || {
        ["running", "degraded"].contains(
            &host
                .sh("deb", "systemctl is-system-running")
                .text()
                .as_str(),
        )
    });
    assert_eq!(
        host.sh("deb", "systemctl --failed --no-legend --plain")
            .ok()
            .text(),
        ""
    );
    host.sh("deb", "echo kept > /root/file").ok();
    host.banger(&["vm", "stop", "deb"]).ok();
    host.banger(&["vm", "start", "deb"]).ok();
    assert_eq!(
        host.sh("deb", "cat /root/file; hostname").ok().text(),
        "kept\ndeb"
    );

    let first = host.vmm_pid("deb");
    wait_until("systemd takes orders", || {
        host.sh("deb", "systemctl reboot").status.success()
    });
    wait_until("it runs again", || {
        let shown = host.show("deb");
        shown["state"] == "running"
            && shown["machine"]["pid"].as_i64() != Some(i64::from(first.as_raw()))
    });
    wait_until("systemd takes orders", || {
        host.sh("deb", "systemctl poweroff").status.success()
    });
    host.wait_for_state("deb", "stopped");
}

#[test]
fn a_stale_fstab_keeps_nobody_waiting() {
    let host = Host::new();
    host.vm("debian-12", "deb");
    host.sh("deb", "printf '%s\\n' '/dev/disk/by-uuid/0c2c8e8e-0000-4000-8000-000000000000 /home ext4 defaults 0 2' '/dev/sdz9 /data ext4 defaults 0 2' >> /etc/fstab").ok();
    host.banger(&["vm", "stop", "deb"]).ok();
    host.banger(&["vm", "start", "deb"]).ok();
    wait_until("systemd has started everything", || {
        ["running", "degraded"].contains(
            &host
                .sh("deb", "systemctl is-system-running")
                .text()
                .as_str(),
        )
    });
    let uptime: f64 = host
        .sh("deb", "cut -d' ' -f1 /proc/uptime")
        .ok()
        .text()
        .parse()
        .unwrap();
    assert!(uptime < 85.0, "something waited: {uptime} s");
}

#[test]
fn the_agent_is_init_when_asked() {
    let host = Host::new();
    host.banger(&[
        "vm",
        "create",
        "--init",
        "agent",
        "--name",
        "deb",
        "debian-12",
    ])
    .ok();
    assert_eq!(host.show("deb")["init"], "agent");
    assert_ne!(host.sh("deb", "cat /proc/1/comm").ok().text(), "systemd");
    assert_eq!(host.sh("deb", "git --version | cut -d' ' -f1-2; curl --version | head -c 4; ip -o link show lo | grep -c UP").ok().text(), "git version\ncurl1");
}
