//! The events and actions of the core.

use std::time::Duration;

/// The current time, monotonic and wall clock, and whether the tunnel is idle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// Time since the core was created.
    pub elapsed: Duration,
    /// Unix seconds, by the platform's clock if it is known.
    pub unix: i64,
    /// Whether there is a tunnel without open connections.
    pub idle: bool,
}

/// Identifies a request; its result carries the same id. Unique within a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Id(pub(super) u64);

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A timer has fired.
    Tick,
    /// The session to the platform is up or down.
    Online(bool),
    /// A token arrived, or the request failed.
    Token {
        id: Id,
        result: Result<TokenFacts, ()>,
    },
    /// The tunnel is connected: the relay has responded to a ping.
    TunnelUp { id: Id },
    /// The tunnel could not be connected.
    TunnelFailed { id: Id, fault: ConnectFault },
    /// A connected tunnel has ended.
    TunnelLost { id: Id },
}

/// The properties of a token that the core needs. (The token itself stays with the driver.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenFacts {
    /// Unix seconds, by the platform's clock.
    pub valid: i64,
    /// Whether the cipher requires new keys, and so a new token, for each connection.
    pub single_use: bool,
}

/// The reason of a failed connection attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectFault {
    /// The relay could not be reached. The token is unused.
    Unreachable,
    /// The connection to the relay broke or timed out. The token may have been used.
    Broken,
    /// The relay closed the connection during the handshake.
    Refused,
    /// The running tunnel, which was to be replaced, is in use again. The token is unused.
    Busy,
}

/// An action for the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Generate new keys and request a token.
    RequestToken(Id),
    /// Cancel the request and drop its keys: it timed out, or no response can arrive.
    CancelTokenRequest { id: Id, timed_out: bool },
    /// Drop the token and its keys.
    DropToken,
    /// The new token is valid for this many seconds by the device's clock, which is implausible:
    /// the clock is probably wrong.
    ClockSkewSuspected { left: i64 },
    /// Connect the tunnel with the stored token.
    Connect(Id),
    /// Connect another tunnel, with the stored token, in place of the running one; unless `forced`,
    /// only if no connection is open in the running one.
    StartHandover { id: Id, forced: bool },
    /// Cancel the attempt: it timed out.
    CancelConnect(Id),
}
