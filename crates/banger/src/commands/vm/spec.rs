//! The flags that describe a machine or a process in it, and what they mean. Pure but for the
//! variables that `--env NAME` takes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use banger_protocol::api::vm::{CreateVm, InitChoice};
use banger_protocol::bytes::ByteString;
use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::name::{KernelName, VmName};
use banger_protocol::size;
use clap::{Args, ValueEnum};
use clap_complete::ArgValueCompleter;

use crate::completion;
use crate::environment::Environment;
use crate::source::{self, Source};

/// Flags of a new machine.
#[derive(Debug, Args)]
pub struct Machine {
    /// Its name, a DNS label; made up where it is left out
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub name: Option<VmName>,
    /// Number of virtual processors
    #[arg(long, alias = "vcpus", alias = "cpus", value_name = "N", allow_hyphen_values = true,
          value_parser = vcpus)]
    pub vcpu: Option<u32>,
    /// Memory: integer and K, M, G or T; bare means MiB
    #[arg(long, short, value_name = "SIZE", allow_hyphen_values = true, value_parser = mib)]
    pub memory: Option<u64>,
    /// Size of its writable disk, which takes space only as it fills
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = mib)]
    pub disk_size: Option<u64>,
    /// Kernel to boot
    #[arg(long, alias = "kernel-ref", value_name = "NAME",
          add = ArgValueCompleter::new(completion::kernels))]
    pub kernel: Option<KernelName>,
    /// What is process 1: banger's agent, or the image's own init [default: image where it has
    /// systemd, else agent]
    #[arg(long, value_enum)]
    pub init: Option<Init>,
    #[command(flatten)]
    pub process: Process,
}

/// Flags of a process.
#[derive(Debug, Args)]
pub struct Process {
    /// Set a variable, or take NAME's value from here; may be given several times
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    pub env: Vec<OsString>,
    /// Run as this user: name, uid, name:group or uid:gid
    #[arg(long, short, value_name = "USER")]
    pub user: Option<String>,
    /// Run in this directory of the machine
    #[arg(long, short, value_name = "DIR")]
    pub workdir: Option<OsString>,
}

/// The command of `run` and `exec`, behind `--` or not. Two positionals, because only the last one
/// of a command line can hold what follows `--` while the one before it is left out.
#[derive(Debug, Default, Args)]
pub struct Words {
    /// Command and arguments, exactly what runs
    #[arg(value_name = "CMD", num_args = 0.., allow_hyphen_values = true)]
    bare: Vec<OsString>,
    /// Command and arguments
    #[arg(value_name = "CMD", last = true, hide = true)]
    after_dashes: Vec<OsString>,
}

impl Words {
    /// All of them in order.
    ///
    /// # Errors
    /// The first looks like a flag that banger does not have, and is not behind `--`.
    pub fn all(self) -> Result<Vec<OsString>, ApiError> {
        if let Some(word) = self.bare.first().filter(|w| w.as_bytes().starts_with(b"-")) {
            return Err(ApiError::new(
                ErrorKind::InvalidArgument,
                format!("there is no flag {word:?} here"),
            )
            .hint("put -- before a command that begins with a dash"));
        }
        Ok([self.bare, self.after_dashes].concat())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Init {
    Agent,
    Image,
}

fn vcpus(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("write a whole number from 1 on".to_owned()),
        Ok(number) => Ok(number),
    }
}

fn mib(text: &str) -> Result<u64, String> {
    match size::parse_mib(text) {
        Ok(0) => Err("it must be more than nothing".to_owned()),
        Ok(mib) => Ok(mib),
        Err(error) => Err(error.to_string()),
    }
}

impl Machine {
    /// The request these flags make.
    ///
    /// # Errors
    /// A variable without a name, or a relative directory.
    pub fn request(
        self,
        environment: &Environment,
        image: Option<String>,
    ) -> Result<CreateVm, ApiError> {
        Ok(CreateVm {
            name: self.name,
            image,
            kernel: self.kernel,
            vcpus: self.vcpu,
            memory_mib: self.memory,
            disk_mib: self.disk_size,
            init: self.init.map(|init| match init {
                Init::Agent => InitChoice::Agent,
                Init::Image => InitChoice::Image,
            }),
            env: self.process.variables(environment)?,
            workdir: self.process.directory()?,
            user: self.process.user,
            ..CreateVm::default()
        })
    }
}

impl Process {
    /// The variables as `NAME=value`. One that is not set here is left out, as docker does.
    pub fn variables(&self, environment: &Environment) -> Result<Vec<ByteString>, ApiError> {
        let mut variables = Vec::with_capacity(self.env.len());
        for given in &self.env {
            let bytes = given.as_bytes();
            if bytes.is_empty() || bytes.starts_with(b"=") {
                return Err(ApiError::new(
                    ErrorKind::InvalidArgument,
                    format!("{given:?} is no variable"),
                )
                .hint("write --env NAME=VALUE, or --env NAME to take its value from here"));
            }
            if bytes.contains(&b'=') {
                variables.push(ByteString::from(given.clone()));
            } else if let Some(value) = environment.variable(given) {
                let mut pair = given.clone();
                pair.push("=");
                pair.push(value);
                variables.push(ByteString::from(pair));
            }
        }
        Ok(variables)
    }

