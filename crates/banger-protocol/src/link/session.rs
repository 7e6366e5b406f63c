//! The streams of one session: credit, queues and ends. No I/O; the pump moves the bytes.
//!
//! A stream lives from its open until both ends let go of it:
//!
//! ```text
//! open ─► fin sent, fin received, handle dropped ─────────────► gone
//!   │       fin sent, handle dropped ─► queue written, reset ──► gone
//!   └──── handle dropped, or writer dropped unfinished ─► reset ► gone
//! ```
//!
//! Frames for a stream that is gone are ignored: they were on their way. Each queue is bounded, by
//! credit on the receiving side and by [`SEND_QUEUE`] on the sending side.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::error::{broken_pipe, link_lost, stream_reset};
use super::frame::{Frame, Kind, MAX_FRAME, MAX_PAYLOAD};
use super::payload::FrameBuf;
use super::{Direction, FRAME_COST, LinkError, MAX_STREAMS, ResetCode, Violation, WINDOW};

/// Bytes a stream may have queued for the pipe.
const SEND_QUEUE: usize = 2 * MAX_FRAME;

/// Frames below this are gathered into one write.
const GATHER: usize = 8 * 1024;

/// A stream that the host opened, as the agent's end sees it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) id: u32,
    pub(super) total: u32,
    pub(super) part: Bytes,
}

struct Queued {
    kind: Kind,
    buf: FrameBuf,
}

