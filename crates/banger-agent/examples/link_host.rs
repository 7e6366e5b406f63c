//! Bytes per second through the link of a VM against a bare virtio-serial port, both ways.
//! Prints JSON lines.
//!
//! `link_host AGENT_SOCKET RAW_SOCKET [MIB] [ROUNDS]`, against a VM whose /init is `link_guest`.

use std::time::{Duration, Instant};

use banger_protocol::link::{FrameBuf, HostOptions, Link, MAX_PAYLOAD};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

type Failure = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [agent, raw, rest @ ..] = &arguments[..] else {
        return Err("usage: link_host AGENT_SOCKET RAW_SOCKET [MIB] [ROUNDS]".into());
    };
    let number = |at: usize, default| rest.get(at).map_or(Ok(default), |text| text.parse());
    let (mib, rounds) = (number(0, 128)?, number(1, 3)?);
    let total = mib << 20;
    let (link, _) =
        Link::connect(UnixStream::connect(agent).await?, HostOptions::reconnect()).await?;
    let mut raw = UnixStream::connect(raw).await?;
    for _ in 0..rounds {
        report(
            "raw",
            "guest_to_host",
            mib,
            raw_receive(&mut raw, total).await?,
        );
        report("link", "guest_to_host", mib, receive(&link, total).await?);
        report(
            "raw",
            "host_to_guest",
            mib,
            raw_send(&mut raw, total).await?,
        );
        report("link", "host_to_guest", mib, send(&link, total).await?);
    }
    Ok(())
}

fn report(what: &str, direction: &str, mib: usize, took: Duration) {
    let rate = mib as f64 / took.as_secs_f64();
    println!(r#"{{"what":"{what}","direction":"{direction}","mib_per_s":{rate:.1}}}"#);
}

async fn raw_receive(raw: &mut UnixStream, total: usize) -> std::io::Result<Duration> {
    let start = Instant::now();
    raw.write_all(format!("{total}\n").as_bytes()).await?;
    let mut block = vec![0; 64 * 1024];
    let mut left = total;
    while left > 0 {
        let most = left.min(block.len());
        left -= raw.read(&mut block[..most]).await?;
    }
    Ok(start.elapsed())
}

async fn raw_send(raw: &mut UnixStream, total: usize) -> std::io::Result<Duration> {
    let start = Instant::now();
    raw.write_all(format!("-{total}\n").as_bytes()).await?;
    let block = vec![1; MAX_PAYLOAD];
    let mut left = total;
    while left > 0 {
        let most = left.min(block.len());
        left -= raw.write(&block[..most]).await?;
    }
    raw.read_u8().await?;
    Ok(start.elapsed())
}

async fn receive(link: &Link, total: usize) -> Result<Duration, Failure> {
    let start = Instant::now();
    let mut stream = link.open(total.to_string().as_bytes()).await?;
    while stream.read_chunk().await?.is_some() {}
    Ok(start.elapsed())
}

async fn send(link: &Link, total: usize) -> Result<Duration, Failure> {
    let start = Instant::now();
    let mut stream = link.open(b"0").await?;
    let mut left = total;
    while left > 0 {
        let count = left.min(MAX_PAYLOAD);
        let mut frame = FrameBuf::with_capacity(count);
        frame.append_with(|bytes| bytes.resize(bytes.len() + count, 1));
        stream.write_frame(frame).await?;
        left -= count;
    }
    stream.shutdown().await?;
    while stream.read_chunk().await?.is_some() {}
    Ok(start.elapsed())
}
