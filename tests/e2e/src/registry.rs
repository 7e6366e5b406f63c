//! Debian's `docker-registry` on a free loopback port, and images pushed to it by skopeo.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::host::wait_until;
use crate::run::Run;

pub struct Registry {
    pub address: String,
    directory: tempfile::TempDir,
    child: Child,
}

/// `user` with password `secret`, as `htpasswd -B` prints it.
pub const HTPASSWD: &str = "user:$2y$05$jJ23wF6Dac6/7sEbn1L1j.RBwAF9ITzfR3/vVUpk7JXTOAfsBq0zu\n";

impl Registry {
    /// `htpasswd` makes it ask for credentials.
    pub fn start(htpasswd: Option<&str>) -> Registry {
        loop {
            if let Some(registry) = Registry::try_start(htpasswd) {
                return registry;
            }
        }
    }

    /// `None` where someone else was quicker to take the port.
    fn try_start(htpasswd: Option<&str>) -> Option<Registry> {
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let address = format!("127.0.0.1:{port}");
        let storage = directory.path().join("storage");
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}}}\n",
            storage.display()
        );
        if let Some(text) = htpasswd {
            let path = directory.path().join("htpasswd");
            std::fs::write(&path, text).unwrap();
            config += &format!(
                "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
                path.display()
            );
        }
        let file = directory.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ended = false;
        wait_until("the registry answers", || {
            ended = child.try_wait().unwrap().is_some();
            ended || listens(child.id(), port)
        });
        (!ended).then_some(Registry {
            address,
            directory,
            child,
        })
    }

    /// Pushes an OCI layout's image.
    pub fn push(&self, layout: &Path, tag: &str, name: &str, credentials: Option<&str>) {
        let mut command = Command::new("skopeo");
        command.args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
        ]);
        if let Some(credentials) = credentials {
            command.args(["--dest-creds", credentials]);
        }
        command
            .arg(format!("oci:{}:{tag}", layout.display()))
            .arg(format!("docker://{}/{name}", self.address))
            .env("HOME", self.directory.path());
        Run::of(&mut command, b"").ok();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An OCI layout with one image made of `tree`, with umoci.
pub fn layout(directory: &Path, tree: &Path, tag: &str, config: &[&str]) -> std::path::PathBuf {
    let layout = directory.join("layout");
    let umoci = |arguments: &[&str]| Run::of(Command::new("umoci").args(arguments), b"").ok();
    let layout_text = layout.to_str().unwrap().to_owned();
    let image = format!("{layout_text}:{tag}");
    if !layout.exists() {
        umoci(&["init", "--layout", &layout_text]);
    }
    umoci(&["new", "--image", &image]);
    let rootless = if nix::unistd::geteuid().is_root() {
        &[][..]
    } else {
        &["--rootless"]
    };
    let mut insert = vec!["insert"];
    insert.extend(rootless);
    insert.extend(["--image", &image, tree.to_str().unwrap(), "/"]);
    umoci(&insert);
    if !config.is_empty() {
        let mut arguments = vec!["config", "--image", &image];
        arguments.extend(config);
        umoci(&arguments);
    }
    layout
}

/// Whether it is this process that listens on the loopback port.
fn listens(pid: u32, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!("0100007F:{port:04X}");
    let inodes: Vec<String> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.len() > 9 && fields[1] == local && fields[3] == LISTEN)
        .map(|fields| format!("socket:[{}]", fields[9]))
        .collect();
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .any(|link| {
            inodes
                .iter()
                .any(|inode| link.as_os_str() == inode.as_str())
        })
}