    /// The working directory, absolute.
    pub fn directory(&self) -> Result<Option<ByteString>, ApiError> {
        match &self.workdir {
            Some(directory) if !directory.as_bytes().starts_with(b"/") => Err(ApiError::new(
                ErrorKind::InvalidArgument,
                format!("the working directory {directory:?} is not absolute"),
            )
            .hint("it is a directory of the machine: write it from / on")),
            other => Ok(other.clone().map(ByteString::from)),
        }
    }
}

/// The image of a command line: the positional or `--image`, not both.
///
/// # Errors
/// Both are given, the positional looks like a directory, or it is what only `image pull` takes.
pub fn image(flag: Option<String>, positional: Option<String>) -> Result<Option<String>, ApiError> {
    if let Some(word) = positional
        .as_ref()
        .filter(|word| word.starts_with(['.', '/', '~']))
    {
        return Err(ApiError::new(
            ErrorKind::Unsupported,
            format!("{word:?} is a directory to work in, which banger cannot do yet"),
        )
        .hint(
            "name an image first and put the command behind it: banger vm run IMAGE -- CMD; \
             a local image is pulled with: banger image pull rootfs:DIR",
        ));
    }
    for image in flag.iter().chain(&positional) {
        // A path comes here from the flag alone.
        let is_path = image.starts_with(['.', '/', '~']);
        if is_path || matches!(source::parse(image, |_| false)?, Source::Local(_)) {
            let source = if is_path {
                format!("rootfs:{image}")
            } else {
                image.clone()
            };
            return Err(ApiError::new(
                ErrorKind::InvalidArgument,
                format!("{image:?} is a local source, which has no name yet"),
            )
            .hint(format!(
                "first give it one: banger image pull {source} --name NAME"
            )));
        }
    }
    match (flag, positional) {
        (Some(flag), Some(positional)) => Err(ApiError::new(
            ErrorKind::InvalidArgument,
            format!("the image is given twice: {flag:?} and {positional:?}"),
        )
        .hint("put -- before a command")),
        (flag, positional) => Ok(flag.or(positional)),
    }
}

/// A command line for the guest: as it is, or through a login shell.
pub fn command(words: Vec<OsString>, shell: bool) -> Vec<ByteString> {
    const LOGIN_SHELL: &str = "exec \"${SHELL:-/bin/sh}\" -l";
    let mut words: Vec<ByteString> = words.into_iter().map(ByteString::from).collect();
    if !shell {
        return words;
    }
    let script = if words.is_empty() {
        vec![ByteString::from(LOGIN_SHELL)]
    } else {
        // As ssh does: the words are one line for the shell, which is its $0's first argument.
        let line: Vec<&[u8]> = words.iter().map(ByteString::as_bytes).collect();
        let line = line.join(&b' ');
        words.clear();
        vec![
            ByteString::from(format!("{LOGIN_SHELL} -c \"$1\"")),
            ByteString::from("sh"),
            ByteString::from(line),
        ]
    };
    [ByteString::from("/bin/sh"), ByteString::from("-c")]
        .into_iter()
        .chain(script)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_named_once_and_is_no_directory() {
        let image = |flag: Option<&str>, positional: Option<&str>| {
            super::image(flag.map(str::to_owned), positional.map(str::to_owned))
        };
        assert_eq!(image(None, None).unwrap(), None);
        assert_eq!(
            image(None, Some("debian:12")).unwrap().as_deref(),
            Some("debian:12")
        );
        assert_eq!(image(Some("a"), None).unwrap().as_deref(), Some("a"));
        assert_eq!(
            image(Some("a"), Some("b")).unwrap_err().kind,
            ErrorKind::InvalidArgument
        );
        for word in [".", "./x", "/srv", "~", "~/x", ".."] {
            let error = image(None, Some(word)).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unsupported);
            assert!(
                error.message.contains("directory to work in"),
                "{}",
                error.message
            );
        }
    }

    #[test]
    fn variables_have_values_or_take_them_from_here() {
        let environment = Environment {
            variables: vec![("HERE".into(), "a b".into())],
            ..Environment::default()
        };
        let process = |env: &[&str]| Process {
            env: env.iter().map(OsString::from).collect(),
            user: None,
            workdir: None,
        };
        assert_eq!(
            process(&["A=1=2", "HERE", "ABSENT", "E="])
                .variables(&environment)
                .unwrap(),
            ["A=1=2", "HERE=a b", "E="].map(ByteString::from)
        );
        for bad in ["", "=x"] {
            assert!(process(&[bad]).variables(&environment).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_working_directory_is_absolute() {
        let process = |directory: &str| Process {
            env: Vec::new(),
            user: None,
            workdir: Some(directory.into()),
        };
        assert!(process("/srv").directory().unwrap().is_some());
        assert!(process("srv").directory().is_err());
        assert!(process("").directory().is_err());
    }

    #[test]
    fn shells() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let text = |command: Vec<ByteString>| -> Vec<String> {
            command
                .iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(text(command(words(&["ls", "-l"]), false)), ["ls", "-l"]);
        assert_eq!(
            text(command(Vec::new(), true)),
            ["/bin/sh", "-c", "exec \"${SHELL:-/bin/sh}\" -l"]
        );
        // What the guest's shell makes of it, done by this host's.
        let run = command(words(&["echo", "$((1+1)) |", "tr 2 3"]), true);
        let output = std::process::Command::new(run[0].as_os_str())
            .args(run[1..].iter().map(ByteString::as_os_str))
            .env("SHELL", "/bin/sh")
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"3\n");
    }
}
