//! Two ends over an in-memory pipe.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::frame::MAX_FRAME;
use super::*;

const IDENTITY: Identity = Identity { boot_id: [7; 16] };

/// Serves streams that send back what they get.
fn echo(incoming: Incoming) {
    tokio::spawn(async move {
        let mut incoming = incoming;
        if incoming.request().await.is_err() {
            return;
        }
        let (mut reader, mut writer) = incoming.stream.into_split();
        while let Ok(Some(chunk)) = reader.read_chunk().await {
            if writer.write_all(&chunk).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    });
}

fn agent(io: DuplexStream, handler: impl FnMut(Incoming) + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(async move {
        let _ = serve(io, IDENTITY, handler).await;
    })
}

async fn pair(handler: impl FnMut(Incoming) + Send + 'static) -> Link {
    let (host, guest) = duplex(64 * 1024);
    agent(guest, handler);
    let (link, ack) = Link::connect(host, HostOptions::fresh()).await.unwrap();
    assert_eq!(ack.boot_id, IDENTITY.boot_id);
    assert_eq!(ack.generation, GENERATION);
    link
}

/// Ends the test rather than the patience of whoever runs it.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("within 20 seconds")
}

#[tokio::test]
async fn half_close_works_both_ways() {
    let link = pair(echo).await;
    let mut stream = link.open(b"x").await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"hello");
}

#[tokio::test]
async fn a_request_longer_than_a_frame_arrives_whole() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let link = pair(move |mut incoming| {
        let sender = sender.clone();
        tokio::spawn(async move {
            sender.send(incoming.request().await.unwrap()).unwrap();
        });
    })
    .await;
    for length in [
        0,
        1,
        MAX_PAYLOAD - 4,
        MAX_PAYLOAD,
        1_000_000,
        MAX_REQUEST as usize,
    ] {
        let request: Vec<u8> = (0..length).map(|at| at as u8).collect();
        let _stream = soon(link.open(&request)).await.unwrap();
        assert_eq!(soon(receiver.recv()).await.unwrap(), request, "{length}");
    }
    let too_long = vec![0; MAX_REQUEST as usize + 1];
    assert!(matches!(
        link.open(&too_long).await,
        Err(LinkError::RequestTooLong { .. })
    ));
}

#[tokio::test]
async fn an_unread_stream_blocks_only_itself() {
    // The first stream floods, the others echo.
    let mut first = true;
    let link = pair(move |mut incoming| {
        if !std::mem::take(&mut first) {
            return echo(incoming);
        }
        tokio::spawn(async move { while incoming.stream.write_all(&[1; 4096]).await.is_ok() {} });
    })
    .await;
    let mut flood = link.open(b"").await.unwrap();
    let mut stream = link.open(b"").await.unwrap();
    for _ in 0..50 {
        stream.write_all(b"ping").await.unwrap();
        let mut answer = [0; 4];
        soon(stream.read_exact(&mut answer)).await.unwrap();
    }
    // What was sent meanwhile is the window and no more, all of it there.
    let mut some = vec![0; 2 * WINDOW as usize];
    soon(flood.read_exact(&mut some)).await.unwrap();
    assert!(some.iter().all(|byte| *byte == 1));
}

#[tokio::test]
async fn a_dropped_stream_is_an_error_at_the_other_end() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let link = pair(move |mut incoming| {
        let sender = sender.clone();
        tokio::spawn(async move {
            incoming.stream.write_all(b"here").await.unwrap();
            sender.send(incoming.stream.read_chunk().await).unwrap();
        });
    })
    .await;
    // One that is dropped before it was announced was never there.
    drop(link.open(b"").await.unwrap());
    let mut stream = link.open(b"").await.unwrap();
    soon(stream.read_chunk()).await.unwrap();
    drop(stream);
    let error = soon(receiver.recv()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(!is_link_lost(&error));
}

