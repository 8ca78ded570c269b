//! The server's end of a device's tunnel: authentication, challenge, and supervision until it ends.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cloud_net::info_throttled;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::metrics::{Metrics, count};
use super::registry::{Peer, Registry};
use super::rejection::DeviceRejection;
use super::token::{self, TokenContent, TokenError};
use super::{InFlight, Inner};
use crate::close::CloseReason;
use crate::crypto::cipher::Role;
use crate::crypto::connection_key::ConnectionKey;
use crate::driver::{self, Random, WakeGated};
use crate::handshake::{MAX_TOKEN_LEN, ServerHandshake, Session};
use crate::mux::MuxConfig;
use crate::socket::configure_tcp;
use crate::version::ProtocolVersion;

/// Timeout for the next segment of a token. The reference does not wait at all.
const TOKEN_PIECE_TIMEOUT: Duration = Duration::from_millis(500);
/// Maximum segments of a token: two are usual, the rest allows for unusual paths. The
/// authenticator, which may call a backend, checks after each.
const MAX_TOKEN_PIECES: usize = 8;

/// Minimum interval between expiry checks.
const MIN_EXPIRY_CHECK: Duration = Duration::from_millis(100);

impl Inner {
    /// Serves a device's connection until it ends; `first` was read already. The rest of its token
    /// must arrive by `token_until`.
    pub(super) async fn serve_device(
        &self,
        mut stream: TcpStream,
        first: Vec<u8>,
        token_until: Instant,
        in_flight: InFlight,
    ) -> Result<(), DeviceRejection> {
        let limit = self.config.timeouts.handshake;
        let handshake = async {
            let content = self.read_token(&mut stream, first, token_until).await?;
            self.admit(&mut stream, content).await
        };
        let (authenticated, session) = tokio::select! {
            () = self.closing.cancelled() => return Err(DeviceRejection::Stopping),
            done = tokio::time::timeout(limit, handshake) => done.map_err(|_| DeviceRejection::TimedOut)??,
        };
        drop(in_flight);

        let mux = MuxConfig {
            role: Role::Server,
            version: authenticated.version,
            throttling: self.config.throttling,
            limits: self.config.limits.clone(),
            timeouts: self.config.timeouts.clone(),
        };
        configure_tcp(&stream)?;
        let (tunnel, run) = driver::start(stream, session, mux, self.logs.tunnel.clone())?;
        count(&self.metrics.counters.devices_connected);
        let _carrying = Metrics::track(&self.metrics, tunnel.clone());
        let peer = Arc::new(Peer::new(
            &authenticated.hostname,
            &authenticated.alias,
            tunnel,
        ));
        let mut entry = RegistrationGuard::new(&self.registry, &peer);
        info_throttled!(
            self.logs.connected,
            hostname = peer.hostname,
            "device connected"
        );
        let supervised = pin!(self.supervise(&peer, authenticated.valid));
        let reason = tokio::select! {
            biased;
            reason = run => reason,
            never = WakeGated::new(supervised) => match never {},
        };
        info_throttled!(self.logs.disconnected, hostname = peer.hostname, %reason, "device disconnected");
        entry.reason = reason;
        Ok(())
    }

    /// Reads and authenticates a token. It has no length prefix, so invalid text may be the start
    /// of a token.
    async fn read_token(
        &self,
        stream: &mut TcpStream,
        mut token: Vec<u8>,
        until: Instant,
    ) -> Result<TokenContent, TokenError> {
        for _ in 0..MAX_TOKEN_PIECES {
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
            let until = until.min(Instant::now() + TOKEN_PIECE_TIMEOUT);
            let read = tokio::time::timeout_at(until, rest.read_buf(&mut token)).await;
            if !matches!(read, Ok(Ok(1..))) {
                break;
            }
        }
        Err(TokenError::Invalid)
    }

    /// Runs the challenge, which the device passes if it has the token's key.
    async fn admit(
        &self,
        stream: &mut TcpStream,
        content: TokenContent,
    ) -> Result<(AuthenticatedPeer, Session), DeviceRejection> {
        let now = SystemTime::now();
        if content.is_expired(now) {
            return Err(TokenError::Expired.into());
        }
        let TokenContent { key, cipher, .. } = content;
        // Before the challenge, which is the first data encrypted with the key.
        self.used_keys
            .record_use(&key, cipher, content.valid, token::unix_seconds(now))?;
        let session = challenge(stream, key.with_cipher(cipher)).await?;
        let authenticated = AuthenticatedPeer {
            hostname: content.hostname,
            alias: content.alias,
            valid: content.valid,
            version: content.protocol_version,
        };
        Ok((authenticated, session))
    }

    /// Ends the tunnel when its token expires or the server stops. Never returns: the end of the
    /// tunnel drops it.
    async fn supervise(&self, peer: &Peer, valid: u64) -> std::convert::Infallible {
        let mut check = tokio::time::interval(self.config.expiry_check.max(MIN_EXPIRY_CHECK));
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

/// The content of a token without its key, which the handshake consumes.
struct AuthenticatedPeer {
    hostname: String,
    alias: Vec<String>,
    valid: u64,
    version: ProtocolVersion,
}

/// Keeps a peer registered; unregisters it on drop.
struct RegistrationGuard<'a> {
    registry: &'a Registry,
    peer: &'a Arc<Peer>,
    reason: CloseReason,
}

impl<'a> RegistrationGuard<'a> {
    fn new(registry: &'a Registry, peer: &'a Arc<Peer>) -> Self {
        registry.insert(peer);
        Self {
            registry,
            peer,
            reason: CloseReason::Local,
        }
    }
}

impl Drop for RegistrationGuard<'_> {
    fn drop(&mut self) {
        self.registry.remove(self.peer, self.reason.clone());
    }
}

async fn challenge(stream: &mut TcpStream, key: ConnectionKey) -> Result<Session, DeviceRejection> {
    let mut challenge = Vec::new();
    let handshake = ServerHandshake::new(key, &mut Random::new()?, &mut challenge)?;
    stream.write_all(&challenge).await?;
    let mut answer = vec![0; handshake.answer_len()];
    stream.read_exact(&mut answer).await?;
    Ok(handshake.verify(&mut answer)?)
}
