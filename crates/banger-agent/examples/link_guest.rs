//! What `cargo xtask bench link` measures against: an /init that does nothing but move bytes, on the
//! agent's port through the link, and bare on a second port named `raw`.
//!
//! A request is the number of bytes to send; with 0 it takes in everything instead. Both ports
//! send what they read from /dev/zero, as exec sends what it reads from a pipe.

use std::fs::File;
use std::io::{Read as _, Write as _};

use banger_agent::boot::Progress;
use banger_agent::port::Port;
use banger_agent::{init, listen, processors};
use banger_protocol::agent::PORT_NAME;
use banger_protocol::link::{FrameBuf, Incoming, MAX_FRAME, MAX_PAYLOAD, serve};
use tokio::io::AsyncWriteExt as _;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    init::keep_memory();
    init::prepare(&mut Progress::default())?;
    let raw = init::find_port("raw")?;
    std::thread::spawn(move || {
        loop {
            if let Err(error) = File::options()
                .read(true)
                .write(true)
                .open(&raw)
                .and_then(serve_raw)
            {
                eprintln!("raw port: {error}");
            }
        }
    });
    let port = init::find_port(PORT_NAME)?;
    // As the agent does: with one of two processors nothing would be as it is beside it.
    if let Some(coming) = processors::bring_online()? {
        coming.wait();
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let mut port = Port::open(&port)?;
            loop {
                serve(&mut port, listen::identity()?, |incoming| {
                    tokio::spawn(serve_stream(incoming));
                })
                .await?;
                port.changed().await?;
            }
        })
}

/// A line with the number of bytes to send, or, with a minus, to take in.
fn serve_raw(mut port: File) -> std::io::Result<()> {
    let mut block = vec![0; MAX_FRAME];
    let mut zero = File::open("/dev/zero")?;
    loop {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut byte = [0];
            if port.read(&mut byte)? == 0 {
                // No host is there.
                std::thread::sleep(std::time::Duration::from_millis(5));
                continue;
            }
            line.push(byte[0]);
        }
        let number: i64 = String::from_utf8_lossy(&line).trim().parse().unwrap_or(0);
        let mut left = usize::try_from(number.unsigned_abs()).unwrap_or(0);
        while left > 0 {
            let count = left.min(block.len());
            left -= if number > 0 {
                zero.read_exact(&mut block[..count])?;
                port.write(&block[..count])?
            } else {
                port.read(&mut block[..count])?
            };
        }
        if number < 0 {
            port.write_all(b".")?;
        }
    }
}

async fn serve_stream(mut incoming: Incoming) -> std::io::Result<()> {
    let request = incoming.request().await?;
    let zero = File::open("/dev/zero")?;
    let mut left: usize = String::from_utf8_lossy(&request).parse().unwrap_or(0);
    let stream = &mut incoming.stream;
    if left == 0 {
        while stream.read_chunk().await?.is_some() {}
    }
    while left > 0 {
        let count = left.min(MAX_PAYLOAD);
        let mut frame = FrameBuf::with_capacity(count);
        frame
            .append_with(|bytes| rustix::io::read(&zero, rustix::buffer::spare_capacity(bytes)))?;
        frame.truncate(count);
        left -= frame.len();
        stream.write_frame(frame).await?;
    }
    stream.shutdown().await
}
