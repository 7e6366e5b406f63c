//! What passes between a client and a guest: whole frames, checked, with their credit followed.
//!
//! Credit is given end to end. A re-join starts the agent's view of it anew, the client's goes
//! on; the difference is made good here:
//!
//! - stdout, stderr: the agent may again send [`INITIAL_CREDIT`], of which the client still allows
//!   `allowed`. The rest is a `debt`: that much of what the client gives back is not passed on, and
//!   that much output may have to be held. So for each output, at all times
//!   `agent's credit + on its way + held == allowed + debt`.
//! - stdin: the client is given what it lacks of [`INITIAL_CREDIT`].

use std::collections::VecDeque;

use banger_protocol::exec::{
    Channel, Direction, Frame, FrameError, HEADER, INITIAL_CREDIT, Kind, check,
};
use bytes::{Buf, Bytes, BytesMut};

/// A rule was broken that [`FrameError`] does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("more {0:?} than its receiver gave credit for")]
    Credit(Kind),
    #[error("too many {0:?} frames that cost no credit")]
    Free(Kind),
    #[error("a frame after the exit status")]
    AfterExit,
}

/// One whole frame as it came, header included.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Raw {
    kind: Kind,
    bytes: Bytes,
}

impl Raw {
    fn payload(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }
}

/// Cuts whole frames out of pieces of any size.
#[derive(Debug)]
struct Cutter {
    direction: Direction,
    /// The beginning of a frame whose rest has not come.
    partial: BytesMut,
}

impl Cutter {
    fn new(direction: Direction) -> Self {
        Cutter {
            direction,
            partial: BytesMut::new(),
        }
    }

    /// The next frame of `partial` and `piece`, taken off them; `None` where more must come, which
    /// leaves `piece` empty.
    fn next(&mut self, piece: &mut Bytes) -> Result<Option<Raw>, FrameError> {
        if self.partial.is_empty() {
            if let Some((kind, length)) = self.header(piece)?
                && piece.len() >= length
            {
                let bytes = piece.split_to(length);
                return Ok(Some(Raw { kind, bytes }));
            }
            self.partial.extend_from_slice(piece);
            piece.clear();
            return Ok(None);
        }
        self.fill(piece, HEADER);
        let Some((kind, length)) = self.header(&self.partial)? else {
            return Ok(None);
        };
        self.fill(piece, length);
        if self.partial.len() < length {
            return Ok(None);
        }
        let bytes = self.partial.split().freeze();
        Ok(Some(Raw { kind, bytes }))
    }

    /// Kind and whole length, as soon as the header is there.
    fn header(&self, bytes: &[u8]) -> Result<Option<(Kind, usize)>, FrameError> {
        let Some(&[kind, l0, l1, l2, l3]) = bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let kind = check(self.direction, kind, length)?;
        Ok(Some((kind, HEADER + length as usize)))
    }

    fn fill(&mut self, piece: &mut Bytes, length: usize) {
        let missing = length.saturating_sub(self.partial.len());
        let part = piece.split_to(missing.min(piece.len()));
        self.partial.extend_from_slice(&part);
    }
}

/// Most frames held that cost no credit. An agent tells of a loss once before the output after it,
/// and sends no empty output.
const MOST_FREE: usize = 256;

/// One output.
#[derive(Debug)]
struct Output {
    /// What the client still allows.
    allowed: u32,
    debt: u32,
    held: VecDeque<Raw>,
    /// What is held costs so much together; counted along, since a guest may send bytes one by one.
    held_cost: u32,
    /// So many of what is held cost nothing.
    held_free: usize,
}

impl Default for Output {
    fn default() -> Self {
        Output {
            allowed: INITIAL_CREDIT,
            debt: 0,
            held: VecDeque::new(),
            held_cost: 0,
            held_free: 0,
        }
    }
}

impl Output {
    /// Bytes of credit a frame costs.
    fn cost(frame: &Raw) -> u32 {
        match frame.kind {
            Kind::Stdout | Kind::Stderr => u32::try_from(frame.payload().len()).unwrap_or(u32::MAX),
            _ => 0,
        }
    }

    /// Takes a frame from the guest; what may go on is put into `ready`.
    fn receive(&mut self, frame: Raw, ready: &mut VecDeque<Bytes>) -> Result<(), Violation> {
        let cost = Output::cost(&frame);
        let most = self.allowed.saturating_add(self.debt);
        if self.held_cost.saturating_add(cost) > most {
            return Err(Violation::Credit(frame.kind));
        }
        if cost == 0 && self.held_free >= MOST_FREE {
            return Err(Violation::Free(frame.kind));
        }
        self.held_cost += cost;
        self.held_free += usize::from(cost == 0);
        self.held.push_back(frame);
        self.let_go(ready);
        Ok(())
    }

