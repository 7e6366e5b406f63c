//! Debian's docker-registry as a process of its own, and the tools that fill it.

use std::ffi::OsStr;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What is needed and not there is said once, and the test passes over.
pub fn have(programs: &[&str]) -> bool {
    for program in programs {
        let found = std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
        });
        if !found {
            eprintln!("skipped: {program}");
            return false;
        }
    }
    true
}

#[track_caller]
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {stderr}");
}

/// A registry process of its own.
pub struct Registry {
    child: Child,
    pub port: u16,
    _directory: tempfile::TempDir,
}

impl Registry {
    pub fn start() -> Registry {
        Registry::with(|_| String::new())
    }

    /// `more` writes what it needs into the registry's directory and gives the end of its
    /// configuration, which is within the section `http`.
    pub fn with(more: impl FnOnce(&Path) -> String) -> Registry {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let more = more(path);
        // A port is free when we look; when it is used, another test may have been quicker.
        let started = (0..5).find_map(|_| start(path, &more));
        let (child, port) = started.expect("docker-registry ends again and again");
        Registry {
            child,
            port,
            _directory: directory,
        }
    }

    pub fn reference(&self, rest: &str) -> String {
        format!("127.0.0.1:{}/{rest}", self.port)
    }

    pub fn manifest(&self, name: &str) -> String {
        let source = format!("docker://{}", self.reference(name));
        let output = Command::new("skopeo")
            .args(["inspect", "--raw", "--tls-verify=false", &source])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Copies an image into the registry.
    #[track_caller]
    pub fn push(&self, source: &str, name: &str, options: &[&str]) {
        let destination = format!("docker://{}", self.reference(name));
        let common = ["copy", "-q", "--insecure-policy", "--dest-tls-verify=false"];
        run(
            "skopeo",
            common
                .iter()
                .chain(options)
                .copied()
                .chain([source, &destination]),
        );
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process and its port; none where it ended before it listened.
fn start(directory: &Path, more: &str) -> Option<(Child, u16)> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let config = format!(
        "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n\
         storage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{more}",
        directory.display()
    );
    std::fs::write(directory.join("config.yml"), config).unwrap();
    let mut child = Command::new("docker-registry")
        .arg("serve")
        .arg(directory.join("config.yml"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "docker-registry does not listen"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    Some((child, port))
}
