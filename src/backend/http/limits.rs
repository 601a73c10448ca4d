//! Every bound on what a stranger controls: sizes, counts and waits. `docs/limits.md` is
//! written from here.
use std::time::Duration;

/// Most bytes of a request's header section over HTTP/1.1; hyper answers 431 above it. Over
/// HTTP/2 it is the limit that the server announces.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Most header fields.
pub const MAX_HEADERS: usize = 64;
/// Concurrent streams of one HTTP/2 connection.
pub const H2_STREAMS: u32 = 64;
/// What an HTTP/2 stream may send before it has to wait for us.
pub const H2_STREAM_WINDOW: u32 = 64 * 1024;
/// The same for all of a connection's streams.
pub const H2_CONNECTION_WINDOW: u32 = 256 * 1024;
/// Streams that a client may reset before they were accepted, and those that we reset for its
/// errors, before the connection ends (CVE-2023-44487, CVE-2025-8671).
pub const H2_RESETS: usize = 32;
/// Over-cap connections that are told so at once; those above it are closed without a word.
pub const MAX_TURNED_AWAY: usize = 64;
/// Longest that turning one of them away takes.
pub const TURN_AWAY: Duration = Duration::from_secs(1);
/// Pause after the system refused to accept, for want of file descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The bounds that tests make smaller, and operators may.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most bytes of a body.
    pub body: usize,
    /// Longest until a body is complete.
    pub body_time: Duration,
    /// Longest until the first, or the next begun, header section is complete.
    pub head_time: Duration,
    /// Longest that a request takes, its body included.
    pub request_time: Duration,
    /// Longest that a connection may be idle.
    pub idle_time: Duration,
    /// Connections at once; the next one gets 503 and is closed.
    pub connections: usize,
    /// The same for one address.
    pub connections_per_address: usize,
    /// The same for the Unix sockets, which are of one user: twice what the gateway has under way at
    /// once, so that exchanges, whoever's they are, leave room for a person who revokes.
    pub connections_unix: usize,
    /// Most bytes of a refused body that are read and thrown away, so that its sender gets to
    /// see the refusal.
    pub discard: usize,
    /// Longest that this goes on.
    pub discard_time: Duration,
    /// Longest that requests may take after the server was told to stop.
    pub drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 256 * 1024,
            body_time: Duration::from_secs(15),
            head_time: Duration::from_secs(10),
            request_time: Duration::from_secs(60),
            idle_time: Duration::from_secs(75),
            connections: 1_024,
            connections_per_address: 512,
            connections_unix: 4_096,
            discard: 256 * 1024 * 1024,
            discard_time: Duration::from_secs(10),
            drain_time: Duration::from_secs(5),
        }
    }
}