    fn let_go(&mut self, ready: &mut VecDeque<Bytes>) {
        while let Some(frame) = self.held.front()
            && Output::cost(frame) <= self.allowed
            && let Some(frame) = self.held.pop_front()
        {
            let cost = Output::cost(&frame);
            self.allowed -= cost;
            self.held_cost -= cost;
            self.held_free -= usize::from(cost == 0);
            ready.push_back(frame.bytes);
        }
    }

    /// The client consumed `bytes`; returns how much of it the agent is told.
    fn credit(&mut self, bytes: u32, ready: &mut VecDeque<Bytes>) -> Result<u32, Violation> {
        let allowed = self.allowed.checked_add(bytes);
        self.allowed = allowed
            .filter(|allowed| *allowed <= INITIAL_CREDIT)
            .ok_or(Violation::Credit(Kind::Credit))?;
        let paid = self.debt.min(bytes);
        self.debt -= paid;
        self.let_go(ready);
        Ok(bytes - paid)
    }

    fn rejoined(&mut self) {
        // What is held is owed to the client out of what it allows, and the agent knows nothing
        // of it any more.
        self.debt = INITIAL_CREDIT - self.allowed.min(INITIAL_CREDIT) + self.held_cost;
    }
}

/// Both directions of one joined process.
#[derive(Debug)]
pub(super) struct Passage {
    from_client: Cutter,
    from_guest: Cutter,
    stdout: Output,
    stderr: Output,
    /// Bytes of stdin the client may still send.
    stdin_allowed: u32,
    stdin_ended: bool,
    /// The end of stdin is told again after a re-join: the first may have been lost. Not on a
    /// terminal, where it would be typed twice.
    repeat_stdin_end: bool,
    started: bool,
    /// The exit status, until all output before it has gone.
    exit: Option<Bytes>,
    exited: bool,
    to_client: VecDeque<Bytes>,
    to_guest: VecDeque<Bytes>,
}

impl Passage {
    pub(super) fn new(terminal: bool) -> Self {
        Passage {
            from_client: Cutter::new(Direction::ClientToGuest),
            from_guest: Cutter::new(Direction::GuestToClient),
            stdout: Output::default(),
            stderr: Output::default(),
            stdin_allowed: INITIAL_CREDIT,
            stdin_ended: false,
            repeat_stdin_end: !terminal,
            started: false,
            exit: None,
            exited: false,
            to_client: VecDeque::new(),
            to_guest: VecDeque::new(),
        }
    }

    /// The next bytes for the client.
    pub(super) fn next_to_client(&mut self) -> Option<Bytes> {
        self.to_client.pop_front()
    }

    /// The next frame for the guest; it stays until [`Passage::sent_to_guest`].
    pub(super) fn next_to_guest(&self) -> Option<Bytes> {
        self.to_guest.front().cloned()
    }

    pub(super) fn sent_to_guest(&mut self) {
        self.to_guest.pop_front();
    }

    /// The exit status has been made ready for the client.
    pub(super) fn has_exited(&self) -> bool {
        self.exited
    }

    /// The exit status came, and waits for the client to take the output before it.
    pub(super) fn is_exiting(&self) -> bool {
        self.exit.is_some()
    }

    /// Takes bytes from the client.
    pub(super) fn client_sent(&mut self, mut piece: Bytes) -> Result<(), Violation> {
        while let Some(frame) = self.from_client.next(&mut piece)? {
            match frame.kind {
                Kind::Stdin => {
                    let length = u32::try_from(frame.payload().len()).unwrap_or(u32::MAX);
                    self.stdin_allowed = self
                        .stdin_allowed
                        .checked_sub(length)
                        .ok_or(Violation::Credit(Kind::Stdin))?;
                    self.to_guest.push_back(frame.bytes);
                }
                Kind::Credit => self.client_credit(frame)?,
                Kind::StdinEof => {
                    self.stdin_ended = true;
                    self.to_guest.push_back(frame.bytes);
                }
                _ => self.to_guest.push_back(frame.bytes),
            }
        }
        Ok(())
    }

