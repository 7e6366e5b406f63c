//! Runs a program and says precisely why it failed.
//!
//! Every program banger runs on the host, the VMM apart, goes through [`Program`]: a plain argument vector (never a
//! shell), messages in English (`LC_ALL=C.UTF-8`), a process group of its own which is killed
//! when the caller loses interest, output held within bounds, and an error that quotes the command
//! line, the exit status and the last lines of stderr.
//!
//! Limits: a program that leaves its process group outlives a kill. `SIGKILL` of this process
//! leaves the program running. Standard output is read to its end, so a program which hands it
//! to a background process is waited for; give such a program a [`Program::time_limit`].

mod error;
mod group;
mod search;
mod stream;
mod tail;

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

pub use error::{CommandError, Ending};
pub use search::{find, is_installed};
pub use stream::Stream;

use group::Group;
use tail::Tail;

/// Most bytes of standard output [`Program::run`] keeps unless told otherwise.
pub const DEFAULT_STDOUT_LIMIT: usize = 16 << 20;

/// A program to run, with its arguments and surroundings.
#[derive(Debug)]
pub struct Program {
    name: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    current_dir: Option<PathBuf>,
    stdin: Stdin,
    stdout_limit: usize,
    time_limit: Option<Duration>,
    accepted: Vec<i32>,
}

#[derive(Debug)]
enum Stdin {
    Null,
    Bytes(Vec<u8>),
    File(OwnedFd),
}

/// What a program left behind when it succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub stdout: Vec<u8>,
    /// The end of standard error, made printable.
    pub stderr: String,
    /// Exit code: 0 or one given to [`Program::accept`].
    pub code: i32,
}

