//! Whether the process gets a terminal and our stdin. Pure.

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// It runs on a pseudo-terminal.
    pub terminal: bool,
    /// Our stdin is sent to it.
    pub stdin: bool,
}

impl Plan {
    /// A terminal where `-t` asks for it, or where no command is given and somebody sits at a
    /// terminal. stdin where `-i` or a terminal ask for it, and wherever it is a pipe or a file; a
    /// command that is started at a terminal without either does not take the keyboard.
    pub fn new(
        tty: bool,
        interactive: bool,
        has_command: bool,
        stdin_is_terminal: bool,
        stdout_is_terminal: bool,
    ) -> Plan {
        let somebody_sits_there = stdin_is_terminal && stdout_is_terminal;
        let terminal = tty || (!has_command && somebody_sits_there);
        Plan {
            terminal,
            stdin: terminal || interactive || !stdin_is_terminal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans() {
        // -t, -i, command, stdin is a terminal, stdout is one => terminal, stdin
        for (tty, interactive, command, stdin, stdout, terminal, forwarded) in [
            // banger vm run debian
            (false, false, false, true, true, true, true),
            // banger vm run debian > file
            (false, false, false, true, false, false, false),
            // echo ls | banger vm run debian
            (false, false, false, false, true, false, true),
            // banger vm exec web -- make
            (false, false, true, true, true, false, false),
            // echo hi | banger vm exec web -- cat
            (false, false, true, false, true, false, true),
            // banger vm exec -i web -- cat
            (false, true, true, true, true, false, true),
            // banger vm exec -t web -- top
            (true, false, true, true, true, true, true),
            // banger vm exec -it web -- sh < script
            (true, true, true, false, true, true, true),
        ] {
            assert_eq!(
                Plan::new(tty, interactive, command, stdin, stdout),
                Plan {
                    terminal,
                    stdin: forwarded
                },
                "-t {tty} -i {interactive} command {command} {stdin} {stdout}"
            );
        }
    }
}
