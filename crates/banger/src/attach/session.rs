//! The one task that owns the connection.

use std::time::Duration;

use banger_protocol::error::{ApiError, ErrorKind};
use banger_protocol::exec::{
    Channel, CreditError, Decoder, Direction, ExitStatus, Frame, FrameError, MAX_PAYLOAD,
    ReceiveCredit, SendCredit,
};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;

use super::Ends;
use super::input;
use super::output::{Output, Told};
use super::signals::{Event, Signals};
use crate::client::Upgraded;
use crate::failure::{Failure, tell};
use crate::terminal::{self, RawMode};

/// Bytes read from the connection at once.
const READ: usize = 128 << 10;
/// How long the hang-up frame may take to leave.
const HANG_UP_TIMEOUT: Duration = Duration::from_secs(1);

pub async fn run(
    upgraded: Upgraded,
    ends: Ends,
    terminal: bool,
    mut signals: Signals,
    early: Option<Event>,
    raw: Option<&RawMode>,
) -> Result<ExitStatus, Failure> {
    let (mut reader, writer) = upgraded.stream.into_split();
    let (told_sender, mut told) = mpsc::unbounded_channel();
    let mut stdin = ends.stdin.map(input::read);
    let mut session = Session {
        writer,
        deaf: false,
        out: Vec::new(),
        sent: 0,
        decoder: Decoder::new(Direction::GuestToClient),
        unsent: Bytes::new(),
        stdin_credit: SendCredit::default(),
        stdout: Sink::new(Output::new(
            Channel::Stdout,
            ends.stdout,
            told_sender.clone(),
        )),
        stderr: Sink::new(Output::new(Channel::Stderr, ends.stderr, told_sender)),
        ending: None,
    };
    session.decoder.push(upgraded.leftover);
    if let Some(failure) = early.and_then(|event| session.signal(event, terminal, raw)) {
        session.hang_up().await;
        return Err(failure);
    }
    let mut buffer = BytesMut::new();
    let ended = loop {
        match session.frames() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) => {}
            Err(failure) => break Err(failure),
        }
        buffer.reserve(READ);
        tokio::select! {
            count = reader.read_buf(&mut buffer) => match count {
                Ok(0) => break Err(lost("it was closed")),
                Ok(_) => session.decoder.push(buffer.split().freeze()),
                Err(error) => break Err(lost(&error.to_string())),
            },
            sent = session.writer.write(&session.out[session.sent..]), if session.has_output() => {
                match sent {
                    Ok(count) => session.wrote(count),
                    // It reads no more; what it sent before may hold the end of the process.
                    Err(_) => session.deaf = true,
                }
            }
            chunk = next(&mut stdin), if session.unsent.is_empty() => session.stdin(chunk, &mut stdin),
            Some(event) = told.recv() => {
                if let Some(failure) = session.told(event) {
                    session.hang_up().await;
                    return Err(failure);
                }
            }
            event = signals.next() => {
                if let Some(failure) = session.signal(event, terminal, raw) {
                    session.hang_up().await;
                    return Err(failure);
                }
            }
        }
    };
    drain(&mut session, &mut told, &mut signals).await?;
    ended
}

/// Nothing more will come; what did come must still reach whoever reads it.
async fn drain(
    session: &mut Session,
    told: &mut mpsc::UnboundedReceiver<Told>,
    signals: &mut Signals,
) -> Result<(), Failure> {
    let mut writing = usize::from(session.stdout.output.close());
    writing += usize::from(session.stderr.output.close());
    while writing > 0 {
        tokio::select! {
            event = told.recv() => match event {
                Some(Told::Finished) => writing -= 1,
                Some(Told::Broken(Channel::Stdout, error)) => return Err(Failure::output(&error)),
                Some(_) => {}
                None => return Ok(()),
            },
            event = signals.next() => match event {
                Event::Forward(signal) | Event::HangUp(signal) => {
                    return Err(Failure::Interrupted(signal));
                }
                Event::Resized | Event::Continued => {}
            },
        }
    }
    Ok(())
}

struct Session {
    writer: OwnedWriteHalf,
    /// The other end reads no more.
    deaf: bool,
    /// Encoded frames, of which `sent` bytes have left.
    out: Vec<u8>,
    sent: usize,
    decoder: Decoder,
    /// stdin that waits for credit.
    unsent: Bytes,
    stdin_credit: SendCredit,
    stdout: Sink,
    stderr: Sink,
    /// A signal that means an end and was passed on.
    ending: Option<i32>,
}

struct Sink {
    output: Output,
    credit: ReceiveCredit,
}

impl Sink {
    fn new(output: Output) -> Self {
        Sink {
            output,
            credit: ReceiveCredit::default(),
        }
    }

    fn receive(&mut self, bytes: Bytes) -> Result<(), Failure> {
        self.credit
            .receive(bytes.len())
            .map_err(|error| malformed(&error.to_string()))?;
        if !bytes.is_empty() {
            self.output.give(bytes);
        }
        Ok(())
    }
}

