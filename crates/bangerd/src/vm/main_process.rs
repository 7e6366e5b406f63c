//! What a VM's `main` runs.
//!
//! Decided when the guest is up, because only then it is known which init the image has. A command
//! that is given is exactly what runs: unlike `docker run` the image's entrypoint is not put before
//! it, since the command names a program of the machine and not an argument of the image's.

use banger_protocol::api::image::ImageConfig;
use banger_protocol::api::vm::InitChoice;
use banger_protocol::bytes::ByteString;

/// The command of `main`; `None` where there is nothing to run but the machine itself.
///
/// The image's entrypoint and cmd count only where the agent is process 1, and only where they are
/// more than a shell waiting for input or an init: a machine has those anyway.
pub fn main_command(
    config: &ImageConfig,
    init: InitChoice,
    requested: &[ByteString],
) -> Option<Vec<ByteString>> {
    if !requested.is_empty() {
        return Some(requested.to_vec());
    }
    if init == InitChoice::Image {
        return None;
    }
    let command: Vec<&str> = config
        .entrypoint
        .iter()
        .chain(&config.cmd)
        .map(String::as_str)
        .collect();
    match command.as_slice() {
        [] | ["", ..] => None,
        [program, arguments @ ..] if is_bare_shell(program, arguments) || is_init(program) => None,
        _ => Some(
            command
                .into_iter()
                .map(|word| ByteString(word.as_bytes().to_vec()))
                .collect(),
        ),
    }
}

/// A shell that would read commands from its input.
fn is_bare_shell(program: &str, arguments: &[&str]) -> bool {
    const SHELLS: [&str; 9] = [
        "sh", "bash", "dash", "ash", "zsh", "ksh", "fish", "csh", "tcsh",
    ];
    SHELLS.contains(&last_component(program))
        && arguments
            .iter()
            .all(|argument| matches!(*argument, "-l" | "-i" | "-li" | "-il" | "--login"))
}

fn is_init(program: &str) -> bool {
    matches!(last_component(program), "init" | "systemd")
}

fn last_component(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The exit code of a process as a shell tells it: 128 + n where signal n ended it.
pub fn shell_exit_code(code: Option<i32>, signal: Option<i32>) -> i32 {
    match (code, signal) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128i32.saturating_add(signal),
        (None, None) => 255,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_table() {
        use InitChoice::{Agent, Image};
        for (entrypoint, cmd, init, requested, expected) in [
            ("", "", Agent, "", ""),
            ("", "bash", Agent, "", ""),
            ("", "/bin/sh", Agent, "", ""),
            ("/bin/bash", "-l", Agent, "", ""),
            ("", "/sbin/init", Agent, "", ""),
            ("/lib/systemd/systemd", "--log-level=debug", Agent, "", ""),
            ("", "nginx -g daemon-off", Agent, "", "nginx -g daemon-off"),
            ("/entry.sh", "postgres", Agent, "", "/entry.sh postgres"),
            ("/bin/sh -c", "", Agent, "", "/bin/sh -c"),
            ("", "sh -c ls", Agent, "", "sh -c ls"),
            ("sh", "script.sh", Agent, "", "sh script.sh"),
            // A command is exactly what runs, whatever the image says.
            ("/entry.sh", "postgres", Agent, "ls -l", "ls -l"),
            ("", "", Agent, "bash", "bash"),
            ("", "", Image, "ls", "ls"),
            // Under the image's init, entrypoint and cmd are never executed.
            ("/entry.sh", "postgres", Image, "", ""),
        ] {
            let config = ImageConfig {
                entrypoint: words(entrypoint),
                cmd: words(cmd),
                ..ImageConfig::default()
            };
            let requested: Vec<ByteString> = words(requested)
                .into_iter()
                .map(|word| ByteString(word.into_bytes()))
                .collect();
            let got = main_command(&config, init, &requested).map(|command| {
                let words: Vec<String> = command
                    .into_iter()
                    .map(|word| String::from_utf8(word.0).unwrap())
                    .collect();
                words.join(" ")
            });
            let expected = Some(expected.to_owned()).filter(|text| !text.is_empty());
            assert_eq!(got, expected, "{entrypoint} | {cmd} | {init:?}");
        }
    }

    #[test]
    fn exit_codes() {
        assert_eq!(shell_exit_code(Some(3), None), 3);
        assert_eq!(shell_exit_code(None, Some(9)), 137);
        assert_eq!(shell_exit_code(None, None), 255);
    }
}
