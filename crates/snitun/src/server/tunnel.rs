//! The server's end of a device's tunnel: token, challenge, and its life until it ends.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cloud_net::info_throttled;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::metrics::{Metrics, count};
use super::registry::{Peer, Registry};
use super::spent::KeyRefused;
use super::token::{self, TokenContent, TokenError};
use super::{InFlight, Inner};
use crate::cipher::Role;
use crate::close::CloseReason;
use crate::connection_key::ConnectionKey;
use crate::driver::{self, NoRandomness, Random, WhenWoken};
use crate::handshake::{HandshakeError, MAX_TOKEN_LEN, ServerHandshake, Session};
use crate::mux::MuxConfig;
use crate::socket::prepare_tcp;
use crate::version::ProtocolVersion;

/// How long the next piece of a token that came in more than one segment may take. The reference gives it no time at all.
const TOKEN_REST: Duration = Duration::from_millis(500);
/// Pieces that a token may come in: two are two TCP segments, the others leave room for a strange path. Each is looked at by the
/// authenticator, which may have to ask elsewhere.
const TOKEN_PIECES: usize = 8;

/// How often a token is looked at, at most.
const LEAST_CHECK: Duration = Duration::from_millis(100);

/// Why a device was not let in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the token was refused: {0}")]
    Token(#[from] TokenError),
    #[error("the token was refused: {0}")]
    Key(#[from] KeyRefused),
    #[error("the handshake failed: {0}")]
    Handshake(#[from] HandshakeError),
    #[error("the answer to the challenge did not come in time")]
    TimedOut,
    #[error("the server is stopping")]
    Stopping,
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl Inner {
    /// Runs a device's connection, of which `first` has been read, to its end. The rest of its token has to be there by
    /// `token_until`.
    pub(super) async fn tunnel(
        &self,
        mut stream: TcpStream,
        first: Vec<u8>,
        token_until: Instant,
        in_flight: InFlight,
    ) -> Result<(), Refusal> {
        let limit = self.config.timeouts.handshake;
        let handshake = async {
            let content = self.read_token(&mut stream, first, token_until).await?;
            self.admit(&mut stream, content).await
        };
        let (guest, session) = tokio::select! {
            () = self.closing.cancelled() => return Err(Refusal::Stopping),
            done = tokio::time::timeout(limit, handshake) => done.map_err(|_| Refusal::TimedOut)??,
        };
        drop(in_flight);

        let mux = MuxConfig {
            role: Role::Server,
            version: guest.version,
            throttling: self.config.throttling,
            limits: self.config.limits.clone(),
            timeouts: self.config.timeouts.clone(),
        };
        prepare_tcp(&stream)?;
        let (tunnel, run) = driver::start(stream, session, mux, Arc::clone(&self.logs.malformed))?;
        count(&self.metrics.counters.devices_connected);
        let _carrying = Metrics::carry(&self.metrics, tunnel.clone());
        let peer = Arc::new(Peer::new(&guest.hostname, &guest.alias, tunnel));
        let mut entry = Entry::new(&self.registry, &peer);
        info_throttled!(
            self.logs.connected,
            hostname = peer.hostname,
            "device connected"
        );
        let supervised = pin!(self.supervise(&peer, guest.valid));
        let reason = tokio::select! {
            biased;
            reason = run => reason,
            never = WhenWoken::new(supervised) => match never {},
        };
        info_throttled!(self.logs.disconnected, hostname = peer.hostname, %reason, "device disconnected");
        entry.reason = reason;
        Ok(())
    }

    /// Reads a token and has it checked. It comes without a length, so what is not yet a token may be the start of one.
    async fn read_token(
        &self,
        stream: &mut TcpStream,
        mut token: Vec<u8>,
        until: Instant,
    ) -> Result<TokenContent, TokenError> {
        for _ in 0..TOKEN_PIECES {
            let text = std::str::from_utf8(&token).map_err(|_| TokenError::Invalid)?;
            let checked = self
                .authenticator
                .authenticate(text, SystemTime::now())
                .await;
            if checked.as_ref().err() != Some(&TokenError::Invalid) {
                return checked;
            }
            let room = MAX_TOKEN_LEN.saturating_sub(token.len());
            let mut rest = (&mut *stream).take(room as u64);
            let until = until.min(Instant::now() + TOKEN_REST);
            let read = tokio::time::timeout_at(until, rest.read_buf(&mut token)).await;
            if !matches!(read, Ok(Ok(1..))) {
                break;
            }
        }
        Err(TokenError::Invalid)
    }

    /// Lets the bearer of a token in if it has the token's key.
    async fn admit(
        &self,
        stream: &mut TcpStream,
        content: TokenContent,
    ) -> Result<(Guest, Session), Refusal> {
        let now = SystemTime::now();
        if content.is_expired(now) {
            return Err(TokenError::Expired.into());
        }
        let TokenContent { key, cipher, .. } = content;
        // Before the challenge, which is the first thing that is encrypted with the key.
        self.spent
            .spend(&key, cipher, content.valid, token::unix_seconds(now))?;
        let session = challenge(stream, key.with_cipher(cipher)).await?;
        let guest = Guest {
            hostname: content.hostname,
            alias: content.alias,
            valid: content.valid,
            version: content.protocol_version,
        };
        Ok((guest, session))
    }

    /// Ends a tunnel whose token has run out, or when the server stops. Never returns: the tunnel's end does.
    async fn supervise(&self, peer: &Peer, valid: u64) -> std::convert::Infallible {
        let mut check = tokio::time::interval(self.config.expiry_check.max(LEAST_CHECK));
        check.tick().await;
        let reason = loop {
            tokio::select! {
                () = self.stopping.cancelled() => break CloseReason::Shutdown,
                _ = check.tick() => if token::is_expired(valid, SystemTime::now()) {
                    break CloseReason::Expired;
                },
            }
        };
        peer.tunnel.close_because(reason);
        std::future::pending().await
    }
}

/// What is kept of a token once its key has gone into the handshake.
struct Guest {
    hostname: String,
    alias: Vec<String>,
    valid: u64,
    version: ProtocolVersion,
}

/// A peer's place in the registry, given up however its connection ends.
struct Entry<'a> {
    registry: &'a Registry,
    peer: &'a Arc<Peer>,
    reason: CloseReason,
}

impl<'a> Entry<'a> {
    fn new(registry: &'a Registry, peer: &'a Arc<Peer>) -> Self {
        registry.insert(peer);
        Self {
            registry,
            peer,
            reason: CloseReason::Local,
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.registry.remove(self.peer, self.reason.clone());
    }
}

async fn challenge(stream: &mut TcpStream, key: ConnectionKey) -> Result<Session, Refusal> {
    let mut challenge = Vec::new();
    let handshake = ServerHandshake::new(key, &mut Random::new()?, &mut challenge)?;
    stream.write_all(&challenge).await?;
    let mut answer = vec![0; handshake.answer_len()];
    stream.read_exact(&mut answer).await?;
    Ok(handshake.verify(&mut answer)?)
}
