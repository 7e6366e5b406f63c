//! Importing an image: against what people do by hand, and against what cannot be saved.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Bench, median, report, timed};
use crate::run::Banger;
use crate::tools::{Result, output, run, target};

const ROUNDS: usize = 5;

/// Debian's `docker-registry` on a free loopback port.
struct Registry {
    address: String,
    child: Child,
}

impl Registry {
    fn start(work: &Path) -> Result<Registry> {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .map_err(|error| format!("no free port: {error}"))?
            .port();
        let address = format!("127.0.0.1:{port}");
        let config = work.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}}}\n",
            work.join("registry").display()
        );
        fs::write(&config, text).map_err(|error| format!("{}: {error}", config.display()))?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot run docker-registry: {error}"))?;
        for _ in 0..500 {
            if TcpStream::connect(&address).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Registry { address, child })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn against_the_usual_tools(bench: &Bench) -> Result<()> {
    let work = target().join("bench-import");
    fs::create_dir_all(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    let minbase = minbase_layout(&work)?;
    let small = small_files_layout(&work)?;
    let registry = Registry::start(&work)?;
    let root = work.join("root");
    let _ = fs::remove_dir_all(&root);
    let banger = Banger::new(&bench.dist, &root)?;
    banger.run(&["daemon", "start"])?;
    measure(&banger, &registry, &work, &minbase, "minbase", ROUNDS)?;
    measure(&banger, &registry, &work, &small, "small files", 2)?;
    drop(banger);
    let _ = fs::remove_dir_all(&root);
    Ok(())
}

fn measure(
    banger: &Banger,
    registry: &Registry,
    work: &Path,
    layout: &Path,
    what: &str,
    rounds: usize,
) -> Result<()> {
    let name = what.replace(' ', "-");
    let reference = format!("{}/{name}:bench", registry.address);
    run(&mut skopeo(
        &["copy", "--quiet", "--dest-tls-verify=false"],
        &format!("oci:{}:bench", layout.display()),
        &format!("docker://{reference}"),
    ))?;
    let (mut ours, mut theirs, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(timed(|| output(&mut banger.command(&["image", "pull", &reference])))?.0);
        output(&mut banger.command(&["image", "delete", &format!("{name}-bench")]))?;
        output(&mut banger.command(&["image", "prune"]))?;
        floor.push(timed(|| download_and_write(&registry.address, &name, &work.join("floor")))?.0);
        theirs.push(timed(|| by_hand(&reference, work))?.0);
    }
    let status = banger.json(&["--json", "daemon", "status"])?;
    let peak = peak_mib(status["pid"].as_i64().unwrap_or_default());
    let (ours, theirs, floor) = (median(&mut ours), median(&mut theirs), median(&mut floor));
    let more = json!({ "ours_ms": ours, "by_hand_ms": theirs, "floor_ms": floor, "bangerd_peak_mib": peak });
    report(
        &format!("import {what} / (skopeo copy + umoci unpack + mkfs.ext4 -d)"),
        ours / theirs,
        "ratio",
        "<= 0.1",
        more,
    );
    report(
        &format!("import {what} / (download + decompress + hash + write)"),
        ours / floor,
        "ratio",
        "<= 1.2",
        Value::Null,
    );
    Ok(())
}

fn skopeo(arguments: &[&str], from: &str, to: &str) -> Command {
    let mut command = Command::new("skopeo");
    command
        .arg("--insecure-policy")
        .args(arguments)
        .args([from, to]);
    command
}

/// What one does without banger.
fn by_hand(reference: &str, work: &Path) -> Result<()> {
    let (layout, bundle, disk) = (
        work.join("hand-oci"),
        work.join("hand-bundle"),
        work.join("hand.ext4"),
    );
    for path in [&layout, &bundle] {
        let _ = fs::remove_dir_all(path);
    }
    let _ = fs::remove_file(&disk);
    output(&mut skopeo(
        &["copy", "--quiet", "--src-tls-verify=false"],
        &format!("docker://{reference}"),
        &format!("oci:{}:x", layout.display()),
    ))?;
    output(
        Command::new("umoci")
            .args(["unpack", "--image", &format!("{}:x", layout.display())])
            .arg(&bundle),
    )?;
    output(Command::new("truncate").args(["-s", "4G"]).arg(&disk))?;
    output(
        Command::new("mkfs.ext4")
            .arg("-q")
            .arg("-F")
            .arg("-d")
            .arg(bundle.join("rootfs"))
            .arg(&disk),
    )?;
    Ok(())
}

/// The same bytes with the same libraries: no tree, no file system.
fn download_and_write(address: &str, name: &str, path: &Path) -> Result<()> {
    let failed = |error: std::io::Error| format!("the floor: {error}");
    let manifest: Value =
        serde_json::from_reader(get(address, &format!("/v2/{name}/manifests/bench"))?)
            .map_err(|error| format!("the floor's manifest: {error}"))?;
    let mut file = File::create(path).map_err(failed)?;
    for layer in manifest["layers"].as_array().into_iter().flatten() {
        let digest = layer["digest"].as_str().unwrap_or_default();
        let body = get(address, &format!("/v2/{name}/blobs/{digest}"))?;
        let (full, chunks) = std::sync::mpsc::sync_channel::<Vec<u8>>(6);
        let reader = std::thread::spawn(move || -> std::io::Result<()> {
            let mut decoder = MultiGzDecoder::new(Hashing {
                inner: body,
                hash: Sha256::new(),
            });
            loop {
                let mut chunk = vec![0; 512 << 10];
                let mut filled = 0;
                while filled < chunk.len() {
                    match decoder.read(&mut chunk[filled..])? {
                        0 => break,
                        read => filled += read,
                    }
                }
                chunk.truncate(filled);
                if filled == 0 || full.send(chunk).is_err() {
                    return Ok(());
                }
            }
        });
        let mut hash = Sha256::new();
        for chunk in chunks {
            hash.update(&chunk);
            file.write_all(&chunk).map_err(failed)?;
        }
        std::hint::black_box(hash.finalize());
        reader
            .join()
            .map_err(|_| "the floor panicked".to_owned())?
            .map_err(failed)?;
    }
    file.sync_all().map_err(failed)
}

struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

/// Body of a `GET` that answers 200 without chunks, as the registry does.
fn get(address: &str, path: &str) -> Result<impl Read + Send + 'static> {
    let failed = |error: std::io::Error| format!("GET {path}: {error}");
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/vnd.oci.image.manifest.v1+json\r\n\r\n"
    )
    .map_err(failed)?;
    let mut reader = BufReader::with_capacity(256 << 10, stream);
    let mut line = String::new();
    reader.read_line(&mut line).map_err(failed)?;
    if !line.contains(" 200 ") {
        return Err(format!("GET {path}: {}", line.trim()));
    }
    while line.trim_end() != "" {
        line.clear();
        reader.read_line(&mut line).map_err(failed)?;
    }
    Ok(reader)
}

