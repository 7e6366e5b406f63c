//! Where one banger lives on the host: configuration, state, socket, log.
//!
//! ```text
//!                  config file                   state                     socket's directory
//! BANGER_ROOT=DIR  DIR/config.toml               DIR/state                 DIR/run
//! root             /etc/banger/config.toml       /var/lib/banger           /run/banger
//! other users      $XDG_CONFIG_HOME/banger/…     $XDG_STATE_HOME/banger    $XDG_RUNTIME_DIR/banger
//!                  (~/.config)                   (~/.local/state)          (the state directory's run/)
//! ```
//!
//! CLI and daemon compute the same places from the same environment, so that they find each other.
//! All but [`check_private`] is a function of its arguments and touches nothing. Bases, kernels and
//! VMs share one directory on purpose: VMs hold their files by hard links, which cannot leave a
//! file system.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The variables that decide, as they are in the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    pub banger_root: Option<OsString>,
    pub home: Option<OsString>,
    pub xdg_config_home: Option<OsString>,
    pub xdg_state_home: Option<OsString>,
    pub xdg_runtime_dir: Option<OsString>,
    /// What a relative `BANGER_ROOT` is relative to.
    pub current_dir: PathBuf,
}

impl Environment {
    /// This process's environment.
    pub fn of_this_process() -> Self {
        Environment {
            banger_root: std::env::var_os("BANGER_ROOT"),
            home: std::env::var_os("HOME"),
            xdg_config_home: std::env::var_os("XDG_CONFIG_HOME"),
            xdg_state_home: std::env::var_os("XDG_STATE_HOME"),
            xdg_runtime_dir: std::env::var_os("XDG_RUNTIME_DIR"),
            current_dir: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
        }
    }
}

/// Whose banger it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `BANGER_ROOT` names it.
    Root,
    /// root's, for all members of its socket's group.
    System,
    /// One ordinary user's.
    User,
}

/// The places of one banger. All paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub kind: Kind,
    pub config_file: PathBuf,
    /// Everything that is kept.
    pub state: PathBuf,
    /// Directory of the socket.
    pub runtime: PathBuf,
}

/// Why there is no layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error("HOME is not set to an absolute path, so there is no place for banger's files")]
    NoHome,
    #[error("BANGER_ROOT is {0:?}, which is no absolute path and the current directory is unknown")]
    RelativeRoot(OsString),
}

/// Unset and empty are the same, and the XDG specification says to ignore relative paths.
fn absolute(value: &Option<OsString>) -> Option<PathBuf> {
    value
        .as_ref()
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

impl Layout {
    /// The layout of a daemon that this user starts here: `BANGER_ROOT`'s, else root's or the
    /// user's own.
    ///
    /// # Errors
    /// [`LayoutError`] where a needed variable is missing or useless.
    pub fn own(environment: &Environment, uid: u32) -> Result<Layout, LayoutError> {
        if let Some(root) = environment
            .banger_root
            .as_ref()
            .filter(|root| !root.is_empty())
        {
            let root_directory = environment.current_dir.join(root);
            if !root_directory.is_absolute() {
                return Err(LayoutError::RelativeRoot(root.clone()));
            }
            return Ok(Layout {
                kind: Kind::Root,
                config_file: root_directory.join("config.toml"),
                state: root_directory.join("state"),
                runtime: root_directory.join("run"),
            });
        }
        if uid == 0 {
            return Ok(Layout::system());
        }
        let home = absolute(&environment.home);
        let place = |variable: &Option<OsString>, below_home: &str| {
            absolute(variable)
                .or_else(|| home.as_ref().map(|home| home.join(below_home)))
                .map(|directory| directory.join("banger"))
                .ok_or(LayoutError::NoHome)
        };
        let state = place(&environment.xdg_state_home, ".local/state")?;
        Ok(Layout {
            kind: Kind::User,
            config_file: place(&environment.xdg_config_home, ".config")?.join("config.toml"),
            runtime: absolute(&environment.xdg_runtime_dir)
                .map_or_else(|| state.join("run"), |directory| directory.join("banger")),
            state,
        })
    }

    /// root's layout.
    pub fn system() -> Layout {
        Layout {
            kind: Kind::System,
            config_file: PathBuf::from("/etc/banger/config.toml"),
            state: PathBuf::from("/var/lib/banger"),
            runtime: PathBuf::from("/run/banger"),
        }
    }

    /// The daemons a client of this user may talk to, best first: `BANGER_ROOT` alone where it is
    /// set; else root's, then the user's own. Only the last one may be started by the client.
    ///
    /// # Errors
    /// As [`Layout::own`].
    pub fn candidates(environment: &Environment, uid: u32) -> Result<Vec<Layout>, LayoutError> {
        let own = Layout::own(environment, uid)?;
        Ok(match own.kind {
            Kind::User => vec![Layout::system(), own],
            Kind::Root | Kind::System => vec![own],
        })
    }

    /// The daemon's listening socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("bangerd.sock")
    }

    /// Log of a daemon that nobody's terminal or service manager listens to.
    pub fn log(&self) -> PathBuf {
        self.state.join("bangerd.log")
    }
}

/// Why a directory cannot hold what belongs to one user.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    #[error("cannot inspect {path}")]
    Inspect {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{0} is not a directory; symbolic links are refused here")]
    NotADirectory(PathBuf),
    #[error("{path} belongs to user {owner}, not to {expected}")]
    Owner {
        path: PathBuf,
        owner: u32,
        expected: u32,
    },
    #[error("{path} has mode {mode:03o}: others may write to it")]
    Writable { path: PathBuf, mode: u32 },
}

