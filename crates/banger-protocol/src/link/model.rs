//! Two sessions without a pipe between: random steps, against what a pair of pipes would do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use proptest::prelude::*;

use super::session::Session;
use super::stream::{LinkStream, StreamReader, StreamWriter};
use super::{Direction, FrameBuf, MAX_PAYLOAD, WINDOW, decode};

#[derive(Clone, Copy, Debug)]
enum Step {
    Open,
    Write {
        host: bool,
        pick: usize,
        length: usize,
    },
    WriteFrame {
        host: bool,
        pick: usize,
        length: usize,
    },
    Read {
        host: bool,
        pick: usize,
    },
    Finish {
        host: bool,
        pick: usize,
    },
    DropReader {
        host: bool,
        pick: usize,
    },
    DropWriter {
        host: bool,
        pick: usize,
    },
    /// Moves some of what one side has to say to the other.
    Carry {
        from_host: bool,
        writes: usize,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let place = || (any::<bool>(), 0usize..8);
    prop_oneof![
        2 => Just(Step::Open),
        8 => (place(), 1usize..100_000)
            .prop_map(|((host, pick), length)| Step::Write { host, pick, length }),
        4 => (place(), 0usize..=MAX_PAYLOAD)
            .prop_map(|((host, pick), length)| Step::WriteFrame { host, pick, length }),
        16 => place().prop_map(|(host, pick)| Step::Read { host, pick }),
        1 => place().prop_map(|(host, pick)| Step::Finish { host, pick }),
        1 => place().prop_map(|(host, pick)| Step::DropReader { host, pick }),
        1 => place().prop_map(|(host, pick)| Step::DropWriter { host, pick }),
        16 => (any::<bool>(), 1usize..6)
            .prop_map(|(from_host, writes)| Step::Carry { from_host, writes }),
    ]
}

/// One end of a stream, and what it has done so far.
struct End {
    reader: Option<StreamReader>,
    writer: Option<StreamWriter>,
    written: usize,
    read: usize,
    finished: bool,
    at_end: bool,
}

impl End {
    fn new(stream: LinkStream) -> Self {
        let (reader, writer) = stream.into_split();
        End {
            reader: Some(reader),
            writer: Some(writer),
            written: 0,
            read: 0,
            finished: false,
            at_end: false,
        }
    }
}

struct Side {
    session: Arc<Session>,
    ends: BTreeMap<u32, End>,
    input: BytesMut,
}

/// Byte `at` of what a side writes: the same at both ends, different between streams.
fn byte(host: bool, id: u32, at: usize) -> u8 {
    (at as u32)
        .wrapping_mul(31)
        .wrapping_add(id * 7 + u32::from(host)) as u8
}

struct Model {
    host: Side,
    agent: Side,
}

impl Model {
    fn new() -> Self {
        let side = |from| Side {
            session: Arc::new(Session::new(from, WINDOW)),
            ends: BTreeMap::new(),
            input: BytesMut::new(),
        };
        Model {
            host: side(Direction::AgentToHost),
            agent: side(Direction::HostToAgent),
        }
    }

    fn sides(&mut self, host: bool) -> (&mut Side, &mut Side) {
        if host {
            (&mut self.host, &mut self.agent)
        } else {
            (&mut self.agent, &mut self.host)
        }
    }

    fn end(&mut self, host: bool, pick: usize) -> Option<(u32, &mut End)> {
        let (side, _) = self.sides(host);
        let count = side.ends.len();
        side.ends
            .iter_mut()
            .nth(pick % count.max(1))
            .map(|(id, end)| (*id, end))
    }

    fn carry(&mut self, from_host: bool, writes: usize) -> bool {
        let cx = Context::from_waker(Waker::noop());
        let (from, to) = self.sides(from_host);
        let mut moved = false;
        for _ in 0..writes {
            let mut out = Vec::new();
            if let Some(frame) = from.session.next_output(&cx, &mut out) {
                assert!(out.is_empty());
                out = frame;
            }
            assert!(out.len() <= super::MAX_FRAME);
            moved |= !out.is_empty();
            to.input.extend_from_slice(&out);
            while let Some(frame) = decode(to.session.peer(), &mut to.input).unwrap() {
                // Whatever the steps were, neither side breaks a rule of the other.
                if let Some(opened) = to.session.receive(frame).unwrap() {
                    let stream = LinkStream::new(Arc::clone(&to.session), opened.id, None);
                    to.ends.insert(opened.id, End::new(stream));
                }
            }
        }
        moved
    }