/// An OCI layout with one gzip layer: Debian minbase, as mmdebstrap makes it.
fn minbase_layout(work: &Path) -> Result<PathBuf> {
    let layout = work.join("minbase");
    if layout.join("index.json").exists() {
        return Ok(layout);
    }
    let tar = work.join("minbase.tar");
    run(Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "bookworm"])
        .arg(&tar))?;
    pack(&layout, work, &tar)?;
    Ok(layout)
}

/// 120,000 files of 4 KiB and less in 1,200 directories.
fn small_files_layout(work: &Path) -> Result<PathBuf> {
    let layout = work.join("small");
    if layout.join("index.json").exists() {
        return Ok(layout);
    }
    let tree = work.join("small-tree");
    for directory in 0..1200 {
        let path = tree.join(format!("d{directory}"));
        fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        for file in 0..100 {
            let bytes = vec![b'a' + (file % 26) as u8; (directory * 100 + file) * 37 % 4096];
            fs::write(path.join(format!("file-{file}")), bytes)
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    let tar = work.join("small.tar");
    run(Command::new("tar")
        .arg("-C")
        .arg(&tree)
        .arg("-cf")
        .arg(&tar)
        .arg("."))?;
    let _ = fs::remove_dir_all(&tree);
    pack(&layout, work, &tar)?;
    Ok(layout)
}

fn pack(layout: &Path, work: &Path, tar: &Path) -> Result<()> {
    let bundle = work.join("pack");
    let _ = fs::remove_dir_all(&bundle);
    let _ = fs::remove_dir_all(layout);
    let image = format!("{}:bench", layout.display());
    run(Command::new("umoci")
        .arg("init")
        .arg("--layout")
        .arg(layout))?;
    run(Command::new("umoci").args(["new", "--image", &image]))?;
    run(Command::new("umoci")
        .args(["unpack", "--image", &image])
        .arg(&bundle))?;
    run(Command::new("tar")
        .arg("-C")
        .arg(bundle.join("rootfs"))
        .arg("-xpf")
        .arg(tar))?;
    run(Command::new("umoci")
        .args(["repack", "--image", &image])
        .arg(&bundle))?;
    let _ = fs::remove_dir_all(&bundle);
    let _ = fs::remove_file(tar);
    Ok(())
}

fn peak_mib(pid: i64) -> f64 {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .ok()
        .and_then(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix("VmHWM:"))
                .and_then(|line| {
                    line.trim()
                        .trim_end_matches(" kB")
                        .trim()
                        .parse::<f64>()
                        .ok()
                })
        })
        .map_or(0.0, |kib| kib / 1024.0)
}
