//! The few arguments of `bangerd`.

use std::ffi::OsString;

use bangerd::real::LAUNCH_ARGUMENT;

pub const HELP: &str = "\
bangerd, the daemon of banger

Usage: bangerd [--version | --help]

It serves in the foreground until SIGTERM or SIGINT; VMs go on when it ends. The banger command
starts one when it needs it.

As root everything lives in /etc/banger, /var/lib/banger and /run/banger, for other users in their
XDG directories. BANGER_ROOT=DIR puts all of it under one directory. BANGER_LOG_LEVEL is error,
warn, info, debug or trace. The keys of config.toml are in docs/configuration.md.
";

/// What the program is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Arguments {
    Serve { started_by_client: bool },
    Launch,
    Version,
    Help,
}

/// # Errors
/// An argument is not known.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, String> {
    let mut started_by_client = false;
    for argument in arguments {
        match argument.to_str() {
            // The launcher's own arguments follow, and are its business.
            Some(LAUNCH_ARGUMENT) => return Ok(Arguments::Launch),
            Some("--started-by-client") => started_by_client = true,
            Some("--version" | "-V") => return Ok(Arguments::Version),
            Some("--help" | "-h") => return Ok(Arguments::Help),
            _ => {
                return Err(format!(
                    "unknown argument {}: see bangerd --help",
                    argument.display()
                ));
            }
        }
    }
    Ok(Arguments::Serve { started_by_client })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let parse = |words: &[&str]| parse(words.iter().map(OsString::from));
        for (words, expected) in [
            (
                &[][..],
                Arguments::Serve {
                    started_by_client: false,
                },
            ),
            (
                &["--started-by-client"],
                Arguments::Serve {
                    started_by_client: true,
                },
            ),
            (&["launch", "--anything"], Arguments::Launch),
            (&["--version"], Arguments::Version),
            (&["-h"], Arguments::Help),
        ] {
            assert_eq!(parse(words), Ok(expected), "{words:?}");
        }
        assert!(parse(&["--fake"]).is_err());
        assert!(parse(&["serve"]).is_err());
    }
}
