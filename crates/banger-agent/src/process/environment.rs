//! A process's environment, and where its program is looked for. Pure.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use banger_protocol::agent::ProcessSpec;

use crate::user::User;

const PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The spec's variables, the last of each name, and what every process has besides.
pub fn complete(spec: &ProcessSpec, user: &User) -> Vec<Vec<u8>> {
    let mut env: Vec<Vec<u8>> = Vec::new();
    // Where each name is: an image may come with very many.
    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut set = |variable: Vec<u8>, over: bool| match places.entry(name(&variable).to_vec()) {
        Entry::Occupied(known) if over => env[*known.get()] = variable,
        Entry::Occupied(_) => {}
        Entry::Vacant(place) => {
            place.insert(env.len());
            env.push(variable);
        }
    };
    for variable in &spec.env {
        if variable.as_bytes().contains(&b'=') {
            set(variable.0.clone(), true);
        }
    }
    let mut default = |name: &str, value: &[u8]| {
        set([name.as_bytes(), b"=", value].concat(), false);
    };
    default("PATH", PATH);
    default("HOME", &user.home);
    default("USER", &user.name);
    default("LOGNAME", &user.name);
    default("SHELL", &user.shell);
    if let Some(terminal) = &spec.terminal {
        let term = terminal
            .term
            .as_ref()
            .map_or(&b"xterm"[..], |term| term.as_bytes());
        default("TERM", term);
    }
    env
}

fn name(variable: &[u8]) -> &[u8] {
    let end = variable.iter().position(|byte| *byte == b'=');
    &variable[..end.unwrap_or(variable.len())]
}

/// Paths to try for `program`: itself where it has a slash, else one for each directory of PATH.
pub fn candidates(program: &[u8], env: &[Vec<u8>]) -> Vec<Vec<u8>> {
    if program.contains(&b'/') || program.is_empty() {
        return vec![program.to_vec()];
    }
    let path = env
        .iter()
        .find_map(|variable| variable.strip_prefix(b"PATH="))
        .unwrap_or(PATH);
    path.split(|byte| *byte == b':')
        .map(|directory| match directory {
            // The working directory, as POSIX has it.
            [] => [b"./", program].concat(),
            [.., b'/'] => [directory, program].concat(),
            _ => [directory, b"/", program].concat(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_protocol::agent::Terminal;

    fn user() -> User {
        User {
            uid: 5,
            gid: 5,
            groups: vec![5],
            name: b"joe".to_vec(),
            home: b"/home/joe".to_vec(),
            shell: b"/bin/sh".to_vec(),
        }
    }

    fn text(env: &[Vec<u8>]) -> Vec<String> {
        env.iter()
            .map(|variable| String::from_utf8_lossy(variable).into_owned())
            .collect()
    }

    #[test]
    fn what_is_missing_is_added_and_the_last_of_a_name_wins() {
        let spec = ProcessSpec {
            env: vec![
                "A=1".into(),
                "HOME=/x".into(),
                "nonsense".into(),
                "A=2".into(),
            ],
            terminal: Some(Terminal::default()),
            ..ProcessSpec::default()
        };
        assert_eq!(
            text(&complete(&spec, &user())),
            [
                "A=2",
                "HOME=/x",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "USER=joe",
                "LOGNAME=joe",
                "SHELL=/bin/sh",
                "TERM=xterm",
            ]
        );
    }

    /// As many as fit into a request: comparing each with all others would take hours.
    #[test]
    fn very_many_variables_take_no_time() {
        let start = std::time::Instant::now();
        let spec = ProcessSpec {
            env: (0..300_000)
                .map(|number| format!("V{number}=").as_str().into())
                .collect(),
            ..ProcessSpec::default()
        };
        assert_eq!(complete(&spec, &user()).len(), 300_005);
        assert!(start.elapsed().as_secs() < 20);
    }

    #[test]
    fn programs_are_searched_like_a_shell_does() {
        let env = |path: &str| vec![format!("PATH={path}").into_bytes()];
        assert_eq!(text(&candidates(b"a/b", &env("/x"))), ["a/b"]);
        assert_eq!(text(&candidates(b"", &env("/x"))), [""]);
        assert_eq!(
            text(&candidates(b"ls", &env("/x:/y/::z"))),
            ["/x/ls", "/y/ls", "./ls", "z/ls"]
        );
        assert_eq!(candidates(b"ls", &[]).len(), 6);
    }
}
