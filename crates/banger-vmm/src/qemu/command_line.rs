//! QEMU's command line, rendered whole from the machine's configuration.
//!
//! Every path is a name inside the jail directory, which is the process's working directory, so
//! the line is the same for every VM of one shape. Values were checked by `validate`: none holds
//! a comma or a quote.

use crate::{Accelerator, MachineConfig, MemoryBacking, jail_path};

/// Name of the agent's virtio-serial port as the guest sees it.
pub(super) const AGENT_PORT: &str = "banger.agent.0";

/// What every guest kernel is told.
///
/// - `panic=-1`: a dead kernel ends the machine at once, and `reboot=t` (triple fault) does so
///   without walking through the firmware.
/// - `no_timer_check`: on a busy host under TCG the check for a working timer interrupt can fail
///   and stop the boot.
/// - `cryptomgr.notests`: the crypto self tests cost 0.4 of 3.0 s of a boot under TCG.
/// - `random.trust_cpu=on`: guests must not wait for entropy before the agent brings some.
const KERNEL_WORDS: [&str; 7] = [
    "console=ttyS0",
    "quiet",
    "panic=-1",
    "reboot=t",
    "no_timer_check",
    "cryptomgr.notests",
    "random.trust_cpu=on",
];

/// Everything after the program's name.
pub(super) fn render(config: &MachineConfig, machine_type: &str) -> Vec<String> {
    let mut line = Line(Vec::new());
    line.option("-name", machine_name(config));
    line.flags(&["-no-user-config", "-nodefaults", "-no-reboot"]);
    // Paused until the daemon is attached.
    line.flags(&["-S"]);
    line.option("-display", "none");
    line.option(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    line.processor(config, machine_type);
    line.channels();
    for (number, disk) in config.disks.iter().enumerate() {
        line.disk(number, disk);
    }
    line.option("-object", "rng-random,id=entropy,filename=/dev/urandom");
    line.option("-device", "virtio-rng-pci,rng=entropy");
    line.option("-nic", "none");
    line.option("-kernel", jail_path::KERNEL);
    line.option("-initrd", jail_path::INITRAMFS);
    let words: Vec<&str> = KERNEL_WORDS
        .into_iter()
        .chain(late_processors(config))
        .chain(config.kernel_arguments.iter().map(String::as_str))
        .collect();
    line.option("-append", words.join(" "));
    line.0
}

/// QEMU before 10.1 may abort under TCG (`iotlb_to_section: Assertion failed`, or worse) when a
/// processor moves a PCI window while another one runs, which is what Linux does as it looks for
/// devices: seen in one of some sixty boots with two processors. So one processor boots alone,
/// and the agent brings the others online when all devices are found. `noreplace-smp`: the kernel
/// must not patch itself for one processor first and for several then, which costs 0.4 s.
fn late_processors(config: &MachineConfig) -> Option<&'static str> {
    (config.accelerator == Accelerator::Tcg && config.vcpus > 1)
        .then_some("maxcpus=1 noreplace-smp")
}

/// What `query-name` answers for this machine.
pub(super) fn machine_name(config: &MachineConfig) -> String {
    format!("banger-{}", config.id)
}

struct Line(Vec<String>);

impl Line {
    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(|flag| (*flag).to_owned()));
    }

    fn option(&mut self, name: &str, value: impl Into<String>) {
        self.0.push(name.to_owned());
        self.0.push(value.into());
    }

    fn processor(&mut self, config: &MachineConfig, machine_type: &str) {
        // Devices no guest of ours uses: less to emulate, less to attack.
        let mut machine = format!("{machine_type},usb=off,sata=off,smbus=off,vmport=off,smm=off");
        if config.memory == MemoryBacking::SharedFile {
            machine.push_str(",memory-backend=memory");
        }
        self.option("-machine", machine);
        match config.accelerator {
            Accelerator::Kvm => {
                self.option("-accel", "kvm");
                self.option("-cpu", "host");
            }
            Accelerator::Tcg => {
                // The default is an eighth of the host's memory, up to 1 GiB, for each machine.
                self.option("-accel", "tcg,tb-size=256");
                self.option("-cpu", "max");
            }
        }
        self.option(
            "-smp",
            format!("cpus={0},sockets=1,cores={0},threads=1", config.vcpus),
        );
        self.option("-m", format!("size={}M", config.memory_mib));
        if config.memory == MemoryBacking::SharedFile {
            self.option(
                "-object",
                format!(
                    "memory-backend-file,id=memory,size={}M,mem-path={},share=on",
                    config.memory_mib,
                    jail_path::MEMORY
                ),
            );
        }
    }

    fn channels(&mut self) {
        for (id, path) in [
            ("console", jail_path::CONSOLE_SOCKET),
            ("agent", jail_path::AGENT_SOCKET),
            // Last: once it accepts connections, the others do.
            ("api", jail_path::API_SOCKET),
        ] {
            self.option(
                "-chardev",
                format!("socket,id={id},path={path},server=on,wait=off"),
            );
        }
        self.option("-mon", "chardev=api,mode=control");
        self.option("-serial", "chardev:console");
        self.option("-device", "virtio-serial-pci,id=ports,max_ports=2");
        self.option(
            "-device",
            format!("virtserialport,bus=ports.0,nr=1,chardev=agent,name={AGENT_PORT}"),
        );
    }

    fn disk(&mut self, number: usize, disk: &crate::Disk) {
        let mut drive = format!(
            "driver=raw,node-name=disk{number},file.driver=file,file.filename={},file.aio=threads",
            disk.file
        );
        // What the guest frees or zeroes goes back to the host; the check for zeroes stops at the
        // first byte that is none.
        drive.push_str(if disk.read_only {
            ",read-only=on"
        } else {
            ",read-only=off,discard=unmap,detect-zeroes=unmap"
        });
        self.option("-blockdev", drive);
        self.option(
            "-device",
            format!("virtio-blk-pci,drive=disk{number},serial={}", disk.serial),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::tests::example;

    /// One option a line.
    fn text(config: &MachineConfig) -> String {
        let mut out = String::new();
        for word in render(config, "pc-q35-7.2") {
            if word.starts_with('-') && !out.is_empty() {
                out.push('\n');
            } else if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(&word);
        }
        out
    }

    #[test]
    fn tcg() {
        insta::assert_snapshot!(text(&example()));
    }

    #[test]
    fn kvm_with_shared_memory_and_no_disks() {
        let mut config = example();
        config.accelerator = Accelerator::Kvm;
        config.memory = MemoryBacking::SharedFile;
        config.vcpus = 1;
        config.disks.clear();
        config.kernel_arguments = vec!["init=/x".into(), "loglevel=7".into()];
        insta::assert_snapshot!(text(&config));
    }
}