#[tokio::test]
async fn what_was_finished_arrives_though_its_sender_is_gone() {
    let link = pair(|mut incoming| {
        tokio::spawn(async move {
            incoming
                .stream
                .write_all(&vec![9; 1_000_000])
                .await
                .unwrap();
            incoming.stream.shutdown().await.unwrap();
        });
    })
    .await;
    let mut stream = link.open(b"").await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer.len(), 1_000_000);
    // The other end does not read any more, and says so.
    let error = soon(async {
        loop {
            if let Err(error) = stream.write_all(&[0; 4096]).await {
                break error;
            }
        }
    })
    .await;
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn streams_are_forgotten_on_both_sides() {
    let link = pair(echo).await;
    for round in 0..3 * MAX_STREAMS {
        let mut stream = soon(link.open(b"")).await.unwrap();
        if round % 3 == 0 {
            continue;
        }
        stream.write_all(b"x").await.unwrap();
        if round % 3 == 1 {
            continue;
        }
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.unwrap();
    }
    assert_eq!(link.open_streams(), 0);
}

#[tokio::test]
async fn too_many_streams_are_refused() {
    let link = pair(echo).await;
    let mut streams = Vec::new();
    for _ in 0..MAX_STREAMS {
        streams.push(link.open(b"").await.unwrap());
    }
    assert!(matches!(
        link.open(b"").await,
        Err(LinkError::TooManyStreams)
    ));
    streams.clear();
    let mut stream = link.open(b"").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(soon(stream.read_chunk()).await.unwrap(), None);
}

#[tokio::test]
async fn the_end_of_the_pipe_is_not_the_end_of_a_stream() {
    let (host, guest) = duplex(64 * 1024);
    let task = agent(guest, echo);
    let (link, _) = Link::connect(host, HostOptions::fresh()).await.unwrap();
    let mut stream = link.open(b"").await.unwrap();
    task.abort();
    assert!(matches!(soon(link.closed()).await, LinkError::Eof));
    assert!(is_link_lost(&stream.read_chunk().await.unwrap_err()));
    assert!(is_link_lost(&stream.write_all(b"x").await.unwrap_err()));
    assert!(link.open(b"").await.is_err());
}

/// The pipe of a VM outlives the host's end: what the agent sees is one stream of bytes, cut
/// anywhere.
#[tokio::test]
async fn a_new_host_takes_over_in_the_middle_of_a_frame() {
    for cut in [1, 7, 8, 9, 100, 20_000, MAX_FRAME - 1] {
        let (mut wire, guest) = duplex(256 * 1024);
        let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
        agent(guest, move |mut incoming| {
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut got = Vec::new();
                let end = loop {
                    match incoming.stream.read_chunk().await {
                        Ok(Some(chunk)) => got.extend_from_slice(&chunk),
                        Ok(None) => break Ok(()),
                        Err(error) => break Err(error),
                    }
                };
                let _ = sender.send((got, end));
            });
        });
        // The first host, by hand: hello, open, half a frame of data.
        let mut bytes = Vec::new();
        let hello = Hello {
            nonce: [1; 16],
            lowest: GENERATION,
            highest: GENERATION,
            window: WINDOW,
        };
        Frame::Hello(hello).encode(&mut bytes);
        Frame::Open {
            stream: 1,
            total: 0,
            part: Bytes::new(),
        }
        .encode(&mut bytes);
        let mut data = Vec::new();
        Frame::Data {
            stream: 1,
            payload: Bytes::from(vec![b'x'; MAX_PAYLOAD]),
        }
        .encode(&mut data);
        bytes.extend_from_slice(&data[..cut]);
        wire.write_all(&bytes).await.unwrap();
        // The second one reads what was meant for the first, too.
        let (link, _) = soon(Link::connect(wire, HostOptions::reconnect()))
            .await
            .unwrap();
        let (got, end) = soon(receiver.recv()).await.unwrap();
        assert_eq!(got, b"", "half a frame must not be delivered, cut at {cut}");
        assert!(is_link_lost(&end.unwrap_err()));
        let mut stream = link.open(b"").await.unwrap();
        stream.write_all(b"second").await.unwrap();
        stream.shutdown().await.unwrap();
        let (got, end) = soon(receiver.recv()).await.unwrap();
        assert_eq!(got, b"second");
        end.unwrap();
    }
}

