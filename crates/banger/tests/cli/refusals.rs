//! What the CLI refuses by itself: before it asks, and before it starts, any daemon.

use banger_protocol::error::ErrorKind;

use crate::support::{Fake, Run};

fn refused(arguments: &[&str]) -> Run {
    let nobody = Fake::absent();
    nobody.banger(arguments)
}

#[test]
fn bad_values_have_the_exit_code_of_their_kind() {
    let invalid = ErrorKind::InvalidArgument;
    for (line, kind, says) in [
        ("vm run .", ErrorKind::Unsupported, "directory to work in"),
        (
            "vm run ./x -- true",
            ErrorKind::Unsupported,
            "directory to work in",
        ),
        (
            "run /srv -- true",
            ErrorKind::Unsupported,
            "directory to work in",
        ),
        (
            "vm create ~/x",
            ErrorKind::Unsupported,
            "directory to work in",
        ),
        ("run --image a b", invalid, "twice"),
        ("run a --memroy 4G", invalid, "--memroy"),
        ("vm run --name Bad_Name a", invalid, "a-z"),
        ("vm run --name -x a", invalid, "a-z"),
        ("vm create --vcpu 0 a", invalid, "--vcpu"),
        ("vm create --vcpu -1 a", invalid, "\"-1\""),
        ("vm create --memory 0 a", invalid, "--memory"),
        ("vm create -m -5 a", invalid, "\"-5\""),
        ("vm create -m 1G5 a", invalid, "1G5"),
        ("vm create --disk-size 99999999T a", invalid, "8 EiB"),
        ("vm run -e =x a", invalid, "--env NAME"),
        ("vm run -w here a", invalid, "not absolute"),
        ("vm wait --for Godot a", invalid, "ready"),
        ("operation show nope", invalid, "operation id"),
        ("image pull oci:", invalid, "oci:PATH"),
        ("image pull oci:no/such", ErrorKind::NotFound, "no/such"),
        (
            "kernel import k --from no/such",
            ErrorKind::NotFound,
            "no/such",
        ),
        (
            "kernel import k --from /dev/null",
            invalid,
            "neither a file",
        ),
        ("kernel pull ../x", invalid, "../x"),
        ("kernel show ../x", invalid, "../x"),
        ("kernel delete ../x", invalid, "../x"),
        ("image pull ./x", invalid, "rootfs:./x"),
        ("vm run oci:x", invalid, "image pull oci:x --name"),
        (
            "vm create --image rootfs:/x",
            invalid,
            "image pull rootfs:/x --name",
        ),
        ("vm show Web", invalid, "beginning of its id"),
        ("exec a/b true", invalid, "beginning of its id"),
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        let run = refused(&arguments).fails(i32::from(kind.exit_code()), says);
        assert!(run.stderr().starts_with("banger: "), "{run}");
        assert_eq!(run.stdout(), "");

        let run = refused(&[&["--json"], arguments.as_slice()].concat());
        assert_eq!(run.code(), i32::from(kind.exit_code()), "{run}");
        assert_eq!(run.last_json()["error"]["kind"], kind.as_str(), "{run}");
    }
}

#[test]
fn usage_errors_are_2() {
    for line in [
        "nonsense",
        "vm nonsense",
        "vm run --nonsense a",
        "vm exec",
        "rm",
        "vm run -d -t a",
        "vm list extra",
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        let run = refused(&arguments).fails(2, "--help");
        assert!(run.stderr().starts_with("banger: "), "{run}");
        let run = refused(&[arguments.as_slice(), &["--json"]].concat());
        assert_eq!(run.code(), 2, "{run}");
        assert_eq!(run.last_json()["error"]["kind"], "invalid_argument");
    }
}

#[test]
fn groups_and_help_are_no_errors() {
    for group in [
        &[][..],
        &["vm"],
        &["image"],
        &["kernel"],
        &["daemon"],
        &["operation"],
    ] {
        let run = refused(group).ok();
        assert!(run.stdout().contains("Commands:"), "{run}");
        assert_eq!(run.stderr(), "");
    }
}

#[test]
fn a_root_that_is_too_long_for_a_socket() {
    let nobody = Fake::absent();
    let root = nobody.root().join("x".repeat(120));
    let mut command = nobody.command(&["vm", "list"]);
    Run::of(command.env("BANGER_ROOT", root)).fails(100, "too long");
}