    fn client_credit(&mut self, frame: Raw) -> Result<(), Violation> {
        let mut payload = frame.payload();
        let number = payload.get_u8();
        let bytes = payload.get_u32_le();
        let channel = Channel::from_number(number).ok_or(FrameError::Channel(number))?;
        let output = match channel {
            Channel::Stdout => &mut self.stdout,
            Channel::Stderr => &mut self.stderr,
        };
        let passed = output.credit(bytes, &mut self.to_client)?;
        if passed == bytes {
            self.to_guest.push_back(frame.bytes);
        } else if passed > 0 {
            let frame = Frame::Credit {
                channel,
                bytes: passed,
            };
            self.to_guest.push_back(frame.to_bytes().into());
        }
        self.let_exit_go();
        Ok(())
    }

    /// Takes bytes from the guest.
    pub(super) fn guest_sent(&mut self, mut piece: Bytes) -> Result<(), Violation> {
        while let Some(frame) = self.from_guest.next(&mut piece)? {
            if self.exit.is_some() || self.exited {
                return Err(Violation::AfterExit);
            }
            match frame.kind {
                Kind::Stdout => self.stdout.receive(frame, &mut self.to_client)?,
                Kind::Stderr => self.stderr.receive(frame, &mut self.to_client)?,
                // In order with the output it is about.
                Kind::Lost => {
                    let number = frame.payload().first().copied().unwrap_or_default();
                    let output = match Channel::from_number(number) {
                        Some(Channel::Stdout) => &mut self.stdout,
                        Some(Channel::Stderr) => &mut self.stderr,
                        None => return Err(FrameError::Channel(number).into()),
                    };
                    output.receive(frame, &mut self.to_client)?;
                }
                Kind::Exit => {
                    self.exit = Some(frame.bytes);
                    self.let_exit_go();
                }
                Kind::StdinCredit => {
                    let bytes = frame.payload().get_u32_le();
                    self.stdin_allowed = self
                        .stdin_allowed
                        .checked_add(bytes)
                        .filter(|allowed| *allowed <= INITIAL_CREDIT)
                        .ok_or(Violation::Credit(Kind::StdinCredit))?;
                    self.to_client.push_back(frame.bytes);
                }
                // The agent says it again after a re-join.
                Kind::Started if self.started => {}
                Kind::Started => {
                    self.started = true;
                    self.to_client.push_back(frame.bytes);
                }
                _ => self.to_client.push_back(frame.bytes),
            }
        }
        Ok(())
    }

    fn let_exit_go(&mut self) {
        if self.stdout.held.is_empty()
            && self.stderr.held.is_empty()
            && let Some(exit) = self.exit.take()
        {
            self.to_client.push_back(exit);
            self.exited = true;
        }
    }

