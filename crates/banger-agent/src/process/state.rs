//! What is known of a process, and what waits to be sent. No I/O.

use std::collections::VecDeque;
use std::sync::Arc;

use banger_protocol::exec::{
    Channel, ExitStatus, Frame, HEADER, Kind, MAX_PAYLOAD, ReceiveCredit, SendCredit, header,
};
use banger_protocol::link::FrameBuf;
use bytes::Bytes;
use tokio::sync::Notify;

use super::backlog::{Backlog, KEPT};
use super::{Keep, Log, index};

/// Output frames are joined up to this size while they wait.
const JOIN: usize = 8 * 1024;

pub(super) struct State {
    pub(super) exited: Option<ExitStatus>,
    /// Outputs that may still bring something.
    outputs: u8,
    backlogs: [Backlog; 2],
    attachment: Option<Attachment>,
    joins: u64,
    pub(super) stdin: Stdin,
    /// Its client hung up: output is thrown away.
    pub(super) hung_up: bool,
    pub(super) log: Option<Log>,
}

pub(super) struct Stdin {
    /// The process has one that is sent to.
    wanted: bool,
    pub(super) queue: VecDeque<Bytes>,
    /// The client will send no more.
    eof: bool,
    /// It said so, and the process has not been told.
    pub(super) eof_pending: bool,
    credit: ReceiveCredit,
}

/// A joined stream.
struct Attachment {
    join: u64,
    outbox: VecDeque<(Option<Channel>, FrameBuf)>,
    ready: Arc<Notify>,
    credit: [SendCredit; 2],
    /// Sent, and not known to have been consumed.
    unconfirmed: [u64; 2],
    /// The exit status is in the outbox.
    finished: bool,
}

/// What an attachment sends next.
pub(super) enum Outgoing {
    Frame(FrameBuf),
    /// Nothing now.
    Wait,
    /// The last frame was sent.
    Finished,
    /// Another one took its place.
    Replaced,
}

/// The client broke the rules of exec.
#[derive(Debug)]
pub(super) struct ClientFault;

impl State {
    pub(super) fn new(outputs: u8, stdin: bool, keep: Keep) -> Self {
        State {
            exited: None,
            outputs,
            backlogs: [Backlog::default(), Backlog::default()],
            attachment: None,
            joins: 0,
            stdin: Stdin {
                wanted: stdin,
                queue: VecDeque::new(),
                eof: false,
                eof_pending: false,
                credit: ReceiveCredit::default(),
            },
            hung_up: false,
            log: (keep == Keep::Log).then(Log::default),
        }
    }

    pub(super) fn is_attached(&self) -> bool {
        self.attachment.is_some()
    }

    /// It has ended and all of its output is here.
    pub(super) fn is_over(&self) -> bool {
        self.exited.is_some() && self.outputs == 0
    }

    pub(super) fn ended(&mut self, status: ExitStatus) {
        self.exited = Some(status);
        self.settle();
    }

    pub(super) fn output_ended(&mut self) {
        self.outputs = self.outputs.saturating_sub(1);
        self.settle();
    }

    /// Bytes of a channel that may be read from the process now.
    pub(super) fn room(&self, channel: Channel) -> usize {
        let channel = index(channel);
        match &self.attachment {
            None => MAX_PAYLOAD,
            Some(_) if !self.backlogs[channel].is_empty() => 0,
            Some(attachment) => attachment.credit[channel].available().min(MAX_PAYLOAD),
        }
    }

    /// Takes output of the process. `frame` has a place for the exec header before the data.
    pub(super) fn output(&mut self, channel: Channel, frame: FrameBuf) {
        let data = &frame.payload()[HEADER..];
        if let Some(log) = &mut self.log {
            log.append(channel, data);
        }
        let backlog = &mut self.backlogs[index(channel)];
        match &mut self.attachment {
            Some(attachment)
                if backlog.is_empty()
                    && attachment.credit[index(channel)].available() >= data.len() =>
            {
                attachment.send_output(channel, frame);
            }
            // Credit went while it was being read.
            Some(_) => backlog.push(data),
            None if self.hung_up || self.log.is_some() => {}
            None => {
                backlog.push(data);
                backlog.trim(KEPT);
            }
        }
    }

    /// Joins a stream, in the place of any before. Returns what names the join.
    pub(super) fn attach(&mut self, replay: bool, ready: Arc<Notify>) -> u64 {
        self.detach(None);
        if let Some(log) = &self.log
            && replay
        {
            let mut place = log.start();
            self.backlogs[index(Channel::Stdout)].lose(place);
            while let Some(part) = log.read(place, usize::MAX) {
                self.backlogs[index(part.channel)].push(&part.bytes);
                place = part.next;
            }
        }
        self.joins += 1;
        self.stdin.credit = ReceiveCredit::default();
        self.attachment = Some(Attachment {
            join: self.joins,
            outbox: VecDeque::new(),
            ready,
            credit: [SendCredit::default(); 2],
            unconfirmed: [0; 2],
            finished: false,
        });
        self.settle();
        self.joins
    }

