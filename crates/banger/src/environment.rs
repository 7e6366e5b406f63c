//! Every environment variable the CLI reads, in one documented type.
//!
//! Read once in `main` and handed down; no other file of this crate asks the environment. The
//! completion engine's own variable, [`COMPLETION_VARIABLE`], is the one exception: the engine
//! reads it before anything else runs. bangerd inherits the whole environment when the CLI starts
//! it, so its variables (`BANGER_LOG_LEVEL`, `BANGER_AGENT`) are set the same way.

use std::ffi::OsString;
use std::path::PathBuf;

use banger_host::layout;

/// Asks for completions instead of a normal run; set by the script of `banger completion`.
pub const COMPLETION_VARIABLE: &str = "BANGER_COMPLETE";

/// The environment as the CLI uses it.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `BANGER_ROOT`, `HOME`, `XDG_CONFIG_HOME`, `XDG_STATE_HOME`, `XDG_RUNTIME_DIR`: which
    /// daemon, and where it lives.
    pub layout: layout::Environment,
    /// `BANGERD`: the daemon program to start, instead of the one beside the CLI or on `PATH`.
    pub bangerd: Option<PathBuf>,
    /// `PATH`: where `bangerd` is looked for when it does not lie beside the CLI.
    pub path: Option<OsString>,
    /// `DOCKER_CONFIG`: directory of docker's `config.json`; by default `~/.docker`.
    pub docker_config: Option<PathBuf>,
    /// `TERM`: handed to a command that gets a terminal.
    pub term: Option<OsString>,
    /// All of them, for `--env NAME`, which takes a value from here.
    pub variables: Vec<(OsString, OsString)>,
}

impl Environment {
    /// This process's environment.
    pub fn of_this_process() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Environment {
            layout: layout::Environment::of_this_process(),
            bangerd: set("BANGERD").map(PathBuf::from),
            path: set("PATH"),
            docker_config: set("DOCKER_CONFIG")
                .map(PathBuf::from)
                .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".docker"))),
            term: set("TERM"),
            variables: std::env::vars_os().collect(),
        }
    }

    /// The value of any variable, for `--env NAME`.
    pub fn variable(&self, name: &OsString) -> Option<&OsString> {
        self.variables
            .iter()
            .find(|(candidate, _)| candidate == name)
            .map(|(_, value)| value)
    }
}