    /// The agent was joined again: its credit is new, and half a frame of it will not be finished.
    pub(super) fn rejoined(&mut self) {
        self.from_guest.partial.clear();
        self.stdout.rejoined();
        self.stderr.rejoined();
        // Credit that was to be passed on belongs to the stream that is gone.
        self.to_guest
            .retain(|frame| frame.first() != Some(&(Kind::Credit as u8)));
        let on_its_way: usize = self
            .to_guest
            .iter()
            .filter(|frame| frame.first() == Some(&(Kind::Stdin as u8)))
            .map(|frame| frame.len() - HEADER)
            .sum();
        let on_its_way = u32::try_from(on_its_way).unwrap_or(u32::MAX);
        let allowed = INITIAL_CREDIT.saturating_sub(on_its_way);
        let lacks = allowed.saturating_sub(self.stdin_allowed);
        if lacks > 0 {
            self.stdin_allowed += lacks;
            let frame = Frame::StdinCredit(lacks).to_bytes();
            self.to_client.push_back(frame.into());
        }
        let end = Kind::StdinEof as u8;
        let queued = self
            .to_guest
            .iter()
            .any(|frame| frame.first() == Some(&end));
        if self.stdin_ended && self.repeat_stdin_end && !queued {
            self.to_guest.push_back(Frame::StdinEof.to_bytes().into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_protocol::exec::{Decoder, ExitStatus, ReceiveCredit, SendCredit};
    use proptest::prelude::*;

    fn bytes(frame: Frame) -> Bytes {
        frame.to_bytes().into()
    }

    fn client_frames(passage: &mut Passage) -> Vec<Frame> {
        let mut decoder = Decoder::new(Direction::GuestToClient);
        let mut frames = Vec::new();
        while let Some(bytes) = passage.next_to_client() {
            decoder.push(bytes);
            while let Some(frame) = decoder.next_frame().unwrap() {
                frames.push(frame);
            }
        }
        assert!(decoder.at_boundary(), "half a frame reached the client");
        frames
    }

    fn guest_frames(passage: &mut Passage) -> Vec<Frame> {
        let mut decoder = Decoder::new(Direction::ClientToGuest);
        let mut frames = Vec::new();
        while let Some(bytes) = passage.next_to_guest() {
            passage.sent_to_guest();
            decoder.push(bytes);
            while let Some(frame) = decoder.next_frame().unwrap() {
                frames.push(frame);
            }
        }
        frames
    }

    #[test]
    fn either_side_is_checked_before_its_payload_passes() {
        let mut passage = Passage::new(false);
        let stdout = bytes(Frame::Stdout(Bytes::from_static(b"x")));
        let stdin = bytes(Frame::Stdin(Bytes::from_static(b"x")));
        assert!(passage.client_sent(stdout.clone()).is_err());
        assert!(passage.guest_sent(stdin).is_err());
        let mut passage = Passage::new(false);
        // The header alone is enough to refuse.
        assert!(
            passage
                .guest_sent(Bytes::from_static(b"\x82\xff\xff\xff\xff"))
                .is_err()
        );
        assert!(passage.next_to_client().is_none());
        let mut passage = Passage::new(false);
        passage
            .guest_sent(bytes(Frame::Exit(ExitStatus::Code(0))))
            .unwrap();
        assert_eq!(passage.guest_sent(stdout), Err(Violation::AfterExit));
    }

    #[test]
    fn half_a_frame_never_reaches_the_client_and_dies_with_its_link() {
        let mut passage = Passage::new(false);
        let frame = bytes(Frame::Stdout(Bytes::from_static(b"hello")));
        passage.guest_sent(frame.slice(..7)).unwrap();
        assert_eq!(client_frames(&mut passage), []);
        passage.rejoined();
        passage.guest_sent(frame).unwrap();
        assert_eq!(
            client_frames(&mut passage),
            [Frame::Stdout(Bytes::from_static(b"hello"))]
        );
    }

    #[test]
    fn more_than_the_credit_is_a_violation_of_either_side() {
        let full = vec![0u8; 30_000];
        let mut passage = Passage::new(false);
        let outcome =
            (0..20).try_for_each(|_| passage.client_sent(bytes(Frame::Stdin(full.clone().into()))));
        assert_eq!(outcome, Err(Violation::Credit(Kind::Stdin)));
        let mut passage = Passage::new(false);
        let outcome =
            (0..20).try_for_each(|_| passage.guest_sent(bytes(Frame::Stderr(full.clone().into()))));
        assert_eq!(outcome, Err(Violation::Credit(Kind::Stderr)));
        let credit = Frame::Credit {
            channel: Channel::Stdout,
            bytes: 1,
        };
        let outcome = passage.client_sent(bytes(credit));
        assert_eq!(outcome, Err(Violation::Credit(Kind::Credit)));
    }

    #[test]
    fn a_lost_end_of_stdin_is_told_again_but_not_on_a_terminal() {
        for (terminal, expected) in [(false, vec![Frame::StdinEof]), (true, vec![])] {
            let mut passage = Passage::new(terminal);
            passage.client_sent(bytes(Frame::StdinEof)).unwrap();
            assert_eq!(guest_frames(&mut passage), [Frame::StdinEof]);
            passage.rejoined();
            assert_eq!(guest_frames(&mut passage), expected);
        }
    }

    #[test]
    fn the_exit_waits_for_what_is_held() {
        let mut passage = Passage::new(false);
        let piece = Bytes::from(vec![1u8; 30_000]);
        let most = INITIAL_CREDIT as usize / piece.len();
        for _ in 0..most {
            passage
                .guest_sent(bytes(Frame::Stdout(piece.clone())))
                .unwrap();
        }
        assert_eq!(client_frames(&mut passage).len(), most);
        passage.rejoined();
        passage
            .guest_sent(bytes(Frame::Stdout(piece.clone())))
            .unwrap();
        passage
            .guest_sent(bytes(Frame::Exit(ExitStatus::Code(3))))
            .unwrap();
        assert_eq!(client_frames(&mut passage), []);
        assert!(passage.is_exiting() && !passage.has_exited());
        let credit = Frame::Credit {
            channel: Channel::Stdout,
            bytes: 30_000,
        };
        passage.client_sent(bytes(credit)).unwrap();
        assert_eq!(
            client_frames(&mut passage),
            [Frame::Stdout(piece), Frame::Exit(ExitStatus::Code(3))]
        );
        assert!(passage.has_exited());
        // It paid the debt, and so is not the agent's business.
        assert_eq!(guest_frames(&mut passage), []);
    }

    #[test]
    fn frames_that_cost_no_credit_do_not_pile_up_behind_those_that_do() {
        let lost = Frame::Lost {
            channel: Channel::Stdout,
            bytes: 1,
        };
        for free in [Frame::Stdout(Bytes::new()), lost] {
            let mut passage = Passage::new(false);
            let piece = Bytes::from(vec![1u8; 30_000]);
            for _ in 0..INITIAL_CREDIT as usize / piece.len() {
                let sent = passage.guest_sent(bytes(Frame::Stdout(piece.clone())));
                assert_eq!(sent, Ok(()));
            }
            // The client does not read on, and the guest makes the host join it again.
            passage.rejoined();
            assert_eq!(passage.guest_sent(bytes(Frame::Stdout(piece))), Ok(()));
            client_frames(&mut passage);
            let refused = (0..1_000_000).any(|_| passage.guest_sent(bytes(free.clone())).is_err());
            assert!(refused, "{free:?}");
            assert!(passage.stdout.held.len() < 10_000);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        GuestWrites(usize),
        ClientReads(usize),
        ClientWrites(usize),
        GuestReads(usize),
        LinkLost,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let size = 1usize..32_000;
        prop::collection::vec(
            prop_oneof![
                4 => size.clone().prop_map(Step::GuestWrites),
                4 => (1usize..200_000).prop_map(Step::ClientReads),
                4 => size.prop_map(Step::ClientWrites),
                4 => (1usize..200_000).prop_map(Step::GuestReads),
                1 => Just(Step::LinkLost),
            ],
            0..200,
        )
    }

    proptest! {
        /// Two ends that keep to their credit are never refused over any number of lost links,
        /// and neither starves: once all is consumed, both may send again.
        #[test]
        fn credit_survives_lost_links(steps in steps()) {
            let mut passage = Passage::new(false);
            let (mut guest_send, mut guest_receive) = (SendCredit::default(), ReceiveCredit::default());
            let (mut client_send, mut client_receive) = (SendCredit::default(), ReceiveCredit::default());
            let (mut client_unread, mut guest_unread) = (0usize, 0usize);
            let everything = [Step::ClientReads(usize::MAX), Step::GuestReads(usize::MAX)];
            for step in steps.into_iter().chain(everything.iter().cycle().take(16).cloned()) {
                match step {
                    Step::GuestWrites(size) => {
                        let size = size.min(guest_send.available());
                        guest_send.spend(size);
                        prop_assert_eq!(passage.guest_sent(bytes(Frame::Stdout(vec![0; size].into()))), Ok(()));
                    }
                    Step::ClientWrites(size) => {
                        let size = size.min(client_send.available());
                        client_send.spend(size);
                        prop_assert_eq!(passage.client_sent(bytes(Frame::Stdin(vec![0; size].into()))), Ok(()));
                    }
                    Step::ClientReads(most) => {
                        for frame in client_frames(&mut passage) {
                            match frame {
                                Frame::Stdout(data) => {
                                    prop_assert_eq!(client_receive.receive(data.len()), Ok(()));
                                    client_unread += data.len();
                                }
                                Frame::StdinCredit(bytes) => prop_assert_eq!(client_send.add(bytes), Ok(())),
                                other => prop_assert!(false, "{:?}", other),
                            }
                        }
                        let read = most.min(client_unread);
                        client_unread -= read;
                        if let Some(grant) = client_receive.consume(read) {
                            let credit = Frame::Credit { channel: Channel::Stdout, bytes: grant };
                            prop_assert_eq!(passage.client_sent(bytes(credit)), Ok(()));
                        }
                    }
                    Step::GuestReads(most) => {
                        for frame in guest_frames(&mut passage) {
                            match frame {
                                Frame::Stdin(data) => {
                                    prop_assert_eq!(guest_receive.receive(data.len()), Ok(()));
                                    guest_unread += data.len();
                                }
                                Frame::Credit { bytes, .. } => prop_assert_eq!(guest_send.add(bytes), Ok(())),
                                other => prop_assert!(false, "{:?}", other),
                            }
                        }
                        let read = most.min(guest_unread);
                        guest_unread -= read;
                        if let Some(grant) = guest_receive.consume(read) {
                            prop_assert_eq!(passage.guest_sent(bytes(Frame::StdinCredit(grant))), Ok(()));
                        }
                    }
                    Step::LinkLost => {
                        passage.rejoined();
                        guest_send = SendCredit::default();
                        guest_receive = ReceiveCredit::default();
                        guest_unread = 0;
                    }
                }
            }
            // A receiver gives back half of the credit at a time.
            prop_assert!(guest_send.available() > 0, "the guest starves");
            prop_assert!(client_send.available() > 0, "the client starves");
        }
    }
}
