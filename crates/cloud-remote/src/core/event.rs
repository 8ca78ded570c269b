//! What the planner is told, and what it answers.

use std::time::Duration;

/// What time it is: on a clock that only goes forward, and on the wall.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// Since the planner was made.
    pub elapsed: Duration,
    /// Unix seconds, as far as this device knows.
    pub unix: i64,
    /// Whether there is a tunnel and nothing is open in it.
    pub idle: bool,
}

/// Ties an answer to its request. Unique over all requests of a planner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Id(pub(super) u64);

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Time has passed.
    Tick,
    /// The session to the platform is up, or is not.
    Online(bool),
    /// A token came, or the request failed.
    Token {
        id: Id,
        result: Result<TokenFacts, ()>,
    },
    /// The tunnel is connected: the relay has answered a ping.
    TunnelUp { id: Id },
    /// The tunnel could not be connected.
    TunnelFailed { id: Id, fault: ConnectFault },
    /// A tunnel that was up has ended.
    TunnelLost { id: Id },
}

/// What the planner has to know of a token. (The token itself stays with the manager.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenFacts {
    /// Unix seconds, by the platform's clock.
    pub valid: i64,
    /// The cipher demands fresh keys, so a fresh token, for each connection.
    pub single_use: bool,
}

/// Why a connection attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectFault {
    /// The relay could not be reached. The token was not used.
    Unreachable,
    /// The relay was reached, but the connection broke or took too long. The token may have been used.
    Broken,
    /// The relay was there and hung up during the handshake.
    Refused,
    /// It was to take the place of a running tunnel, in which something is open again. The token was not used.
    Busy,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make fresh keys and ask for a token.
    RequestToken(Id),
    /// Give the request up, and its keys with it: no answer came in time, or none can come any more.
    CancelTokenRequest { id: Id, timed_out: bool },
    /// Keep the token of this answer, in place of the one before.
    KeepToken(Id),
    /// Forget the token, and its keys with it.
    DropToken,
    /// By our clock the fresh token is valid for this many seconds, which makes no sense: the clock must be wrong.
    ClockSkewSuspected { left: i64 },
    /// Connect the tunnel with the token that is kept.
    Connect(Id),
    /// Connect another tunnel in place of the running one, with the token that is kept; unless `forced`, only if nothing
    /// is open in the running one.
    StartHandover { id: Id, forced: bool },
    /// Give the attempt up: it takes too long.
    CancelConnect(Id),
}