impl Output {
    /// Standard output as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Program {
    /// `name` is looked up as [`find`] does.
    pub fn new(name: impl AsRef<OsStr>) -> Self {
        Self {
            name: name.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            current_dir: None,
            stdin: Stdin::Null,
            stdout_limit: DEFAULT_STDOUT_LIMIT,
            time_limit: None,
            accepted: vec![0],
        }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub fn args<I, S>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable on top of the inherited environment.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((key.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), None));
        self
    }

    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.current_dir = Some(directory.as_ref().to_owned());
        self
    }

    /// Feeds these bytes to standard input, which is otherwise empty.
    pub fn stdin_bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Stdin::Bytes(bytes.into());
        self
    }

    /// Uses an open file as standard input.
    pub fn stdin_file(mut self, file: impl Into<OwnedFd>) -> Self {
        self.stdin = Stdin::File(file.into());
        self
    }

    /// Most bytes of standard output [`Program::run`] accepts before it gives up.
    pub fn stdout_limit(mut self, bytes: usize) -> Self {
        self.stdout_limit = bytes;
        self
    }

    /// Kills the program when it has not ended after this long.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// Counts this exit code as success beside 0; [`Output::code`] tells them apart.
    pub fn accept(mut self, code: i32) -> Self {
        self.accepted.push(code);
        self
    }

    /// The command line for messages: quoted where needed, cut where too long.
    pub fn command_line(&self) -> String {
        error::render_argv(std::iter::once(&self.name).chain(&self.args))
    }

    /// Runs the program to its end and collects its output.
    ///
    /// Dropping the future kills the program's process group.
    pub async fn run(mut self) -> Result<Output, CommandError> {
        let mut group = self.spawn()?;
        let limit = self.time_limit;
        let work = self.collect(&mut group);
        match limit {
            None => work.await,
            Some(after) => match tokio::time::timeout(after, work).await {
                Ok(result) => result,
                Err(_) => {
                    group.kill_and_reap().await;
                    Err(CommandError::TimedOut {
                        command: self.command_line(),
                        after,
                    })
                }
            },
        }
    }

    /// Starts the program and hands out its standard output while it runs.
    pub fn stream(mut self) -> Result<Stream, CommandError> {
        let mut group = self.spawn()?;
        let stdin = std::mem::replace(&mut self.stdin, Stdin::Null);
        if let (Some(pipe), Stdin::Bytes(bytes)) = (group.child.stdin.take(), stdin) {
            // Detached on purpose: it ends when the program closes or dies.
            tokio::spawn(feed(pipe, bytes));
        }
        let stdout = group.child.stdout.take();
        let stderr = group.child.stderr.take();
        let tail = tokio::spawn(Tail::collect(stderr));
        Ok(Stream::new(self.spec(), group, stdout, tail))
    }

    fn spec(&self) -> stream::Spec {
        stream::Spec {
            command: self.command_line(),
            accepted: self.accepted.clone(),
            time_limit: self.time_limit,
        }
    }

    fn spawn(&mut self) -> Result<Group, CommandError> {
        let mut command = tokio::process::Command::new(&self.name);
        command
            .args(&self.args)
            .env("PATH", search::search_path())
            .env("LC_ALL", "C.UTF-8")
            // gettext obeys LANGUAGE before LC_ALL in every locale but plain "C".
            .env_remove("LANGUAGE")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        for (key, value) in &self.env {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        if let Some(directory) = &self.current_dir {
            command.current_dir(directory);
        }
        match &self.stdin {
            Stdin::Null => command.stdin(Stdio::null()),
            Stdin::Bytes(_) => command.stdin(Stdio::piped()),
            Stdin::File(file) => {
                let file = file
                    .try_clone()
                    .map_err(|source| self.start_error(source))?;
                command.stdin(Stdio::from(file))
            }
        };
        let child = command.spawn().map_err(|source| self.start_error(source))?;
        Ok(Group::new(child))
    }

    fn start_error(&self, source: std::io::Error) -> CommandError {
        // ENOENT also means a missing working directory or script interpreter.
        if source.kind() == std::io::ErrorKind::NotFound && !is_installed(&self.name) {
            return CommandError::NotFound {
                program: self.name.to_string_lossy().into_owned(),
            };
        }
        CommandError::Start {
            command: self.command_line(),
            source,
        }
    }

    async fn collect(&mut self, group: &mut Group) -> Result<Output, CommandError> {
        let stdin = std::mem::replace(&mut self.stdin, Stdin::Null);
        let pipe = group.child.stdin.take();
        let stdout = group.child.stdout.take();
        let stderr = group.child.stderr.take();
        let feeding = async {
            if let (Some(pipe), Stdin::Bytes(bytes)) = (pipe, stdin) {
                feed(pipe, bytes).await;
            }
            Ok(())
        };
        let tailing = async { Ok(Tail::collect(stderr).await) };
        let reading = read_bounded(stdout, self.stdout_limit);
        let ((), stdout, tail) = match tokio::try_join!(feeding, reading, tailing) {
            Ok(done) => done,
            Err(problem) => {
                group.kill_and_reap().await;
                let command = self.command_line();
                return Err(match problem {
                    ReadProblem::TooMuch => CommandError::TooMuchOutput {
                        command,
                        limit: self.stdout_limit,
                    },
                    ReadProblem::Io(source) => CommandError::Io { command, source },
                });
            }
        };
        let command = self.command_line();
        let code = group.wait(&command, &self.accepted, &tail).await?;
        Ok(Output {
            stdout,
            stderr: tail.into_text(),
            code,
        })
    }
}

/// Writes everything and closes. A program that stops reading early is judged by its exit
/// status alone, so a broken pipe is not an error here.
async fn feed(mut pipe: tokio::process::ChildStdin, bytes: Vec<u8>) {
    if pipe.write_all(&bytes).await.is_ok() {
        drop(pipe.shutdown().await);
    }
}

enum ReadProblem {
    TooMuch,
    Io(std::io::Error),
}

async fn read_bounded(
    reader: Option<impl AsyncRead + Unpin>,
    limit: usize,
) -> Result<Vec<u8>, ReadProblem> {
    let mut bytes = Vec::new();
    if let Some(reader) = reader {
        // One more than allowed, to tell "just fits" from "too much".
        let allowed = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        reader
            .take(allowed)
            .read_to_end(&mut bytes)
            .await
            .map_err(ReadProblem::Io)?;
    }
    if bytes.len() > limit {
        return Err(ReadProblem::TooMuch);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