/// Relays bytes until told to stop, as a VMM does; what it had read is lost.
async fn relay(host: DuplexStream, guest: &mut DuplexStream) -> std::io::Result<()> {
    let mut host = host;
    tokio::io::copy_bidirectional(&mut host, guest)
        .await
        .map(drop)
}

#[tokio::test]
async fn a_stuck_agent_answers_a_new_host() {
    // The agent floods a stream nobody reads from, so its own writes fill the pipe.
    let (mut wire, guest) = duplex(4096);
    let mut first = true;
    agent(guest, move |mut incoming| {
        if !std::mem::take(&mut first) {
            return echo(incoming);
        }
        tokio::spawn(async move { while incoming.stream.write_all(&[1; 4096]).await.is_ok() {} });
    });
    let (host, vmm) = duplex(4096);
    {
        let connect = async {
            let (link, _) = Link::connect(host, HostOptions::fresh()).await.unwrap();
            let mut stream = link.open(b"").await.unwrap();
            // Credit keeps flowing for a while, then this host is gone in the middle of it all.
            let mut some = vec![0; 3 * WINDOW as usize];
            stream.read_exact(&mut some).await.unwrap();
        };
        tokio::select! {
            () = connect => {}
            result = relay(vmm, &mut wire) => panic!("{result:?}"),
        }
    }
    let (host, vmm) = duplex(4096);
    tokio::spawn(async move { relay(vmm, &mut wire).await });
    let (link, _) = soon(Link::connect(host, HostOptions::reconnect()))
        .await
        .unwrap();
    let mut stream = link.open(b"").await.unwrap();
    stream.write_all(b"again").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"again");
}

/// A guest that writes `bytes` after a proper handshake; returns how the link ended.
async fn hostile(bytes: Vec<u8>) -> LinkError {
    let (host, mut guest) = duplex(1024 * 1024);
    let guest = tokio::spawn(async move {
        let mut input = bytes::BytesMut::new();
        let hello = loop {
            guest.read_buf(&mut input).await.unwrap();
            if let Some(hello) = scan_hello(&mut input) {
                break hello;
            }
        };
        let mut out = vec![0xff; 10];
        Frame::HelloAck(HelloAck {
            nonce: hello.nonce,
            generation: GENERATION,
            window: WINDOW,
            boot_id: [0; 16],
        })
        .encode(&mut out);
        guest.write_all(&out).await.unwrap();
        let mut sink = [0; 4096];
        // The open has arrived when anything has.
        assert!(guest.read(&mut sink).await.unwrap() > 0);
        let _ = guest.write_all(&bytes).await;
        while guest.read(&mut sink).await.is_ok_and(|count| count > 0) {}
    });
    let (link, _) = Link::connect(host, HostOptions::fresh()).await.unwrap();
    let stream = link.open(b"").await.unwrap();
    let reason = soon(link.closed()).await;
    drop(stream);
    drop(link);
    soon(guest).await.unwrap();
    reason
}