struct Stream {
    send: VecDeque<Queued>,
    queued: usize,
    /// Credit that the peer gave us.
    credit: u64,
    fin_queued: bool,
    fin_sent: bool,
    recv: VecDeque<Bytes>,
    /// Credit that the peer has of us.
    allowed: u32,
    /// Credit to be given back.
    consumed: u32,
    grant_queued: bool,
    fin_received: bool,
    reader_gone: bool,
    detached: bool,
    reset: Option<ResetCode>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Stream {
    fn new(credit: u32) -> Self {
        Stream {
            send: VecDeque::new(),
            queued: 0,
            credit: credit.into(),
            fin_queued: false,
            fin_sent: false,
            recv: VecDeque::new(),
            allowed: WINDOW,
            consumed: 0,
            grant_queued: false,
            fin_received: false,
            reader_gone: false,
            detached: false,
            reset: None,
            reader: None,
            writer: None,
        }
    }

    fn wake(&mut self) {
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    fn has_output(&self) -> bool {
        !self.send.is_empty() || (self.fin_queued && !self.fin_sent)
    }
}

struct State {
    streams: HashMap<u32, Stream>,
    /// Lowest id not used yet.
    next: u32,
    /// Credit of a new stream.
    send_window: u32,
    /// Streams with output, each at most once.
    ready: VecDeque<u32>,
    /// Streams with credit to give back, each at most once.
    grants: VecDeque<u32>,
    resets: VecDeque<(u32, ResetCode)>,
    pump: Option<Waker>,
    ended: Option<LinkError>,
    watchers: Vec<Waker>,
}

/// The state both ends of this side share: the pump, and the streams' handles.
pub(super) struct Session {
    from: Direction,
    state: Mutex<State>,
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn remember(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *slot = Some(cx.waker().clone()),
    }
}

fn cost(payload: usize) -> u32 {
    // A payload is at most MAX_PAYLOAD.
    payload as u32 + FRAME_COST
}

impl Session {
    /// `from` is the direction of what the *peer* sends.
    pub(super) fn new(from: Direction, send_window: u32) -> Self {
        Session {
            from,
            state: Mutex::new(State {
                streams: HashMap::new(),
                next: 1,
                send_window,
                ready: VecDeque::new(),
                grants: VecDeque::new(),
                resets: VecDeque::new(),
                pump: None,
                ended: None,
                watchers: Vec::new(),
            }),
        }
    }

    pub(super) fn peer(&self) -> Direction {
        self.from
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream of this side, with as much of the request in the first frame as fits.
    /// Returns its id and how many bytes of the request were taken.
    pub(super) fn open(&self, request: &[u8]) -> Result<(u32, usize), LinkError> {
        let total = u32::try_from(request.len())
            .ok()
            .filter(|total| *total <= super::MAX_REQUEST)
            .ok_or(LinkError::RequestTooLong {
                length: request.len(),
                most: super::MAX_REQUEST,
            })?;
        let mut state = self.state();
        if let Some(reason) = &state.ended {
            return Err(reason.clone());
        }
        if state.streams.len() >= MAX_STREAMS {
            return Err(LinkError::TooManyStreams);
        }
        let id = state.next;
        state.next = id.checked_add(1).ok_or(LinkError::Closed)?;
        let mut buf = FrameBuf::with_capacity(4 + request.len().min(MAX_PAYLOAD));
        buf.append(&total.to_le_bytes());
        let taken = buf.append(request);
        let mut stream = Stream::new(state.send_window);
        stream.queued = buf.len();
        stream.send.push_back(Queued {
            kind: Kind::Open,
            buf,
        });
        state.streams.insert(id, stream);
        state.ready.push_back(id);
        wake(&mut state.pump);
        Ok((id, taken))
    }

    /// Takes in a frame of the peer.
    pub(super) fn receive(&self, frame: Frame) -> Result<Option<Opened>, Violation> {
        let state = &mut *self.state();
        match frame {
            Frame::Open {
                stream: id,
                total,
                part,
            } => {
                if self.from == Direction::AgentToHost || id < state.next {
                    return Err(Violation::Stream {
                        kind: Kind::Open,
                        stream: id,
                    });
                }
                state.next = id.saturating_add(1);
                // The host may have let go of a stream whose end here is still at work.
                if state.streams.len() >= 2 * MAX_STREAMS {
                    state.resets.push_back((id, ResetCode::Refused));
                    wake(&mut state.pump);
                    return Ok(None);
                }
                let stream = Stream::new(state.send_window);
                state.streams.insert(id, stream);
                return Ok(Some(Opened { id, total, part }));
            }
            Frame::Data {
                stream: id,
                payload,
            } => {
                let Some(stream) = state.live(id, Kind::Data)? else {
                    return Ok(None);
                };
                if stream.fin_received {
                    return Err(Violation::AfterFin(id));
                }
                let cost = cost(payload.len());
                stream.allowed = stream
                    .allowed
                    .checked_sub(cost)
                    .ok_or(Violation::Credit(id))?;
                if stream.reader_gone || payload.is_empty() {
                    state.consume(id, cost);
                } else {
                    stream.recv.push_back(payload);
                    wake(&mut stream.reader);
                }
            }
            Frame::Window { stream: id, credit } => {
                if let Some(stream) = state.live(id, Kind::Window)? {
                    stream.credit = stream.credit.saturating_add(credit.into());
                    wake(&mut stream.writer);
                }
            }
            Frame::Fin { stream: id } => {
                if let Some(stream) = state.live(id, Kind::Fin)? {
                    if stream.fin_received {
                        return Err(Violation::AfterFin(id));
                    }
                    stream.fin_received = true;
                    wake(&mut stream.reader);
                    state.reap(id);
                }
            }
            Frame::Reset { stream: id, code } => {
                if let Some(stream) = state.live(id, Kind::Reset)? {
                    stream.reset = Some(code);
                    stream.send.clear();
                    stream.queued = 0;
                    if !stream.fin_received {
                        stream.recv.clear();
                    }
                    stream.wake();
                    state.reap(id);
                }
            }
            // The pump handles what concerns the link.
            Frame::Hello(_) | Frame::HelloAck(_) | Frame::Goodbye => {}
        }
        Ok(None)
    }

    /// What to write next: small frames are gathered into `out`, a large one is returned whole.
    /// With neither, the pump's waker is kept until there is more.
    pub(super) fn next_output(&self, cx: &Context<'_>, out: &mut Vec<u8>) -> Option<Vec<u8>> {
        let state = &mut *self.state();
        while let Some((id, code)) = state.resets.pop_front() {
            Frame::Reset { stream: id, code }.encode(out);
        }
        while let Some(id) = state.grants.pop_front() {
            if let Some(stream) = state.streams.get_mut(&id) {
                stream.grant_queued = false;
                let credit = std::mem::take(&mut stream.consumed);
                stream.allowed += credit;
                Frame::Window { stream: id, credit }.encode(out);
            }
        }
        while let Some(id) = state.ready.pop_front() {
            let Some(stream) = state.streams.get_mut(&id) else {
                continue;
            };
            if let Some(first) = stream.send.front() {
                let large = first.buf.len() >= GATHER;
                if !out.is_empty() && (large || out.len() + first.buf.len() + 64 > MAX_FRAME) {
                    state.ready.push_front(id);
                    break;
                }
                let Some(Queued { kind, buf }) = stream.send.pop_front() else {
                    continue;
                };
                stream.queued -= buf.len();
                wake(&mut stream.writer);
                let more = stream.has_output();
                if more {
                    state.ready.push_back(id);
                }
                let frame = buf.seal(kind, id);
                if large {
                    return Some(frame);
                }
                out.extend_from_slice(&frame);
            } else if stream.fin_queued && !stream.fin_sent && stream.reset.is_none() {
                stream.fin_sent = true;
                wake(&mut stream.writer);
                Frame::Fin { stream: id }.encode(out);
                state.reap(id);
                while let Some((id, code)) = state.resets.pop_front() {
                    Frame::Reset { stream: id, code }.encode(out);
                }
            }
        }
        if out.is_empty() && state.ended.is_none() {
            remember(&mut state.pump, cx);
        }
        None
    }

    pub(super) fn poll_read(&self, id: u32, cx: &Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let state = &mut *self.state();
        let Some(stream) = state.streams.get_mut(&id) else {
            return Poll::Ready(Err(state.gone()));
        };
        if let Some(chunk) = stream.recv.pop_front() {
            state.consume(id, cost(chunk.len()));
            return Poll::Ready(Ok(Some(chunk)));
        }
        if stream.fin_received {
            return Poll::Ready(Ok(None));
        }
        if let Some(code) = stream.reset {
            return Poll::Ready(Err(stream_reset(code)));
        }
        if let Some(reason) = &state.ended {
            return Poll::Ready(Err(link_lost(reason)));
        }
        remember(&mut stream.reader, cx);
        Poll::Pending
    }

    /// Queues some of `data`; pending while there is neither credit nor room.
    pub(super) fn poll_write(
        &self,
        id: u32,
        cx: &Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let state = &mut *self.state();
        let stream = state.writable(id)?;
        if stream.queued < SEND_QUEUE {
            // Small writes fill up the last frame, which saves the cost of their own.
            if let Some(last) = stream.send.back_mut()
                && last.kind == Kind::Data
                && last.buf.len() < GATHER
            {
                let most = usize::try_from(stream.credit).unwrap_or(usize::MAX);
                let count = last.buf.append(&data[..data.len().min(most)]);
                if count > 0 {
                    stream.credit -= count as u64;
                    stream.queued += count;
                    return Poll::Ready(Ok(count));
                }
            }
            let most = stream.credit.saturating_sub(FRAME_COST.into());
            let count = data
                .len()
                .min(MAX_PAYLOAD)
                .min(usize::try_from(most).unwrap_or(usize::MAX));
            if count > 0 {
                let buf = FrameBuf::copy_of(&data[..count]);
                state.push(id, buf);
                return Poll::Ready(Ok(count));
            }
        }
        remember(&mut stream.writer, cx);
        Poll::Pending
    }

    /// Queues the whole frame, or leaves it where it is while there is neither credit nor room.
    pub(super) fn poll_write_frame(
        &self,
        id: u32,
        cx: &Context<'_>,
        frame: &mut Option<FrameBuf>,
    ) -> Poll<io::Result<()>> {
        let state = &mut *self.state();
        let stream = state.writable(id)?;
        let Some(buf) = frame
            .take_if(|buf| stream.queued < SEND_QUEUE && stream.credit >= cost(buf.len()).into())
        else {
            if frame.is_none() {
                return Poll::Ready(Ok(()));
            }
            remember(&mut stream.writer, cx);
            return Poll::Pending;
        };
        if !buf.is_empty() {
            state.push(id, buf);
        }
        Poll::Ready(Ok(()))
    }

    /// Ready once all that was queued has been handed to the pump.
    pub(super) fn poll_flush(&self, id: u32, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.state();
        let Some(stream) = state.streams.get_mut(&id) else {
            return Poll::Ready(Err(state.gone()));
        };
        if !stream.has_output() {
            return Poll::Ready(Ok(()));
        }
        if let Some(reason) = &state.ended {
            return Poll::Ready(Err(link_lost(reason)));
        }
        if let Some(code) = stream.reset {
            return Poll::Ready(Err(stream_reset(code)));
        }
        remember(&mut stream.writer, cx);
        Poll::Pending
    }

    /// Queues the end of this direction.
    pub(super) fn finish(&self, id: u32) -> io::Result<()> {
        let state = &mut *self.state();
        if let Some(reason) = &state.ended {
            return Err(link_lost(reason));
        }
        let Some(stream) = state.streams.get_mut(&id) else {
            return Err(state.gone());
        };
        if stream.reset.is_none() && !stream.fin_queued {
            stream.fin_queued = true;
            if stream.send.is_empty() {
                state.ready.push_back(id);
            }
            wake(&mut state.pump);
        }
        Ok(())
    }

    /// The reading handle was dropped: what still comes is taken in and thrown away.
    pub(super) fn drop_reader(&self, id: u32) {
        let state = &mut *self.state();
        if let Some(stream) = state.streams.get_mut(&id) {
            stream.reader_gone = true;
            let unread: u32 = stream.recv.drain(..).map(|chunk| cost(chunk.len())).sum();
            state.consume(id, unread);
        }
    }

    /// The writing handle was dropped; without a fin that gives up the stream.
    pub(super) fn drop_writer(&self, id: u32) {
        let state = &mut *self.state();
        if let Some(stream) = state.streams.get_mut(&id)
            && !stream.fin_queued
            && stream.reset.is_none()
        {
            stream.reset = Some(ResetCode::Dropped);
            // The peer cannot be told to drop what it has not been told to open.
            let announced = stream
                .send
                .front()
                .is_none_or(|first| first.kind != Kind::Open);
            stream.send.clear();
            stream.queued = 0;
            wake(&mut stream.reader);
            if announced {
                state.resets.push_back((id, ResetCode::Dropped));
                wake(&mut state.pump);
            }
        }
    }

    /// Both handles were dropped.
    pub(super) fn detach(&self, id: u32) {
        let state = &mut *self.state();
        if let Some(stream) = state.streams.get_mut(&id) {
            stream.detached = true;
            state.reap(id);
            wake(&mut state.pump);
        }
    }

    /// Ends the session; the first reason stays.
    pub(super) fn end(&self, reason: LinkError) {
        let state = &mut *self.state();
        if state.ended.is_some() {
            return;
        }
        state.ended = Some(reason);
        state.streams.retain(|_, stream| !stream.detached);
        for stream in state.streams.values_mut() {
            stream.send.clear();
            stream.queued = 0;
            stream.wake();
        }
        wake(&mut state.pump);
        state.watchers.drain(..).for_each(Waker::wake);
    }

    pub(super) fn ended(&self) -> Option<LinkError> {
        self.state().ended.clone()
    }

    pub(super) fn poll_ended(&self, cx: &Context<'_>) -> Poll<LinkError> {
        let mut state = self.state();
        if let Some(reason) = &state.ended {
            return Poll::Ready(reason.clone());
        }
        if !state
            .watchers
            .iter()
            .any(|waker| waker.will_wake(cx.waker()))
        {
            state.watchers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    #[cfg(test)]
    pub(super) fn open_streams(&self) -> usize {
        self.state().streams.len()
    }
}

impl State {
    /// A stream the peer speaks of; `None` where it is gone, an error where it never was.
    fn live(&mut self, id: u32, kind: Kind) -> Result<Option<&mut Stream>, Violation> {
        if id >= self.next {
            return Err(Violation::Stream { kind, stream: id });
        }
        Ok(self
            .streams
            .get_mut(&id)
            .filter(|stream| stream.reset.is_none()))
    }

    fn writable(&mut self, id: u32) -> io::Result<&mut Stream> {
        if let Some(reason) = &self.ended {
            return Err(link_lost(reason));
        }
        match self.streams.get_mut(&id) {
            Some(stream) if stream.reset.is_none() && !stream.fin_queued => Ok(stream),
            _ => Err(broken_pipe()),
        }
    }

    fn gone(&self) -> io::Error {
        match &self.ended {
            Some(reason) => link_lost(reason),
            None => broken_pipe(),
        }
    }

    fn push(&mut self, id: u32, buf: FrameBuf) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.credit = stream.credit.saturating_sub(cost(buf.len()).into());
            stream.queued += buf.len();
            if stream.send.is_empty() {
                self.ready.push_back(id);
            }
            stream.send.push_back(Queued {
                kind: Kind::Data,
                buf,
            });
            wake(&mut self.pump);
        }
    }

    /// Notes consumed credit, and gives it back once it is worth a frame.
    fn consume(&mut self, id: u32, cost: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.consumed += cost;
            if stream.consumed >= WINDOW / 2 && !stream.grant_queued && !stream.fin_received {
                stream.grant_queued = true;
                self.grants.push_back(id);
                wake(&mut self.pump);
            }
        }
    }

    /// Removes a stream that neither side needs, see the module's drawing.
    fn reap(&mut self, id: u32) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let over = stream.reset.is_some() || self.ended.is_some();
        if !stream.detached || !(over || stream.fin_sent) {
            return;
        }
        if !over && !stream.fin_received {
            self.resets.push_back((id, ResetCode::Dropped));
        }
        self.streams.remove(&id);
    }
}
