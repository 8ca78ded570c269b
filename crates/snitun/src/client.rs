//! The device's end: sends the token, answers the challenge, accepts channels.
//!
//! It uses a connected stream: choosing the address and reconnecting are the caller's
//! responsibility.

use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use cloud_net::LogThrottle;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::close::CloseReason;
use crate::crypto::cipher::Role;
use crate::crypto::connection_key::ConnectionKey;
use crate::driver::{self, Channel, EntropyError, Random, TunnelLogs};
use crate::handshake::{ClientHandshake, HandshakeError, MAX_TOKEN_LEN, Session};
use crate::limits::{Limits, Timeouts};
use crate::mux::MuxConfig;
use crate::version::ProtocolVersion;

pub use crate::driver::{PingError, TunnelHandle};

/// Authenticates a client: opaque text from the operator of the server. Wiped on drop; never
/// printed.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// Returns the token's text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Token {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl From<&str> for Token {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token([redacted])")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The last step of the server before the tunnel is up.
const FIRST_PING_STEP: &str = "answer the first ping";

/// Configuration of a client.
///
/// [`connect`] consumes it. With a [`ReusableKey`](crate::ReusableKey) it can be cloned, to
/// reconnect with the same token; with a [`OneTimeKey`](crate::OneTimeKey) or a [`ConnectionKey`],
/// it cannot:
///
/// ```
/// # fn main() -> Result<(), snitun::KeyError> {
/// use snitun::SessionKey;
/// use snitun::client::ClientConfig;
///
/// let key = SessionKey::from_hex(&"5a".repeat(32), &"c3".repeat(16))?;
/// let config = ClientConfig::new("gAAAAAB", key.aes_cbc());
/// let again = config.clone();
/// # drop((config, again));
/// # Ok(())
/// # }
/// ```
///
/// ```compile_fail,E0382
/// # use snitun::SessionKey;
/// # use snitun::client::{self, ClientConfig};
/// # async fn run(key: SessionKey, one: tokio::io::DuplexStream, two: tokio::io::DuplexStream) {
/// let config = ClientConfig::new("gAAAAAB", key.aes_gcm());
/// let first = client::connect(one, config).await;
/// let second = client::connect(two, config).await; // `config` has been moved
/// # }
/// ```
///
/// ```compile_fail,E0599
/// # use snitun::SessionKey;
/// # use snitun::client::{self, ClientConfig};
/// # async fn run(key: SessionKey, one: tokio::io::DuplexStream) {
/// let config = ClientConfig::new("gAAAAAB", key.aes_gcm());
/// let first = client::connect(one, config.clone()).await; // there is no `clone`
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ClientConfig<K = ConnectionKey> {
    /// Authenticates the client.
    pub token: Token,
    /// The key and the cipher of the token.
    pub key: K,
    /// The protocol version of the token. Default 0.
    ///
    /// It is not verified, and the tunnel comes up with a different one as well. With 2 on one side
    /// and less on the other no caller is served, and the tunnel may end at the first one; between
    /// 0 and 1 the only sign is that channels that are not read are closed at their limit instead
    /// of paused.
    pub version: ProtocolVersion,
    /// Maximum messages of 8 KiB or more to send per second; `None`, the default, for no limit.
    pub throttling: Option<NonZeroU32>,
    /// Bounds on the data that the tunnel holds.
    pub limits: Limits,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// Rate limit of the warnings about malformed addresses. Share it between the connections of a
    /// device, so that a server that repeatedly ends them does not fill the log.
    pub malformed_log: Arc<LogThrottle>,
    /// Rate limit of the warnings about channels closed at a limit of received data, likewise.
    pub overrun_log: Arc<LogThrottle>,
    /// Rate limit of the lines about channels that are sent more slowly, because in version 0 their
    /// reader may be far behind, likewise.
    pub paced_log: Arc<LogThrottle>,
}

impl<K: Into<ConnectionKey>> ClientConfig<K> {
    /// Creates a configuration with defaults for all but the token and its key.
    pub fn new(token: impl Into<Token>, key: K) -> Self {
        Self {
            token: token.into(),
            key,
            version: ProtocolVersion::default(),
            throttling: None,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            malformed_log: Arc::default(),
            overrun_log: Arc::default(),
            paced_log: Arc::default(),
        }
    }
}