    /// Ends this join, or whichever there is. What was on its way counts as lost.
    pub(super) fn detach(&mut self, join: Option<u64>) {
        if let Some(attachment) = self
            .attachment
            .take_if(|attachment| join.is_none_or(|join| attachment.join == join))
        {
            attachment.ready.notify_one();
            for (backlog, unconfirmed) in self.backlogs.iter_mut().zip(attachment.unconfirmed) {
                if self.log.is_some() {
                    // The log has it.
                    *backlog = Backlog::default();
                } else {
                    backlog.lose(unconfirmed);
                }
            }
        }
    }

    /// Sends a frame before all others of its join.
    pub(super) fn send_first(&mut self, join: u64, frame: &Frame) {
        if let Some(attachment) = &mut self.attachment
            && attachment.join == join
        {
            let frame = FrameBuf::copy_of(&frame.to_bytes());
            attachment.outbox.push_front((None, frame));
        }
    }

    /// Everything was handed over, the exit status last.
    pub(super) fn is_finished(&self, join: u64) -> bool {
        self.attachment.as_ref().is_some_and(|attachment| {
            attachment.join == join && attachment.finished && attachment.outbox.is_empty()
        })
    }

    pub(super) fn next_outgoing(&mut self, join: u64) -> Outgoing {
        match &mut self.attachment {
            Some(attachment) if attachment.join == join => match attachment.outbox.pop_front() {
                Some((_, frame)) => Outgoing::Frame(frame),
                None if attachment.finished => Outgoing::Finished,
                None => Outgoing::Wait,
            },
            _ => Outgoing::Replaced,
        }
    }

    pub(super) fn credit(
        &mut self,
        join: u64,
        channel: Channel,
        bytes: u32,
    ) -> Result<(), ClientFault> {
        if let Some(attachment) = &mut self.attachment
            && attachment.join == join
        {
            let channel = index(channel);
            attachment.credit[channel]
                .add(bytes)
                .map_err(|_| ClientFault)?;
            let unconfirmed = &mut attachment.unconfirmed[channel];
            *unconfirmed = unconfirmed.saturating_sub(bytes.into());
            self.settle();
        }
        Ok(())
    }

    pub(super) fn stdin(&mut self, bytes: Bytes) -> Result<(), ClientFault> {
        self.stdin
            .credit
            .receive(bytes.len())
            .map_err(|_| ClientFault)?;
        if self.stdin.wanted && !self.stdin.eof && !bytes.is_empty() {
            self.stdin.queue.push_back(bytes);
        }
        Ok(())
    }

    pub(super) fn stdin_eof(&mut self) {
        if !std::mem::replace(&mut self.stdin.eof, true) {
            self.stdin.eof_pending = true;
        }
    }

    /// The process took bytes of stdin, or never will.
    pub(super) fn stdin_consumed(&mut self, bytes: usize) {
        if let Some(credit) = self.stdin.credit.consume(bytes)
            && let Some(attachment) = &mut self.attachment
        {
            attachment.send(&Frame::StdinCredit(credit));
        }
    }

    /// Sends what can be sent: the backlogs, and the exit status behind all output.
    fn settle(&mut self) {
        let Some(attachment) = &mut self.attachment else {
            return;
        };
        for channel in [Channel::Stdout, Channel::Stderr] {
            let backlog = &mut self.backlogs[index(channel)];
            let lost = backlog.take_lost();
            if lost > 0 {
                attachment.send(&Frame::Lost {
                    channel,
                    bytes: lost,
                });
            }
            loop {
                let most = attachment.credit[index(channel)]
                    .available()
                    .min(MAX_PAYLOAD);
                if most == 0 || backlog.is_empty() {
                    break;
                }
                let mut frame = FrameBuf::with_capacity(HEADER + most);
                frame.append(&[0; HEADER]);
                backlog.take(most, &mut frame);
                attachment.send_output(channel, frame);
            }
        }
        if self.outputs == 0
            && self.backlogs.iter().all(Backlog::is_empty)
            && !attachment.finished
            && let Some(status) = &self.exited
        {
            attachment.finished = true;
            attachment.send(&Frame::Exit(status.clone()));
        }
    }
}

impl Attachment {
    fn send(&mut self, frame: &Frame) {
        self.outbox
            .push_back((None, FrameBuf::copy_of(&frame.to_bytes())));
        self.ready.notify_one();
    }

    fn send_output(&mut self, channel: Channel, mut frame: FrameBuf) {
        let length = frame.len() - HEADER;
        self.credit[index(channel)].spend(length);
        self.unconfirmed[index(channel)] += length as u64;
        let kind = match channel {
            Channel::Stdout => Kind::Stdout,
            Channel::Stderr => Kind::Stderr,
        };
        // A frame per byte would cost a hundred times the byte.
        if let Some((Some(last), waiting)) = self.outbox.back_mut()
            && *last == channel
            && waiting.len() + length <= JOIN
        {
            waiting.append(&frame.payload()[HEADER..]);
            let joined = header(kind, waiting.len() - HEADER);
            waiting.payload_mut()[..HEADER].copy_from_slice(&joined);
        } else {
            frame.payload_mut()[..HEADER].copy_from_slice(&header(kind, length));
            self.outbox.push_back((Some(channel), frame));
        }
        self.ready.notify_one();
    }
}