#[tokio::test]
async fn rules_are_enforced_against_the_guest() {
    let frames = |frames: &[Frame]| {
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        bytes
    };
    let data = |stream, length| Frame::Data {
        stream,
        payload: Bytes::from(vec![0; length]),
    };
    let empty = std::iter::repeat_n(data(1, 0), 1_000_000 / 9).collect::<Vec<_>>();
    let flood = vec![data(1, MAX_PAYLOAD); WINDOW as usize / MAX_PAYLOAD + 1];
    let open = Frame::Open {
        stream: 9,
        total: 0,
        part: Bytes::new(),
    };
    let cases: Vec<(Vec<u8>, Violation)> = vec![
        (vec![9], Violation::UnknownKind(9)),
        (vec![255], Violation::UnknownKind(255)),
        (frames(&[open]), Violation::Direction(Kind::Open)),
        (frames(&flood), Violation::Credit(1)),
        (
            frames(&[Frame::Fin { stream: 1 }, data(1, 1)]),
            Violation::AfterFin(1),
        ),
        (
            frames(&[data(2, 1)]),
            Violation::Stream {
                kind: Kind::Data,
                stream: 2,
            },
        ),
        (
            vec![4, 0, 0, 0, 0, 0, 0, 0, END],
            Violation::Stream {
                kind: Kind::Data,
                stream: 0,
            },
        ),
        (
            vec![4, 255, 255, 255, 1, 0, 0, 0],
            Violation::Length {
                kind: Kind::Data,
                length: 0xff_ff_ff,
            },
        ),
        (
            vec![6, 0, 0, 0, 1, 0, 0, 0, 0],
            Violation::Unfinished(Kind::Fin),
        ),
    ];
    for (bytes, expected) in cases {
        match hostile(bytes).await {
            LinkError::Violation(violation) => assert_eq!(violation, expected),
            other => panic!("{expected:?}: {other:?}"),
        }
    }
    assert!(matches!(
        hostile(frames(&[Frame::Goodbye])).await,
        LinkError::Goodbye
    ));
    // Empty frames are consumed as they come: they cost time, not memory, and are no offence.
    let mut bytes = frames(&empty);
    bytes.push(200);
    match hostile(bytes).await {
        LinkError::Violation(Violation::UnknownKind(200) | Violation::Credit(1)) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_agent_of_an_unknown_generation_is_named() {
    let (host, guest) = duplex(4096);
    agent(guest, echo);
    let options = HostOptions {
        generations: (7, 9),
        ..HostOptions::fresh()
    };
    assert!(matches!(
        Link::connect(host, options).await,
        Err(LinkError::Generation {
            agent: GENERATION,
            lowest: 7,
            highest: 9
        })
    ));
}

#[tokio::test]
async fn hello_is_sent_again_until_it_is_answered() {
    let (host, mut guest) = duplex(1024 * 1024);
    let options = HostOptions {
        resend: Duration::from_millis(5),
        ..HostOptions::fresh()
    };
    let connect = tokio::spawn(Link::connect(host, options));
    let mut hellos = Vec::new();
    let mut input = bytes::BytesMut::new();
    while hellos.len() < 3 {
        guest.read_buf(&mut input).await.unwrap();
        while let Some(hello) = scan_hello(&mut input) {
            hellos.push(hello);
        }
    }
    assert!(hellos.iter().all(|hello| *hello == hellos[0]));
    // An answer to another hello is stale.
    let mut ack = HelloAck {
        nonce: [3; 16],
        generation: GENERATION,
        window: WINDOW,
        boot_id: [0; 16],
    };
    let mut bytes = Vec::new();
    Frame::HelloAck(ack.clone()).encode(&mut bytes);
    guest.write_all(&bytes).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(!connect.is_finished());
    ack.nonce = hellos[0].nonce;
    // Each hello is answered; the answers after the first mean nothing.
    for _ in 0..3 {
        Frame::HelloAck(ack.clone()).encode(&mut bytes);
    }
    guest.write_all(&bytes).await.unwrap();
    let (link, _) = connect.await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(link.end_reason().is_none());
}

mod properties {
    use super::*;
    use bytes::BytesMut;
    use proptest::prelude::*;

    fn any_host_frame() -> impl Strategy<Value = Frame> {
        let stream = 1u32..4;
        let payload = proptest::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from);
        prop_oneof![
            (stream.clone(), payload.clone()).prop_map(|(stream, part)| Frame::Open {
                stream,
                total: part.len() as u32 + 3,
                part,
            }),
            (stream.clone(), payload).prop_map(|(stream, payload)| Frame::Data { stream, payload }),
            (stream.clone(), any::<u32>())
                .prop_map(|(stream, credit)| Frame::Window { stream, credit }),
            stream.clone().prop_map(|stream| Frame::Fin { stream }),
            (stream, any::<u32>()).prop_map(|(stream, code)| Frame::Reset {
                stream,
                code: ResetCode::from_number(code),
            }),
            any::<[u8; 16]>().prop_map(|nonce| Frame::Hello(Hello {
                nonce,
                lowest: 1,
                highest: 1,
                window: WINDOW,
            })),
        ]
    }

    proptest! {
        #[test]
        fn any_split_decodes_the_same(
            frames in proptest::collection::vec(any_host_frame(), 0..10),
            pads in 0usize..3,
            cuts in proptest::collection::vec(1usize..50, 1..20),
        ) {
            let mut bytes = Vec::new();
            for frame in &frames {
                bytes.resize(bytes.len() + pads, 0);
                frame.encode(&mut bytes);
            }
            let mut input = BytesMut::new();
            let mut decoded = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                input.extend_from_slice(now);
                while let Some(frame) = decode(Direction::HostToAgent, &mut input).unwrap() {
                    decoded.push(frame);
                }
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(decoded, frames);
            prop_assert!(input.is_empty());
        }

        #[test]
        fn a_hello_is_found_behind_any_bytes(
            garbage in proptest::collection::vec(any::<u8>(), 0..2000),
            nonce: [u8; 16],
            cut in 1usize..300,
        ) {
            let hello = Hello { nonce, lowest: 1, highest: 3, window: MIN_WINDOW };
            let mut bytes = garbage;
            Frame::Hello(hello.clone()).encode(&mut bytes);
            bytes.extend_from_slice(b"next");
            let mut input = BytesMut::new();
            let mut found = None;
            for part in bytes.chunks(cut) {
                input.extend_from_slice(part);
                if found.is_none() {
                    found = scan_hello(&mut input);
                    if found.is_none() {
                        prop_assert!(input.len() <= HEADER + 256 + 1 + cut);
                    }
                }
            }
            prop_assert_eq!(found, Some(hello));
            prop_assert_eq!(&input[..], &b"next"[..]);
        }

        /// Zeros after any cut of any frames bring the decoder to a boundary, or to an error after
        /// which scanning goes on; either way the next hello is found.
        #[test]
        fn zeros_fill_up_any_half_frame(
            frames in proptest::collection::vec(any_host_frame(), 1..6),
            keep in any::<prop::sample::Index>(),
        ) {
            let mut bytes = Vec::new();
            frames.iter().for_each(|frame| frame.encode(&mut bytes));
            bytes.truncate(keep.index(bytes.len() + 1));
            bytes.resize(bytes.len() + MAX_FRAME, 0);
            let hello = Hello { nonce: [9; 16], lowest: 1, highest: 1, window: WINDOW };
            Frame::Hello(hello.clone()).encode(&mut bytes);
            let mut input = BytesMut::from(&bytes[..]);
            let found = loop {
                match decode(Direction::HostToAgent, &mut input) {
                    Ok(Some(Frame::Hello(found))) if found == hello => break true,
                    Ok(Some(_)) => {}
                    Ok(None) => break false,
                    Err(_) => break scan_hello(&mut input) == Some(hello.clone()),
                }
            };
            prop_assert!(found);
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(bytes: Vec<u8>) {
            for direction in [Direction::HostToAgent, Direction::AgentToHost] {
                let mut input = BytesMut::from(&bytes[..]);
                while let Ok(Some(_)) = decode(direction, &mut input) {}
            }
            let mut input = BytesMut::from(&bytes[..]);
            while scan_ack(&mut input, &[0; 16]).is_some() {}
        }
    }
}
