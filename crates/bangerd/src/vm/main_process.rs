//! What a VM's `main` runs.
//!
//! Decided when the guest is up, because only then it is known which init the image has. A command
//! that is given is exactly what runs: unlike `docker run` the image's entrypoint is not put before
//! it, since the command names a program of the machine and not an argument of the image's.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use banger_protocol::agent::{ProcessSpec, Terminal};
use banger_protocol::api::exec::ExecRequest;
use banger_protocol::api::image::ImageConfig;
use banger_protocol::api::vm::InitChoice;
use banger_protocol::bytes::ByteString;

use super::spec::VmSpec;

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

/// The spec's own `main`, without a terminal and without input.
pub fn process_spec(spec: &VmSpec, command: Vec<ByteString>) -> ProcessSpec {
    requested_process(
        spec,
        ExecRequest {
            command,
            ..ExecRequest::default()
        },
    )
}

/// What a request runs: its own words first, then the VM's, then the image's.
pub fn requested_process(spec: &VmSpec, request: ExecRequest) -> ProcessSpec {
    let image = &spec.image_config;
    let image_env = image
        .env
        .iter()
        .map(|variable| ByteString(variable.as_bytes().to_vec()));
    let word = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let own_workdir = request.workdir.is_some() || spec.workdir.is_some();
    ProcessSpec {
        argv: request.command,
        env: merge_env(image_env.chain(spec.env.iter().cloned()).chain(request.env)),
        user: request
            .user
            .or_else(|| spec.user.clone())
            .or_else(|| word(&image.user)),
        workdir: request
            .workdir
            .or_else(|| spec.workdir.clone())
            .or_else(|| word(&image.workdir).map(|path| ByteString(path.into_bytes()))),
        // An image may name a directory it does not have; a person who does has mistyped.
        make_workdir: !own_workdir,
        terminal: request.terminal.map(|size| Terminal {
            rows: size.rows,
            columns: size.columns,
            term: None,
        }),
        stdin: request.stdin,
    }
}

/// Later values replace earlier ones in their place. What has no name is left out.
fn merge_env(variables: impl Iterator<Item = ByteString>) -> Vec<ByteString> {
    let mut merged: Vec<ByteString> = Vec::new();
    // An image, and a client, may have as many as they like.
    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    for variable in variables {
        let Some(end) = variable.0.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        match places.entry(variable.0[..end].to_vec()) {
            Entry::Occupied(place) => merged[*place.get()] = variable,
            Entry::Vacant(place) => {
                place.insert(merged.len());
                merged.push(variable);
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::spec::tests::row;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Takes many minutes where each is compared with all before it.
    #[test]
    fn many_variables_are_merged_at_once() {
        let variable = |number: u32, value: &str| ByteString(format!("V{number}={value}").into());
        let many = 300_000;
        let first = (0..many).map(|number| variable(number, "a"));
        let merged = merge_env(first.chain([variable(7, "b"), variable(many, "c")]));
        assert_eq!(merged.len(), many as usize + 1);
        assert_eq!(merged[7], variable(7, "b"));
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

    fn bytes(text: &str) -> ByteString {
        ByteString(text.as_bytes().to_vec())
    }

    #[test]
    fn a_request_comes_before_the_vm_and_the_vm_before_its_image() {
        let mut spec = row("web").spec;
        spec.image_config = ImageConfig {
            env: words("A=image AB=image C=image nonsense"),
            user: "image".to_owned(),
            workdir: "/image".to_owned(),
            ..ImageConfig::default()
        };
        let process = process_spec(&spec, vec![bytes("x")]);
        assert_eq!(process.user.as_deref(), Some("image"));
        assert_eq!(process.workdir, Some(bytes("/image")));
        assert!(process.make_workdir && !process.stdin);

        spec.env = vec![bytes("A=vm"), bytes("D=vm")];
        spec.user = Some("vm".to_owned());
        spec.workdir = Some(bytes("/vm"));
        let process = process_spec(&spec, vec![bytes("x")]);
        assert_eq!(process.user.as_deref(), Some("vm"));
        assert_eq!(process.workdir, Some(bytes("/vm")));
        assert!(!process.make_workdir);

        let process = requested_process(
            &spec,
            ExecRequest {
                env: vec![bytes("D=request=1"), bytes("E=")],
                user: Some("request".to_owned()),
                workdir: Some(bytes("/request")),
                stdin: true,
                ..ExecRequest::default()
            },
        );
        let expected = ["A=vm", "AB=image", "C=image", "D=request=1", "E="].map(bytes);
        assert_eq!(process.env, expected);
        assert_eq!(process.user.as_deref(), Some("request"));
        assert_eq!(process.workdir, Some(bytes("/request")));
        assert!(process.argv.is_empty() && process.stdin);
    }
}
