//! The command tree itself, and how command lines are taken apart.

use super::*;
use crate::commands::vm;

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
