//! Bytes per second through the link against the same socket pair bare. Prints JSON lines.
//!
//! `cargo run --release -p banger-protocol --example link_throughput [MIB]`

use std::time::{Duration, Instant};

use banger_protocol::link::{
    FrameBuf, HostOptions, Identity, Incoming, Link, LinkStream, MAX_PAYLOAD, serve,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mib = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 512,
    };
    let total = mib << 20;
    for _ in 0..3 {
        report("raw", "both", mib, raw(total).await?);
        let link = link().await?;
        let mut stream = link.open(format!("{total}").as_bytes()).await?;
        let start = Instant::now();
        while stream.read_chunk().await?.is_some() {}
        report("link", "agent_to_host", mib, start.elapsed());
        let mut stream = link.open(b"0").await?;
        let start = Instant::now();
        send(&mut stream, total).await?;
        while stream.read_chunk().await?.is_some() {}
        report("link", "host_to_agent", mib, start.elapsed());
    }
    Ok(())
}

fn report(what: &str, direction: &str, mib: usize, took: Duration) {
    let rate = mib as f64 / took.as_secs_f64();
    println!(r#"{{"what":"{what}","direction":"{direction}","mib_per_s":{rate:.0}}}"#);
}

async fn raw(total: usize) -> std::io::Result<Duration> {
    let (mut from, mut to) = UnixStream::pair()?;
    let start = Instant::now();
    let writer = tokio::spawn(async move {
        let block = vec![1; MAX_PAYLOAD];
        let mut left = total;
        while left > 0 {
            let count = left.min(block.len());
            from.write_all(&block[..count]).await?;
            left -= count;
        }
        std::io::Result::Ok(())
    });
    let mut block = vec![0; 64 * 1024];
    while to.read(&mut block).await? > 0 {}
    writer.await.map_err(std::io::Error::other)??;
    Ok(start.elapsed())
}

/// A link whose agent sends as many bytes as the request says, after it has read all it gets.
async fn link() -> Result<Link, Box<dyn std::error::Error>> {
    let (host, guest) = UnixStream::pair()?;
    let identity = Identity { boot_id: [0; 16] };
    tokio::spawn(serve(guest, identity, |mut incoming: Incoming| {
        tokio::spawn(async move {
            let request = incoming.request().await?;
            let total = String::from_utf8_lossy(&request).parse().unwrap_or(0);
            if total > 0 {
                return send(&mut incoming.stream, total).await;
            }
            while incoming.stream.read_chunk().await?.is_some() {}
            incoming.stream.shutdown().await
        });
    }));
    Ok(Link::connect(host, HostOptions::fresh()).await?.0)
}

async fn send(stream: &mut LinkStream, total: usize) -> std::io::Result<()> {
    let mut left = total;
    while left > 0 {
        let count = left.min(MAX_PAYLOAD);
        let mut frame = FrameBuf::with_capacity(count);
        frame.append_with(|bytes| bytes.resize(bytes.len() + count, 1));
        stream.write_frame(frame).await?;
        left -= count;
    }
    stream.shutdown().await
}
