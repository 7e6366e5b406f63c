//! Fork and exec of one process for a user, with its group, terminal and environment.
//!
//! All that can be prepared is prepared before the fork. What fails after it is told by a step
//! and an errno, so that "no such program" is not mistaken for "no such directory".

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use banger_protocol::agent::ProcessSpec;
use banger_protocol::bytes::ByteString;
use banger_protocol::exec::{StartFailure, StartFailureKind};

use super::environment;
use crate::user::{Accounts, User};

/// Our ends of the process's streams.
pub struct Streams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    /// In place of all three.
    pub terminal: Option<OwnedFd>,
}

pub struct Spawned {
    pub pid: i32,
    pub streams: Streams,
}

/// Starts the process; the caller reaps it.
pub fn spawn(spec: &ProcessSpec, accounts: &Accounts) -> Result<Spawned, StartFailure> {
    let user = accounts
        .resolve(spec.user.as_deref().unwrap_or("0"))
        .map_err(|message| StartFailure::new(StartFailureKind::BadUser, message))?;
    let mut program = Program::of(spec, &user)?;
    let workdir = workdir(spec, &user)?;
    let place = workdir.clone();
    let (streams, child) = open_streams(spec, user.uid).map_err(no_resources)?;
    let mut command = Command::new("/proc/self/exe");
    command
        .stdin(child.stdin)
        .stdout(child.stdout)
        .stderr(child.stderr);
    let terminal = spec.terminal.is_some();
    // SAFETY: `enter` makes system calls only, and touches nothing but what was prepared for it.
    unsafe { command.pre_exec(move || enter(&mut program, &user, &workdir, terminal)) };
    match command.spawn() {
        Ok(process) => Ok(Spawned {
            // The handle is not needed: dropping it neither waits nor kills.
            pid: process.id().cast_signed(),
            streams,
        }),
        Err(error) => Err(explain(spec, &place, &error)),
    }
}

struct ChildStreams {
    stdin: Stdio,
    stdout: Stdio,
    stderr: Stdio,
}

fn open_streams(spec: &ProcessSpec, uid: u32) -> io::Result<(Streams, ChildStreams)> {
    if let Some(terminal) = &spec.terminal {
        let (ours, theirs) = super::pty::open(terminal.rows, terminal.columns, uid)?;
        return Ok((
            Streams {
                stdin: None,
                stdout: None,
                stderr: None,
                terminal: Some(ours),
            },
            ChildStreams {
                stdin: theirs.try_clone()?.into(),
                stdout: theirs.try_clone()?.into(),
                stderr: theirs.into(),
            },
        ));
    }
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let own = |fd: &OwnedFd| {
        // So that the user may open /dev/stdout again.
        rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), None)
    };
    let ours = |fd: OwnedFd| -> io::Result<OwnedFd> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(fd)
    };
    let (stdin, child_stdin) = if spec.stdin {
        let (read, write) = pipe()?;
        own(&read)?;
        (Some(ours(write)?), read.into())
    } else {
        (None, Stdio::null())
    };
    let (stdout, child_stdout) = pipe()?;
    own(&child_stdout)?;
    let (stderr, child_stderr) = pipe()?;
    own(&child_stderr)?;
    Ok((
        Streams {
            stdin,
            stdout: Some(ours(stdout)?),
            stderr: Some(ours(stderr)?),
            terminal: None,
        },
        ChildStreams {
            stdin: child_stdin,
            stdout: child_stdout.into(),
            stderr: child_stderr.into(),
        },
    ))
}

fn no_resources(error: io::Error) -> StartFailure {
    let message = format!("cannot open the streams of the process: {error}");
    StartFailure::new(StartFailureKind::NoResources, message)
}

/// Pages that one argument or variable may fill, its end included (`MAX_ARG_STRLEN`).
const MAX_STRING_PAGES: usize = 32;

/// Longer ones are refused here: what is made of them would be many times as large, a PATH of
/// megabytes for one.
fn c_string(bytes: &[u8], what: &str) -> Result<CString, StartFailure> {
    let bad = |why: &str| {
        let message = format!("{what} {why}");
        StartFailure::new(StartFailureKind::BadArguments, message)
    };
    // SAFETY: no memory is involved.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    if bytes.len() >= MAX_STRING_PAGES * page {
        return Err(bad("is too long"));
    }
    CString::new(bytes).map_err(|_| bad("contains a zero byte"))
}

