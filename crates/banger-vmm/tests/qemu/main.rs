//! The QEMU driver against a real QEMU, translating, with guests of a few instructions.
//!
//! The program has three faces: the tests, the *launcher* the driver executes, and a *daemon*
//! that launches one machine and is then killed or waits to be.
//!
//! Limits: nothing here speaks to an agent; that takes a kernel, and is done end to end.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod adopt;
mod end;
mod guest;
mod jail;
mod launch;
mod place;
mod probe;

use std::future::Future;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// What a test cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Qemu,
    Root,
    Kvm,
    Cgroup,
}

impl Need {
    fn is_met(self) -> bool {
        match self {
            Self::Qemu => {
                banger_host::command::find(std::path::Path::new("qemu-system-x86_64")).is_some()
            }
            Self::Root => rustix::process::geteuid().is_root(),
            Self::Kvm => {
                banger_vmm::probe::device::look() == banger_vmm::probe::device::KvmDevice::Usable
            }
            Self::Cgroup => place::cgroups_are_writable(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu-system-x86_64",
            Self::Root => "root",
            Self::Kvm => "usable KVM",
            Self::Cgroup => "writable cgroups",
        }
    }
}

fn trial<F>(name: &str, needs: &'static [Need], test: fn() -> F) -> Trial
where
    F: Future<Output = ()> + 'static,
{
    Trial::test(name, move || {
        if let Some(need) = needs.iter().find(|need| !need.is_met()) {
            eprintln!("skipped: {}", need.name());
            return Ok(());
        }
        runtime().block_on(test());
        Ok(())
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// A trial for each function, named like it.
macro_rules! trials {
    ($($need:expr => $($name:path),+;)+) => {
        vec![$($(trial(stringify!($name), $need, $name)),+),+]
    };
}

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(place::LAUNCHER) => banger_vmm::jail::launcher_main(),
        Some(place::DAEMON) => return runtime().block_on(place::daemon()),
        _ => {}
    }
    let qemu = &[Need::Qemu];
    let root = &[Need::Qemu, Need::Root];
    let trials = trials! {
        &[] => launch::a_missing_qemu_is_named;
        qemu =>
            launch::the_console_arrives_from_its_first_line,
            launch::a_flooding_console_stays_under_its_cap,
            launch::the_agents_pipe_takes_one_client_after_the_other,
            launch::a_kernel_that_is_none_ends_the_launch_with_qemus_words,
            launch::a_missing_disk_is_named,
            launch::a_qemu_that_never_listens_is_given_up,
            launch::a_launch_given_up_leaves_no_process,
            launch::an_invalid_configuration_starts_nothing,
            end::power_off,
            end::reset,
            end::a_panic_is_quoted,
            end::kill_ends_it_and_is_idempotent,
            end::a_stopped_qemu_is_killed_all_the_same,
            end::a_murdered_qemu_died,
            end::a_qemu_told_to_stop_by_somebody_else_died,
            adopt::what_a_killed_daemon_left_runs_on,
            adopt::a_stopped_vmm_is_silent_and_adopted_once_it_goes_on,
            adopt::while_no_daemon_lives_nothing_is_written,
            adopt::the_end_of_an_adopted_machine_is_known,
            adopt::another_process_under_the_number_is_left_alone,
            adopt::a_machine_that_ended_is_not_adopted,
            adopt::a_machine_that_never_ran_is_ended,
            adopt::a_qemu_that_does_not_answer_is_given_up_in_time,
            adopt::one_that_is_held_already_is_given_up_in_time,
            jail::an_ordinary_users_vmm_has_no_privileges,
            probe::a_kernel_that_answers_gets_kvm,
            probe::a_kernel_that_never_boots_is_found_out_once,
            probe::what_a_cut_off_probe_left_is_ended_by_the_next;
        root =>
            jail::roots_vmm_is_nobody,
            jail::group_0_is_not_kept,
            jail::a_killed_launchers_leftover_is_ended,
            jail::the_vmm_cannot_replace_a_file_of_ours;
        &[Need::Qemu, Need::Root, Need::Cgroup] =>
            jail::a_cgroup_lives_as_long_as_its_vmm;
        &[Need::Qemu, Need::Kvm] =>
            probe::the_device_of_this_host_gives_a_verdict_in_time;
    };
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
