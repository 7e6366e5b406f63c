//! The command tree itself, and how command lines are taken apart.

use super::*;
use crate::commands::vm;
use banger_protocol::error::{ApiError, ErrorKind};

#[test]
fn the_tree_breaks_no_rule_of_its_parser() {
    command().debug_assert();
}

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

/// Image and command of a `run`, image or VM and command of an `exec`.
fn target_and_command(line: &str) -> (Option<String>, Result<Vec<OsString>, ApiError>) {
    let cli = parse_with(command(), &words(line)).unwrap_or_else(|error| panic!("{line}: {error}"));
    match cli.command {
        Command::Run(run) | Command::Vm(vm::Command::Run(run)) => (run.positional, run.words.all()),
        Command::Exec(exec) | Command::Vm(vm::Command::Exec(exec)) => {
            (Some(exec.vm), exec.words.all())
        }
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn where_a_command_begins() {
    for (line, target, expected) in [
        ("banger vm run", None, ""),
        ("banger vm run debian", Some("debian"), ""),
        ("banger run debian uname -r", Some("debian"), "uname -r"),
        ("banger run debian -- uname -r", Some("debian"), "uname -r"),
        ("banger run -- uname -r", None, "uname -r"),
        ("banger run --rm -- uname", None, "uname"),
        // Flags may follow the image, and end where the command begins.
        ("banger run debian --rm uname", Some("debian"), "uname"),
        (
            "banger run debian ls --rm --json",
            Some("debian"),
            "ls --rm --json",
        ),
        ("banger run debian --rm -- --rm", Some("debian"), "--rm"),
        // A second -- is the command's.
        (
            "banger run debian sh -c x -- y",
            Some("debian"),
            "sh -c x -- y",
        ),
        ("banger run debian -- env -- y", Some("debian"), "env -- y"),
        ("banger exec web", Some("web"), ""),
        ("banger exec web ps aux", Some("web"), "ps aux"),
        ("banger vm exec web -- ps aux", Some("web"), "ps aux"),
        ("banger vm exec -u 0 web -t -- ps -t", Some("web"), "ps -t"),
    ] {
        let (found, command) = target_and_command(line);
        assert_eq!(found.as_deref(), target, "{line}");
        assert_eq!(command.unwrap(), words(expected), "{line}");
    }
}

#[test]
fn a_mistyped_flag_is_no_command() {
    for line in [
        "banger run debian --memroy 4G",
        "banger vm exec web -x ls",
        "banger run debian -x",
    ] {
        let error = target_and_command(line).1.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{line}");
        assert!(error.hint.unwrap().contains("--"), "{line}");
    }
}

/// Every command that does something, by its full name.
fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
    let path = format!("{path} {}", command.get_name());
    let below: Vec<_> = command
        .get_subcommands()
        .filter(|below| below.get_name() != "help")
        .collect();
    if below.is_empty() {
        found.push((path.clone(), command.clone()));
    }
    for command in below {
        leaves(command, &path, found);
    }
}

#[test]
fn every_command_has_examples_that_can_be_parsed() {
    let mut found = Vec::new();
    leaves(&command(), "", &mut found);
    assert!(found.len() > 30, "{}", found.len());
    for (path, leaf) in found {
        let help = leaf.get_after_help().map(ToString::to_string);
        let help = help.unwrap_or_default();
        assert!(help.starts_with("Examples:\n  "), "{path} has no examples");
        for example in help.lines().filter(|line| line.starts_with("  banger ")) {
            // What stands behind two blanks explains it, and what a shell would see ends it.
            let line = example.trim();
            let line = line.split("   ").next().unwrap_or_default();
            let end = line.find([';', '|', '<', '>', '&', '\'']);
            let line = &line[..end.unwrap_or(line.len())];
            if let Err(error) = parse_with(command(), &words(line)) {
                panic!("{path}: {line}: {error}");
            }
        }
    }
}

#[test]
fn help_tells_the_defaults_and_so_does_the_manual() {
    let help = |command: clap::Command, line: &str| {
        let error = parse_with(command, &words(line)).unwrap_err();
        let text = error.render().to_string();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for line in [
        "banger run -h",
        "banger vm run --help",
        "banger vm create -h",
    ] {
        let text = help(documented(), line);
        for said in [
            "[default: 2]",
            "[default: 1 GiB]",
            "[default: 8 GiB]",
            "[default: debian-12]",
        ] {
            assert!(text.contains(said), "{line} does not say {said}: {text}");
        }
    }
    let pages = tempfile::tempdir().unwrap();
    let out = pages.path().join("made/man1");
    let line = format!("banger man --out {}", out.display());
    let Ok(Cli {
        command: Command::Man(args),
        ..
    }) = parse_with(command(), &words(&line))
    else {
        panic!("{line}");
    };
    crate::commands::man::run(&args).unwrap();
    let page = std::fs::read_to_string(out.join("banger-vm-run.1")).unwrap();
    assert!(page.contains("1 GiB"), "{page}");
}

#[test]
fn groups_without_a_command_print_help() {
    for line in [
        "banger",
        "banger vm",
        "banger image",
        "banger kernel",
        "banger daemon",
        "banger operation",
    ] {
        // A root of its own, where nobody answers.
        let nowhere = tempfile::tempdir().unwrap();
        let mut environment = Environment::default();
        environment.layout.banger_root = Some(nowhere.path().into());
        let Parsed::Print(text) = parse(&words(line), &environment) else {
            panic!("{line} prints nothing");
        };
        assert!(
            text.contains("Usage: ") && text.contains("Commands:"),
            "{text}"
        );
    }
}

#[test]
fn what_fingers_know_is_understood() {
    for line in [
        "banger run --rm -it debian bash",
        "banger run -dq --name x debian",
        "banger run -e A=1 -e B -u 0:0 -w / -m 512 --vcpu 2 --disk-size 4gib debian",
        "banger run --kernel-ref k --image debian -- true",
        "banger ps -a",
        "banger ps -aq",
        "banger exec -it web sh",
        "banger logs -f --tail 10 web",
        "banger logs --tail all web",
        "banger logs -n 3 web",
        "banger start a b",
        "banger stop --time 3 a",
        "banger rm -f a b",
        "banger images",
        "banger rmi -f a",
        "banger pull debian:12 --name x --kernel-ref k",
        "banger inspect a b",
        "banger vm ls -a",
        "banger vm rm a",
        "banger image ls",
        "banger image rm a",
        "banger kernel ls --available",
        "banger kernel rm k",
        "banger operation ls",
        "banger --json vm list",
        "banger vm list --json",
    ] {
        if let Err(error) = parse_with(command(), &words(line)) {
            panic!("{line}: {error}");
        }
    }
}