/// Checks that nobody but `uid` can put anything into `directory`, and that it is no symbolic link.
///
/// # Errors
/// [`PrivateError`] says which of these is not so.
pub fn check_private(directory: &Path, uid: u32) -> Result<(), PrivateError> {
    let metadata =
        std::fs::symlink_metadata(directory).map_err(|source| PrivateError::Inspect {
            path: directory.to_owned(),
            source,
        })?;
    if !metadata.is_dir() {
        return Err(PrivateError::NotADirectory(directory.to_owned()));
    }
    if metadata.uid() != uid {
        return Err(PrivateError::Owner {
            path: directory.to_owned(),
            owner: metadata.uid(),
            expected: uid,
        });
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(PrivateError::Writable {
            path: directory.to_owned(),
            mode,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let mut environment = Environment {
            current_dir: PathBuf::from("/here"),
            ..Environment::default()
        };
        for (name, value) in variables {
            let value = Some(OsString::from(value));
            match *name {
                "BANGER_ROOT" => environment.banger_root = value,
                "HOME" => environment.home = value,
                "XDG_CONFIG_HOME" => environment.xdg_config_home = value,
                "XDG_STATE_HOME" => environment.xdg_state_home = value,
                "XDG_RUNTIME_DIR" => environment.xdg_runtime_dir = value,
                other => panic!("{other}"),
            }
        }
        environment
    }

    #[test]
    fn places() {
        type Case = (
            &'static [(&'static str, &'static str)],
            u32,
            [&'static str; 3],
        );
        let cases: &[Case] = &[
            (
                &[("BANGER_ROOT", "/b"), ("HOME", "/home/u")],
                1000,
                ["/b/config.toml", "/b/state", "/b/run/bangerd.sock"],
            ),
            (
                &[("BANGER_ROOT", "rel")],
                0,
                [
                    "/here/rel/config.toml",
                    "/here/rel/state",
                    "/here/rel/run/bangerd.sock",
                ],
            ),
            (
                &[
                    ("BANGER_ROOT", ""),
                    ("HOME", "/root"),
                    ("XDG_STATE_HOME", "/x"),
                ],
                0,
                [
                    "/etc/banger/config.toml",
                    "/var/lib/banger",
                    "/run/banger/bangerd.sock",
                ],
            ),
            (
                &[("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/1000")],
                1000,
                [
                    "/home/u/.config/banger/config.toml",
                    "/home/u/.local/state/banger",
                    "/run/user/1000/banger/bangerd.sock",
                ],
            ),
            (
                &[("HOME", "/home/u")],
                1000,
                [
                    "/home/u/.config/banger/config.toml",
                    "/home/u/.local/state/banger",
                    "/home/u/.local/state/banger/run/bangerd.sock",
                ],
            ),
            (
                &[
                    ("HOME", "/home/u"),
                    ("XDG_CONFIG_HOME", "/c"),
                    ("XDG_STATE_HOME", "/s"),
                    ("XDG_RUNTIME_DIR", "relative/is/ignored"),
                ],
                1000,
                [
                    "/c/banger/config.toml",
                    "/s/banger",
                    "/s/banger/run/bangerd.sock",
                ],
            ),
            (
                &[("XDG_CONFIG_HOME", "/c"), ("XDG_STATE_HOME", "/s")],
                1000,
                [
                    "/c/banger/config.toml",
                    "/s/banger",
                    "/s/banger/run/bangerd.sock",
                ],
            ),
        ];
        for (variables, uid, expected) in cases {
            let layout = Layout::own(&environment(variables), *uid).unwrap();
            assert_eq!(
                [
                    layout.config_file.clone(),
                    layout.state.clone(),
                    layout.socket()
                ],
                expected.map(PathBuf::from),
                "{variables:?}"
            );
        }
    }

    #[test]
    fn an_ordinary_user_without_home_is_told() {
        for home in [&[][..], &[("HOME", "")], &[("HOME", "relative")]] {
            assert_eq!(
                Layout::own(&environment(home), 1000),
                Err(LayoutError::NoHome)
            );
        }
    }

    #[test]
    fn clients_try_roots_daemon_before_their_own() {
        let kinds = |variables: &[(&str, &str)], uid| -> Vec<Kind> {
            Layout::candidates(&environment(variables), uid)
                .unwrap()
                .iter()
                .map(|layout| layout.kind)
                .collect()
        };
        assert_eq!(kinds(&[("HOME", "/h")], 1000), [Kind::System, Kind::User]);
        assert_eq!(kinds(&[("HOME", "/h")], 0), [Kind::System]);
        assert_eq!(
            kinds(&[("HOME", "/h"), ("BANGER_ROOT", "/b")], 1000),
            [Kind::Root]
        );
    }

    #[test]
    fn private_directories() {
        let directory = tempfile::tempdir().unwrap();
        let uid = std::fs::metadata(directory.path()).unwrap().uid();
        assert!(check_private(directory.path(), uid).is_ok());
        assert!(matches!(
            check_private(directory.path(), uid + 1),
            Err(PrivateError::Owner { .. })
        ));
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        assert!(matches!(
            check_private(&link, uid),
            Err(PrivateError::NotADirectory(_))
        ));
        assert!(matches!(
            check_private(&directory.path().join("absent"), uid),
            Err(PrivateError::Inspect { .. })
        ));
        let open = directory.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(
            check_private(&open, uid),
            Err(PrivateError::Writable { mode: 0o777, .. })
        ));
    }
}
