//! Writes a base by hand: `base [--floor] LAYER... OUTPUT`, layers lowest first.
//!
//! Prints one JSON line: sizes, the wall-clock seconds, the processor seconds of all threads and the peak resident
//! memory. `--floor` does only what no importer can avoid (decompress, digest and write the same
//! bytes with the same libraries, each on a thread of its own), so that both can be compared.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::sync::mpsc::sync_channel;
use std::time::Instant;
use std::{env, error, io, thread};

use banger_image::decompress::Compression;
use banger_image::layers::BaseWriter;
use banger_image::limits::Limits;
use sha2::{Digest, Sha256};

type Outcome<T> = Result<T, Box<dyn error::Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    let floor = arguments.first().is_some_and(|first| first == "--floor");
    if floor {
        arguments.remove(0);
    }
    let Some((output, layers)) = arguments
        .split_last()
        .filter(|(_, layers)| !layers.is_empty())
    else {
        return Err("usage: base [--floor] LAYER... OUTPUT".into());
    };
    let start = Instant::now();
    let (what, files, size) = if floor {
        let mut file = File::create(output)?;
        let size = layers
            .iter()
            .map(|layer| pump(layer, &mut file))
            .sum::<Outcome<u64>>()?;
        ("floor", 0, size)
    } else {
        let mut base = BaseWriter::new(File::create(output)?, Limits::default());
        for layer in layers {
            base.add_layer(File::open(layer)?, Compression::Auto, None)?;
        }
        let summary = base.finish()?;
        ("base", summary.files, summary.size)
    };
    let wall = start.elapsed().as_secs_f64();
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    let peak = peak_kib()?;
    println!(
        r#"{{"what":"{what}","files":{files},"bytes":{size},"wall_s":{wall:.3},"cpu_s":{cpu:.3},"peak_rss_kib":{peak}}}"#
    );
    Ok(())
}

/// Decompresses, digests and writes one layer.
fn pump(layer: &str, output: &mut File) -> Outcome<u64> {
    let mut head = [0; 4];
    let length = File::open(layer)?.read(&mut head)?;
    let input = BufReader::with_capacity(256 * 1024, File::open(layer)?);
    let mut reader: Box<dyn Read + Send> = match head.get(..length) {
        Some([0x1f, 0x8b, ..]) => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Some([0x28, 0xb5, 0x2f, 0xfd]) => {
            Box::new(zstd::stream::read::Decoder::with_buffer(input)?)
        }
        _ => Box::new(input),
    };
    thread::scope(|scope| {
        let (to_digest, for_digest) = sync_channel::<std::sync::Arc<Vec<u8>>>(8);
        let (to_writer, for_writer) = sync_channel::<std::sync::Arc<Vec<u8>>>(8);
        let digest = scope.spawn(move || {
            let mut hasher = Sha256::new();
            for chunk in for_digest {
                hasher.update(&**chunk);
            }
            hasher.finalize()
        });
        scope.spawn(move || -> io::Result<()> {
            loop {
                let mut chunk = Vec::with_capacity(256 * 1024);
                if reader.by_ref().take(256 * 1024).read_to_end(&mut chunk)? == 0 {
                    return Ok(());
                }
                let chunk = std::sync::Arc::new(chunk);
                let sent = to_digest.send(chunk.clone()).is_ok() && to_writer.send(chunk).is_ok();
                if !sent {
                    return Ok(());
                }
            }
        });
        let mut size = 0;
        for chunk in for_writer {
            output.write_all(&chunk)?;
            size += chunk.len() as u64;
        }
        digest.join().map_err(|_| "the digest thread panicked")?;
        Ok(size)
    })
}

fn peak_kib() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .ok_or("no VmHWM in /proc/self/status")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