/// The reason why a tunnel did not come up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The token cannot be sent.
    #[error("the token must have 1 to {MAX_TOKEN_LEN} bytes, not {0}")]
    TokenSize(usize),
    /// The server did not complete its next step in time.
    #[error("the server did not {0} in time")]
    TimedOut(&'static str),
    /// The server sent only the beginning of a challenge: probably the token names a cipher with a
    /// shorter challenge.
    #[error(
        "the server sent {received} of the {expected} bytes of a challenge; perhaps the token names another cipher"
    )]
    ShortChallenge {
        /// Bytes received.
        received: usize,
        /// Length of a challenge with the cipher of the [`ClientConfig::key`].
        expected: usize,
    },
    /// The server closed the connection instead of a challenge: it refused the token.
    #[error(
        "the server closed the connection after it received the token; the token is invalid or has expired"
    )]
    TokenRefused,
    /// The server closed the connection instead of answering the first ping: it refused our answer
    /// to the challenge.
    #[error(
        "the server closed the connection after our answer to its challenge; the session key or cipher is not the token's"
    )]
    AnswerRefused,
    /// The handshake failed: the data does not match the key.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The connection failed.
    #[error("the connection to the server failed")]
    Io(#[from] io::Error),
    /// The data after the handshake is invalid: probably another key.
    #[error("the tunnel ended before it was up: {0}")]
    Ended(CloseReason),
    /// The operating system gave no random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

impl ConnectError {
    /// Returns whether a retry with the same token and key can help, if the key is reusable.
    pub fn is_retryable(&self) -> bool {
        match self {
            // The rest of a challenge may have been lost in transit.
            Self::TimedOut(_) | Self::ShortChallenge { .. } | Self::Io(_) | Self::Ended(_) => true,
            Self::TokenSize(_)
            | Self::TokenRefused
            | Self::AnswerRefused
            | Self::Handshake(_)
            | Self::Entropy(_) => false,
        }
    }
}

/// Opens a tunnel over a connected stream, and returns once the server has answered a ping over it:
/// only this shows that the server accepted the token and the answer to its challenge. Call
/// [`configure_tcp`](crate::configure_tcp) on a TCP stream first.
///
/// Each step must complete within [`Timeouts::handshake`].
///
/// # Errors
/// [`ConnectError`].
///
/// # Cancel safety
/// Dropping the future drops the stream; a one-time key is consumed anyway.
pub async fn connect<S, K>(mut stream: S, config: ClientConfig<K>) -> Result<Tunnel, ConnectError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    K: Into<ConnectionKey>,
{
    let limit = config.timeouts.handshake;
    let begun = ClientHandshake::new(config.key);
    let session = handshake(&mut stream, &config.token, begun, limit).await?;
    let logs = TunnelLogs {
        malformed: config.malformed_log,
        overrun: config.overrun_log,
        paced: config.paced_log,
    };
    let mux = MuxConfig {
        role: Role::Client,
        version: config.version,
        throttling: config.throttling,
        limits: config.limits,
        timeouts: config.timeouts,
    };
    let (handle, run) = driver::start(stream, session, mux, logs)?;
    let tunnel = Tunnel {
        handle,
        task: tokio::spawn(run),
    };
    let elapsed = tokio::time::timeout(limit, first_ping(&tunnel.handle))
        .await
        .unwrap_or(Err(ConnectError::TimedOut(FIRST_PING_STEP)))?;
    tracing::debug!(?elapsed, "tunnel is up");
    Ok(tunnel)
}

/// The server accepts the handshake by answering a ping, and rejects it by closing the connection.
async fn first_ping(tunnel: &TunnelHandle) -> Result<Duration, ConnectError> {
    match tunnel.ping().await {
        Ok(elapsed) => Ok(elapsed),
        Err(PingError::TimedOut | PingError::TooMany) => {
            Err(ConnectError::TimedOut(FIRST_PING_STEP))
        }
        Err(PingError::Closed) => Err(match tunnel.closed().await.as_ref() {
            CloseReason::Peer => ConnectError::AnswerRefused,
            // A server that closes with our ping unread resets the connection.
            CloseReason::Io { kind, .. } if is_hang_up(*kind) => ConnectError::AnswerRefused,
            reason => ConnectError::Ended(reason.clone()),
        }),
    }
}

async fn handshake<S>(
    stream: &mut S,
    token: &Token,
    handshake: ClientHandshake,
    limit: Duration,
) -> Result<Session, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let token = token.expose().as_bytes();
    if token.is_empty() || token.len() > MAX_TOKEN_LEN {
        return Err(ConnectError::TokenSize(token.len()));
    }
    let timed_out = |step| move |_| ConnectError::TimedOut(step);

    let mut challenge = vec![0; handshake.challenge_len()];
    let (mut received, expected) = (0, challenge.len());
    let challenged = tokio::time::timeout(limit, async {
        // One write: a server may read the token with a single read.
        stream.write_all(token).await?;
        stream.flush().await?;
        while received < expected {
            match stream.read(&mut challenge[received..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => received += count,
            }
        }
        Ok(())
    })
    .await
    .map_err(timed_out("send its challenge"))
    .and_then(|read| read.map_err(map_hang_up(ConnectError::TokenRefused)));
    match challenged {
        // A server that has begun to send a challenge has accepted the token.
        Err(ConnectError::TimedOut(_) | ConnectError::TokenRefused) if received > 0 => {
            return Err(ConnectError::ShortChallenge { received, expected });
        }
        challenged => challenged?,
    }

    let mut answer = Vec::new();
    let session = handshake.answer(&mut challenge, &mut Random::new()?, &mut answer)?;
    tokio::time::timeout(limit, async {
        stream.write_all(&answer).await?;
        stream.flush().await
    })
    .await
    .map_err(timed_out("take the answer to its challenge"))?
    .map_err(map_hang_up(ConnectError::AnswerRefused))?;
    Ok(session)
}

/// Distinguishes the end of the stream, by which a server refuses, from a failing connection.
fn map_hang_up(refusal: ConnectError) -> impl FnOnce(io::Error) -> ConnectError {
    move |error| {
        if is_hang_up(error.kind()) {
            refusal
        } else {
            ConnectError::Io(error)
        }
    }
}

fn is_hang_up(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// A running tunnel: accepts the channels that the server opens. Dropping it closes the tunnel.
#[derive(Debug)]
pub struct Tunnel {
    handle: TunnelHandle,
    task: JoinHandle<CloseReason>,
}

impl Tunnel {
    /// Waits for the next channel; `None` once the tunnel has ended.
    ///
    /// # Cancel safety
    /// Yes: no channel is lost.
    pub async fn accept(&mut self) -> Option<Channel> {
        self.handle.accept().await
    }

    /// Returns a handle to close and inspect the tunnel.
    pub fn handle(&self) -> TunnelHandle {
        self.handle.clone()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.handle.close();
        if self.handle.is_closed() {
            self.task.abort();
        }
    }
}