impl Session {
    /// Handles all whole frames that have arrived; returns how the process ended.
    fn frames(&mut self) -> Result<Option<ExitStatus>, Failure> {
        while let Some(frame) = self
            .decoder
            .next_frame()
            .map_err(|error: FrameError| malformed(&error.to_string()))?
        {
            match frame {
                Frame::Stdout(bytes) => self.stdout.receive(bytes)?,
                Frame::Stderr(bytes) => self.stderr.receive(bytes)?,
                Frame::StdinCredit(bytes) => {
                    self.stdin_credit
                        .add(bytes)
                        .map_err(|error: CreditError| malformed(&error.to_string()))?;
                    self.send_stdin();
                }
                Frame::Lost { channel, bytes } => tell(&format!(
                    "banger: {bytes} bytes of {} were dropped while nobody listened\n",
                    match channel {
                        Channel::Stdout => "stdout",
                        Channel::Stderr => "stderr",
                    }
                )),
                Frame::Exit(status) => return Ok(Some(status)),
                Frame::Started { .. } => {}
                // The decoder lets no frame of our own direction through.
                Frame::Stdin(_)
                | Frame::StdinEof
                | Frame::Resize { .. }
                | Frame::Signal(_)
                | Frame::Hangup
                | Frame::Credit { .. } => {}
            }
        }
        Ok(None)
    }

    fn send(&mut self, frame: &Frame) {
        if !self.deaf {
            frame.encode(&mut self.out);
        }
    }

    fn has_output(&self) -> bool {
        !self.deaf && self.sent < self.out.len()
    }

    fn wrote(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
            self.send_stdin();
        }
    }

    fn stdin(&mut self, chunk: Option<Bytes>, stdin: &mut Option<mpsc::Receiver<Bytes>>) {
        match chunk {
            Some(chunk) => {
                self.unsent = chunk;
                self.send_stdin();
            }
            None => {
                *stdin = None;
                self.send(&Frame::StdinEof);
            }
        }
    }

    /// Sends what credit allows, while what was sent before has left.
    fn send_stdin(&mut self) {
        while !self.unsent.is_empty() && self.out.len() < 2 * MAX_PAYLOAD {
            let count = self
                .unsent
                .len()
                .min(MAX_PAYLOAD)
                .min(self.stdin_credit.available());
            if count == 0 {
                return;
            }
            self.stdin_credit.spend(count);
            let part = self.unsent.split_to(count);
            self.send(&Frame::Stdin(part));
        }
    }

    fn told(&mut self, event: Told) -> Option<Failure> {
        match event {
            Told::Consumed(channel, count) => {
                let sink = match channel {
                    Channel::Stdout => &mut self.stdout,
                    Channel::Stderr => &mut self.stderr,
                };
                if let Some(bytes) = sink.credit.consume(count) {
                    self.send(&Frame::Credit { channel, bytes });
                }
                None
            }
            Told::Broken(Channel::Stdout, error) => Some(Failure::output(&error)),
            // Whoever closed stderr does not want it.
            Told::Broken(Channel::Stderr, _) | Told::Finished => None,
        }
    }

    fn signal(&mut self, event: Event, terminal: bool, raw: Option<&RawMode>) -> Option<Failure> {
        match event {
            Event::Forward(signal @ (libc::SIGINT | libc::SIGTERM)) => {
                if self.ending.is_some() {
                    return Some(Failure::Interrupted(signal));
                }
                self.ending = Some(signal);
                self.send(&Frame::Signal(signal.unsigned_abs()));
            }
            Event::Forward(signal) => self.send(&Frame::Signal(signal.unsigned_abs())),
            Event::HangUp(signal) => return Some(Failure::Interrupted(signal)),
            Event::Resized | Event::Continued => {
                if event == Event::Continued
                    && let Some(raw) = raw
                {
                    raw.again();
                }
                if terminal && let Some(size) = terminal::size() {
                    self.send(&Frame::Resize {
                        rows: size.rows,
                        columns: size.columns,
                    });
                }
            }
        }
        None
    }

    /// Says that we are gone for good, as far as that is still heard.
    async fn hang_up(&mut self) {
        self.send(&Frame::Hangup);
        let rest = self.out.split_off(self.sent);
        let _ = tokio::time::timeout(HANG_UP_TIMEOUT, self.writer.write_all(&rest)).await;
    }
}

/// The next chunk of stdin, and `None` at its end; never where there is none to send.
async fn next(stdin: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match stdin {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

fn lost(why: &str) -> Failure {
    Failure::Error(
        ApiError::new(
            ErrorKind::DaemonUnavailable,
            format!("the connection to bangerd broke before the command ended: {why}"),
        )
        .hint("see how it is with: banger daemon status"),
    )
}

fn malformed(why: &str) -> Failure {
    Failure::new(
        ErrorKind::VersionMismatch,
        format!("cannot understand what bangerd sent: {why}"),
    )
}
