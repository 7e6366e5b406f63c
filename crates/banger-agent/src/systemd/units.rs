//! Run-time units, as text.

/// File name and text.
pub const UNITS: [(&str, &str); 1] = [("banger-vsock-agent.service", AGENT)];

/// Target, and the unit it wants.
pub const WANTED: [(&str, &str); 1] = [("sysinit.target", "banger-vsock-agent.service")];

/// Units that are not to run. The serial console is a log that nobody can type into; without udev
/// a login on it would also keep the machine "starting" for 90 seconds, until systemd gives up
/// waiting for the device.
pub const MASKED: [&str; 1] = ["serial-getty@ttyS0.service"];

/// The agent was there before systemd and is not its child: the unit asks it, and stays active.
const AGENT: &str = "\
[Unit]
Description=banger guest agent
DefaultDependencies=no
Before=sysinit.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/run/banger/agent check
TimeoutStartSec=30
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_runs_the_installed_binary() {
        let line = format!("ExecStart={} check\n", super::super::BINARY);
        assert!(AGENT.contains(&line));
    }
}
