//! The same image unpacked by umoci and pulled by us from a real registry: the two trees must be
//! one. And what a real registry does when the connection breaks.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use crate::compare::{assert_same, tree};
use crate::everything::everything;
use crate::images::noise;
use crate::mounted::{Mounted, has, is_root, run};
use crate::registry::Registry;
use crate::{Root, base_holds, whole};

/// An OCI layout with one image, and a place for more.
struct Workshop {
    directory: TempDir,
}

impl Workshop {
    fn new() -> Workshop {
        let workshop = Workshop {
            directory: TempDir::with_prefix("umoci-").unwrap(),
        };
        run("umoci", ["init", "--layout", &workshop.at("layout")]);
        run("umoci", ["new", "--image", &workshop.image()]);
        workshop
    }

    fn at(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn image(&self) -> String {
        format!("{}:x", self.at("layout"))
    }

    /// Unpacks the image and returns its root.
    fn unpack(&self, bundle: &str) -> std::path::PathBuf {
        let bundle = self.at(bundle);
        run("umoci", ["unpack", "--image", &self.image(), &bundle]);
        Path::new(&bundle).join("rootfs")
    }

    /// Adds what `change` did to the image's root as a layer.
    fn layer(&self, bundle: &str, change: impl FnOnce(&Path)) {
        change(&self.unpack(bundle));
        run(
            "umoci",
            ["repack", "--image", &self.image(), &self.at(bundle)],
        );
    }
}

fn second(root: &Path) {
    let at = |name: &str| root.join(name);
    // Names of files of the lower layer, in places of their own and in each other's.
    fs::hard_link(at("tail"), at("dir/tail-too")).unwrap();
    fs::hard_link(at("dir/char"), at("char-too")).unwrap();
    fs::rename(at("one"), at("uno")).unwrap();
    fs::remove_file(at("big")).unwrap();
    fs::remove_file(at("dir/short")).unwrap();
    // A directory becomes a file, a file a directory, a symlink a directory.
    fs::remove_dir_all(at("dir/sub")).unwrap();
    fs::write(at("dir/sub"), "a file now").unwrap();
    fs::remove_file(at("empty")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("empty/not"), "in it").unwrap();
    fs::remove_file(at("dir/dangling")).unwrap();
    fs::create_dir(at("dir/dangling")).unwrap();
    // The same content under another mode, and a directory emptied and filled.
    fs::set_permissions(at("block"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::set_permissions(at("dir"), fs::Permissions::from_mode(0o2750)).unwrap();
    fs::create_dir_all(at("usr/lib")).unwrap();
    symlink("usr/lib", at("lib")).unwrap();
    fs::write(at("lib/through"), "a symlink").unwrap();
}

fn third(root: &Path) {
    fs::remove_dir_all(root.join("empty")).unwrap();
    fs::remove_dir_all(root.join("usr")).unwrap();
    fs::create_dir_all(root.join("usr/lib/new")).unwrap();
    fs::remove_file(root.join("tail")).unwrap();
}

#[tokio::test]
async fn a_pulled_base_is_what_umoci_unpacks() {
    if !["umoci", "skopeo", "docker-registry"].into_iter().all(has) || !is_root() {
        return;
    }
    let workshop = Workshop::new();
    workshop.layer("first", everything);
    workshop.layer("second", second);
    workshop.layer("third", third);
    let registry = Registry::start();
    registry.push(&format!("oci:{}", workshop.image()), "app:v1", &[]);
    let root = Root::new();
    let imported = root.pull(&registry.reference("app:v1")).await;
    let imported = imported.unwrap_or_else(|error| panic!("{}", whole(&error)));
    let Some(mounted) = Mounted::new(&fs::read(&imported.base).unwrap()) else {
        return;
    };
    let unpacked = tree(&workshop.unpack("all"), false);
    assert!(unpacked.len() > 20, "what this test is about is not there");
    assert_same("umoci", &tree(&mounted.root(), false), &unpacked);
}

/// What went through a [`cutting`] connection.
#[derive(Default)]
struct Traffic {
    asked: Vec<u8>,
    /// Bytes of answers.
    answered: usize,
    cuts: usize,
}

/// A way to `port` on which the first `cuts` connections break after `most` bytes of answers.
fn cutting(port: u16, most: usize, cuts: usize) -> (u16, Arc<Mutex<Traffic>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    let traffic = Arc::new(Mutex::new(Traffic::default()));
    let shared = Arc::clone(&traffic);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client?, TcpStream::connect(("127.0.0.1", port))?);
            let (from, to) = (client.try_clone()?, server.try_clone()?);
            let traffic = Arc::clone(&shared);
            std::thread::spawn(move || {
                pump(&from, &to, |bytes| {
                    traffic.lock().unwrap().asked.extend_from_slice(bytes);
                    true
                });
            });
            let traffic = Arc::clone(&shared);
            std::thread::spawn(move || {
                let mut passed = 0;
                pump(&server, &client, |bytes| {
                    let mut traffic = traffic.lock().unwrap();
                    passed += bytes.len();
                    if passed > most && traffic.cuts < cuts {
                        traffic.cuts += 1;
                        return false;
                    }
                    traffic.answered += bytes.len();
                    true
                });
            });
        }
        std::io::Result::Ok(())
    });
    (own, traffic)
}

/// Passes bytes on for as long as `goes_on` says so, then breaks both sides.
fn pump(mut from: &TcpStream, mut to: &TcpStream, mut goes_on: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if !goes_on(&buffer[..count]) || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    for side in [from, to] {
        let _ = side.shutdown(Shutdown::Both);
    }
}

#[tokio::test]
async fn a_real_registry_resumes() {
    const SIZE: usize = 1_000_000;
    if !["umoci", "skopeo", "docker-registry"].into_iter().all(has) {
        return;
    }
    let workshop = Workshop::new();
    let content = [b"marker-of-the-end".to_vec(), noise(3, SIZE)].concat();
    fs::write(workshop.at("file"), content).unwrap();
    run(
        "umoci",
        [
            "insert",
            "--rootless",
            "--image",
            &workshop.image(),
            &workshop.at("file"),
            "/file",
        ],
    );
    let registry = Registry::start();
    registry.push(&format!("oci:{}", workshop.image()), "app:v1", &[]);
    let (port, traffic) = cutting(registry.port, 300_000, 2);
    let root = Root::new();
    let imported = root.pull(&format!("127.0.0.1:{port}/app:v1")).await;
    let imported = imported.unwrap_or_else(|error| panic!("{}", whole(&error)));
    assert!(base_holds(&imported, "marker-of-the-end"));
    let traffic = traffic.lock().unwrap();
    assert_eq!(traffic.cuts, 2);
    let asked = String::from_utf8_lossy(&traffic.asked).to_lowercase();
    assert_eq!(asked.matches("range: bytes=").count(), 2, "{asked}");
    // Nothing came twice: the rest is headers, manifest and configuration.
    assert!(traffic.answered < SIZE + 20_000, "{}", traffic.answered);
}
