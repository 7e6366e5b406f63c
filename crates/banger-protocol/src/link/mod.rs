//! The guest link: one byte pipe per VM, many streams on it.
//!
//! The pipe is whatever the VMM offers (a virtio-serial port, a vsock connection). It outlives the
//! process at its host end: bytes of an earlier connection may still arrive, in the middle of a
//! frame, and nobody is told. So every connection begins with a handshake on a random nonce.
//!
//! ```text
//!          host                                     agent
//!  (re)connect: zeros, hello(nonce) ────────────►  scanning
//!       again each 250 ms             ◄──────────  hello_ack(nonce)      all older streams are lost
//!  drops all before the ack            ◄────────►  open, data, window, fin, reset on streams
//!                                      ◄──────────  goodbye, scanning     after a framing error
//! ```
//!
//! - Only the host opens streams. An open carries the request, the answer comes on the stream.
//! - Each direction of a stream has credit, given back when data is *consumed*: a stream that
//!   nobody reads stops its own sender and no other. Ends are frames: both directions close alone.
//! - Control frames overtake data; streams with data take turns, a frame each.
//! - The other end is not trusted: frames, streams and credit are bounded, and what breaks the
//!   rules ends the link with an error.
//!
//! [`Link`] is the host's end, [`serve()`] the agent's. The frames are frozen per generation in
//! `schema/agent-1.json`: numbers and fields are only ever added.
//!
//! Limits: no reconnecting and no timeouts but the resending of hello; both belong to the caller.

mod error;
mod frame;
mod hello;
mod host;
mod payload;
mod pump;
mod serve;
mod session;
mod stream;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub use error::{LinkError, ResetCode, Violation, is_link_lost};
pub use frame::{Direction, END, Frame, HEADER, Kind, MAX_FRAME, MAX_PAYLOAD, decode};
pub use hello::{Hello, HelloAck, Nonce, scan_ack, scan_hello};
pub use host::{HostOptions, Link};
pub use payload::FrameBuf;
pub use serve::{Identity, Incoming, serve};
pub use stream::{LinkStream, StreamReader, StreamWriter};

/// The generation of frames and messages which this code speaks.
pub const GENERATION: u16 = 1;

/// Credit a stream starts with in each direction, where its receiver is this code. Large enough
/// that a guest under emulation keeps its pipe full, small enough to hold for every stream.
pub const WINDOW: u32 = 1024 * 1024;

/// Smallest window a peer may announce: one frame must always fit.
pub const MIN_WINDOW: u32 = 64 * 1024;

/// What a data frame costs beyond its payload, so that empty and tiny frames are bounded too.
pub const FRAME_COST: u32 = 32;

/// Longest request that opens a stream. Linux takes 2 MiB of arguments and environment; base64
/// and JSON quoting may double it.
pub const MAX_REQUEST: u32 = 4 * 1024 * 1024;

/// Most streams that are open at a time.
pub const MAX_STREAMS: usize = 512;