    fn step(&mut self, step: Step) {
        let mut cx = Context::from_waker(Waker::noop());
        match step {
            Step::Open => {
                if self.host.ends.len() < 8 {
                    let (id, taken) = self.host.session.open(b"request").unwrap();
                    assert_eq!(taken, 7);
                    let stream = LinkStream::new(Arc::clone(&self.host.session), id, None);
                    self.host.ends.insert(id, End::new(stream));
                }
            }
            Step::Write { host, pick, length } => {
                if let Some((id, end)) = self.end(host, pick)
                    && let Some(writer) = &mut end.writer
                {
                    let data: Vec<u8> = (0..length)
                        .map(|at| byte(host, id, end.written + at))
                        .collect();
                    let writer = std::pin::Pin::new(writer);
                    if let Poll::Ready(Ok(count)) =
                        tokio::io::AsyncWrite::poll_write(writer, &mut cx, &data)
                    {
                        assert!(!end.finished && count > 0);
                        end.written += count;
                    }
                }
            }
            Step::WriteFrame { host, pick, length } => {
                if let Some((id, end)) = self.end(host, pick)
                    && let Some(writer) = &mut end.writer
                {
                    let data: Vec<u8> = (0..length)
                        .map(|at| byte(host, id, end.written + at))
                        .collect();
                    let mut frame = Some(FrameBuf::copy_of(&data));
                    if let Poll::Ready(Ok(())) = writer.poll_write_frame(&mut cx, &mut frame) {
                        assert!(frame.is_none());
                        end.written += length;
                    }
                }
            }
            Step::Read { host, pick } => {
                if let Some((id, end)) = self.end(host, pick)
                    && let Some(reader) = &mut end.reader
                    && let Poll::Ready(Ok(chunk)) = reader.poll_chunk(&mut cx)
                {
                    match chunk {
                        Some(chunk) => {
                            assert!(!end.at_end && !chunk.is_empty());
                            for got in &chunk {
                                assert_eq!(*got, byte(!host, id, end.read));
                                end.read += 1;
                            }
                        }
                        None => end.at_end = true,
                    }
                }
            }
            Step::Finish { host, pick } => {
                if let Some((_, end)) = self.end(host, pick)
                    && let Some(writer) = &mut end.writer
                    && writer.finish().is_ok()
                {
                    end.finished = true;
                }
            }
            Step::DropReader { host, pick } => {
                if let Some((_, end)) = self.end(host, pick) {
                    end.reader = None;
                }
            }
            Step::DropWriter { host, pick } => {
                if let Some((_, end)) = self.end(host, pick) {
                    end.writer = None;
                }
            }
            Step::Carry { from_host, writes } => {
                self.carry(from_host, writes);
            }
        }
    }

    /// Reads and carries until nothing moves.
    fn settle(&mut self) {
        loop {
            let mut moved = self.carry(true, 64) | self.carry(false, 64);
            for host in [true, false] {
                for pick in 0..8 {
                    let before = self.end(host, pick).map(|(_, end)| end.read);
                    self.step(Step::Read { host, pick });
                    moved |= self.end(host, pick).map(|(_, end)| end.read) != before;
                }
            }
            if !moved {
                return;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn streams_behave_like_pipes(steps in proptest::collection::vec(any_step(), 1..150)) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
        }
        model.settle();
        // A stream that neither end gave up has carried everything; an end too, if it was sent.
        for (id, host) in &model.host.ends {
            let Some(agent) = model.agent.ends.get(id) else {
                continue;
            };
            if host.reader.is_some() && host.writer.is_some()
                && agent.reader.is_some() && agent.writer.is_some()
            {
                prop_assert_eq!(host.written, agent.read);
                prop_assert_eq!(agent.written, host.read);
                prop_assert_eq!(host.finished, agent.at_end);
                prop_assert_eq!(agent.finished, host.at_end);
            }
        }
        // And once all is dropped, nothing is kept.
        model.host.ends.clear();
        model.agent.ends.clear();
        model.settle();
        prop_assert_eq!(model.host.session.open_streams(), 0);
        // The agent may have been given streams since.
        model.agent.ends.clear();
        model.settle();
        prop_assert_eq!(model.agent.session.open_streams(), 0);
    }
}