/// What to execute: paths to try in order, with the arrays of pointers that execve wants.
struct Program {
    candidates: Vec<CString>,
    argv: Vec<*const libc::c_char>,
    /// The arguments by which a shell runs a candidate, whose path takes the second place.
    script: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    _strings: [Vec<CString>; 2],
}

// SAFETY: the pointers point into heap blocks which the same value owns and never changes.
unsafe impl Send for Program {}
// SAFETY: as above.
unsafe impl Sync for Program {}

impl Program {
    fn of(spec: &ProcessSpec, user: &User) -> Result<Program, StartFailure> {
        let variables = environment::complete(spec, user);
        let env = variables
            .iter()
            .map(|variable| c_string(variable, "the environment"))
            .collect::<Result<Vec<_>, _>>()?;
        let mut argv = spec.argv.clone();
        let paths = if argv.is_empty() {
            let shell = login_shell(user);
            let name = shell.rsplit(|byte| *byte == b'/').next().unwrap_or(b"sh");
            argv.push(ByteString([b"-", name].concat()));
            vec![shell]
        } else {
            environment::candidates(argv[0].as_bytes(), &variables)
        };
        let argv = argv
            .iter()
            .map(|argument| c_string(argument.as_bytes(), "an argument"))
            .collect::<Result<Vec<_>, _>>()?;
        let candidates = paths
            .iter()
            .map(|path| c_string(path, "the program's name"))
            .collect::<Result<_, _>>()?;
        let mut script = vec![SHELL.as_ptr(), SHELL.as_ptr()];
        script.extend(&pointers(&argv)[1..]);
        Ok(Program {
            candidates,
            argv: pointers(&argv),
            script,
            env: pointers(&env),
            _strings: [argv, env],
        })
    }

    /// Does not return where a candidate can be executed, like a shell's search of PATH.
    fn execute(&mut self) -> io::Error {
        let mut denied = false;
        for path in &self.candidates {
            execve(path, &self.argv, &self.env);
            match errno() {
                libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG | libc::ELOOP => {}
                libc::EACCES | libc::EPERM => denied = true,
                libc::ENOEXEC => {
                    // A script that does not say for what: the shell's.
                    self.script[1] = path.as_ptr();
                    execve(SHELL, &self.script, &self.env);
                    return failure(Step::Execute, libc::ENOEXEC);
                }
                other => return failure(Step::Execute, other),
            }
        }
        if denied {
            failure(Step::Execute, libc::EACCES)
        } else {
            failure(Step::Search, libc::ENOENT)
        }
    }
}

const SHELL: &std::ffi::CStr = c"/bin/sh";

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    let ends = std::iter::once(std::ptr::null());
    strings
        .iter()
        .map(|text| text.as_ptr())
        .chain(ends)
        .collect()
}

/// Both arrays end with a null pointer, and hold strings that outlive the call.
fn execve(path: &std::ffi::CStr, argv: &[*const libc::c_char], env: &[*const libc::c_char]) {
    // SAFETY: see above; only `Program` calls this.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
}

fn login_shell(user: &User) -> Vec<u8> {
    let usable = |path: &[u8]| {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
    };
    if user.shell.starts_with(b"/") && usable(&user.shell) {
        user.shell.clone()
    } else {
        b"/bin/sh".to_vec()
    }
}

/// Where the process begins; made first where that is wanted.
fn workdir(spec: &ProcessSpec, user: &User) -> Result<CString, StartFailure> {
    let path = match &spec.workdir {
        Some(path) if path.as_bytes().first() == Some(&b'/') => path.as_bytes(),
        Some(_) => {
            let message = "the working directory is not an absolute path";
            return Err(StartFailure::new(StartFailureKind::BadWorkdir, message));
        }
        None if spec.argv.is_empty()
            && Path::new(std::ffi::OsStr::from_bytes(&user.home)).is_dir() =>
        {
            &user.home
        }
        None => b"/",
    };
    if spec.make_workdir {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        if !path.exists() {
            let made = std::fs::create_dir_all(path)
                .and_then(|()| std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)));
            if let Err(error) = made {
                let message = format!("cannot create {}: {error}", path.display());
                return Err(StartFailure::new(StartFailureKind::BadWorkdir, message));
            }
        }
    }
    c_string(path, "the working directory")
}

