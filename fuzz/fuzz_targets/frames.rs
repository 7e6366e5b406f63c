//! Bytes of either end of the guest link, and of exec on it. None may panic; how they were cut
//! into pieces makes no difference; what was understood is understood again when it is written
//! anew; and a hello is found behind anything.
#![no_main]

use banger_protocol::agent::OpenRequest;
use banger_protocol::exec::{self, Checker, Decoder};
use banger_protocol::link::{self, HEADER, Hello, MAX_PAYLOAD, MIN_WINDOW, scan_ack, scan_hello};
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, data) = input;
    let piece = usize::from(piece) + 1;
    for direction in [link::Direction::HostToAgent, link::Direction::AgentToHost] {
        link_frames(direction, data, piece);
    }
    for direction in [
        exec::Direction::ClientToGuest,
        exec::Direction::GuestToClient,
    ] {
        exec_frames(direction, data, piece);
    }
    handshake(data, piece);
    // What the agent is asked to do.
    let _ = serde_json::from_slice::<OpenRequest>(data);
});

fn link_frames(direction: link::Direction, data: &[u8], piece: usize) {
    let decode = |piece: usize| {
        let mut input = BytesMut::new();
        let mut frames = Vec::new();
        for part in data.chunks(piece) {
            input.extend_from_slice(part);
            loop {
                match link::decode(direction, &mut input) {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(violation) => return (frames, Some(violation)),
                }
            }
            assert!(input.len() <= HEADER + MAX_PAYLOAD, "a frame is bounded");
        }
        (frames, None)
    };
    let whole = decode(data.len().max(1));
    assert_eq!(decode(piece), whole);

    let mut bytes = Vec::new();
    whole.0.iter().for_each(|frame| frame.encode(&mut bytes));
    let mut again = BytesMut::from(&bytes[..]);
    for frame in whole.0 {
        assert_eq!(link::decode(direction, &mut again), Ok(Some(frame)));
    }
    assert!(again.is_empty());
}

fn exec_frames(direction: exec::Direction, data: &[u8], piece: usize) {
    let decode = |piece: usize| {
        let mut decoder = Decoder::new(direction);
        let mut frames = Vec::new();
        for part in data.chunks(piece) {
            decoder.push(Bytes::copy_from_slice(part));
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        (frames, None)
    };
    let whole = decode(data.len().max(1));
    assert_eq!(decode(piece), whole);

    // The daemon looks at headers only: it never objects to what an end would have understood.
    let mut checker = Checker::new(direction);
    let checked = data.chunks(piece).try_for_each(|part| checker.feed(part));
    assert!(checked.is_ok() || whole.1.is_some());

    let mut decoder = Decoder::new(direction);
    for frame in whole.0 {
        decoder.push(frame.to_bytes().into());
        assert_eq!(decoder.next_frame(), Ok(Some(frame)));
    }
    assert!(decoder.at_boundary());
}

fn handshake(data: &[u8], piece: usize) {
    let nonce = [7; 16];
    let mut input = BytesMut::new();
    for part in data.chunks(piece) {
        input.extend_from_slice(part);
        let _ = scan_ack(&mut input, &nonce);
        assert!(input.len() < 2 * HEADER + 256, "what is kept is bounded");
    }

    let hello = Hello {
        nonce,
        lowest: 1,
        highest: 1,
        window: MIN_WINDOW,
    };
    let mut frame = Vec::new();
    link::Frame::Hello(hello.clone()).encode(&mut frame);
    let mut input = BytesMut::from(data);
    // A host sends it again until it is answered: the first may complete what was there before.
    for _ in 0..8 {
        input.extend_from_slice(&frame);
        while let Some(found) = scan_hello(&mut input) {
            if found == hello {
                return;
            }
        }
    }
    panic!("the hello was not found");
}