/// What was being done between fork and exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Session = 1,
    User,
    Workdir,
    Search,
    Execute,
}

/// Errnos are below 4096; the step goes above, and comes back through the standard library's pipe.
const STEP: u32 = 16;

fn failure(step: Step, errno: i32) -> io::Error {
    io::Error::from_raw_os_error(((step as i32) << STEP) | errno)
}

fn errno() -> i32 {
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EINVAL)
}

fn check(step: Step, result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        return Err(failure(step, errno()));
    }
    Ok(())
}

/// In the child. Only system calls: no allocation, no lock. The raw ones, since libc's change of
/// user would signal threads that this process does not have.
fn enter(program: &mut Program, user: &User, workdir: &CString, terminal: bool) -> io::Result<()> {
    // SAFETY: plain system calls on memory that outlives them.
    unsafe {
        check(Step::Session, libc::setsid().into())?;
        if terminal {
            check(Step::Session, libc::ioctl(0, libc::TIOCSCTTY, 0).into())?;
        }
        reset_limits();
        let groups = user.groups.as_ptr();
        let count = user.groups.len();
        if libc::geteuid() == 0 {
            check(
                Step::User,
                libc::syscall(libc::SYS_setgroups, count, groups),
            )?;
        }
        check(
            Step::User,
            libc::syscall(libc::SYS_setresgid, user.gid, user.gid, user.gid),
        )?;
        check(
            Step::User,
            libc::syscall(libc::SYS_setresuid, user.uid, user.uid, user.uid),
        )?;
        check(Step::Workdir, libc::chdir(workdir.as_ptr()).into())?;
    }
    Err(program.execute())
}

/// The agent is exempt from the OOM killer and has many files open; what it runs is not and has
/// the usual limit.
fn reset_limits() {
    // SAFETY: plain system calls on constants; a failure changes nothing.
    unsafe {
        let file = libc::open(
            c"/proc/self/oom_score_adj".as_ptr(),
            libc::O_WRONLY | libc::O_CLOEXEC,
        );
        if file >= 0 {
            libc::write(file, c"0".as_ptr().cast(), 1);
            libc::close(file);
        }
        let mut limit = std::mem::zeroed::<libc::rlimit>();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max.min(1024);
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

fn explain(spec: &ProcessSpec, workdir: &CString, error: &io::Error) -> StartFailure {
    let code = error.raw_os_error().unwrap_or(0);
    let reason = io::Error::from_raw_os_error(code & ((1 << STEP) - 1));
    let name = spec
        .argv
        .first()
        .map_or("the login shell".into(), ByteString::to_string_lossy);
    let steps = [
        Step::Session,
        Step::User,
        Step::Workdir,
        Step::Search,
        Step::Execute,
    ];
    let step = steps.into_iter().find(|step| *step as i32 == code >> STEP);
    let (kind, message) = match step {
        Some(Step::Search) => (
            StartFailureKind::NotFound,
            format!("{name}: no such program"),
        ),
        Some(Step::Execute) => match reason.raw_os_error() {
            Some(libc::E2BIG) => (
                StartFailureKind::BadArguments,
                format!("{name}: arguments and environment are too long"),
            ),
            Some(libc::ENOMEM | libc::EAGAIN | libc::EMFILE | libc::ENFILE) => (
                StartFailureKind::NoResources,
                format!("{name} cannot be executed: {reason}"),
            ),
            _ => (
                StartFailureKind::NotExecutable,
                format!("{name} cannot be executed: {reason}"),
            ),
        },
        Some(Step::Workdir) => (
            StartFailureKind::BadWorkdir,
            format!("cannot enter {}: {reason}", workdir.to_string_lossy()),
        ),
        Some(Step::User) => (
            StartFailureKind::BadUser,
            format!("cannot become the user: {reason}"),
        ),
        Some(Step::Session) | None => (
            StartFailureKind::NoResources,
            format!("cannot start a process: {reason}"),
        ),
    };
    StartFailure::new(kind, message)
}
