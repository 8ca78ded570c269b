//! The server's end of a device's tunnel: token, challenge, and its life until it ends.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::registry::{Peer, Registry};
use super::token::{TokenContent, TokenError};
use super::{InFlight, Inner};
use crate::cipher::Role;
use crate::close::CloseReason;
use crate::driver::{self, NoRandomness, Random};
use crate::handshake::{HandshakeError, MAX_TOKEN_LEN, ServerHandshake, Session};
use crate::mux::MuxConfig;

/// How long the rest of a token that came in more than one segment may take. The reference gives it no time at all.
const TOKEN_REST: Duration = Duration::from_millis(500);

/// Why a device was not let in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the token was refused: {0}")]
    Token(#[from] TokenError),
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
    /// Runs a device's connection, of which `first` has been read, to its end.
    pub(super) async fn tunnel(
        &self,
        mut stream: TcpStream,
        first: Vec<u8>,
        in_flight: InFlight,
    ) -> Result<(), Refusal> {
        let limit = self.config.timeouts.handshake;
        let handshake = async {
            let content = self.read_token(&mut stream, first).await?;
            let session = challenge(&mut stream, &content).await?;
            Ok::<_, Refusal>((content, session))
        };
        let (content, session) = tokio::select! {
            () = self.stopping.cancelled() => return Err(Refusal::Stopping),
            done = tokio::time::timeout(limit, handshake) => done.map_err(|_| Refusal::TimedOut)??,
        };
        drop(in_flight);

        let mux = MuxConfig {
            role: Role::Server,
            version: content.protocol_version,
            throttling: self.config.throttling,
            limits: self.config.limits.clone(),
            timeouts: self.config.timeouts.clone(),
        };
        let (tunnel, run) = driver::start(stream, session, mux)?;
        let peer = Arc::new(Peer::new(&content, tunnel));
        let mut entry = Entry::new(&self.registry, &peer);
        tracing::info!(hostname = peer.hostname, "device connected");
        let reason = tokio::select! {
            reason = run => reason,
            never = self.supervise(&peer, &content) => match never {},
        };
        tracing::info!(hostname = peer.hostname, %reason, "device disconnected");
        entry.reason = reason;
        Ok(())
    }

    /// Reads a token and has it checked. It comes without a length, so what is not yet a token may be the start of one.
    async fn read_token(
        &self,
        stream: &mut TcpStream,
        mut token: Vec<u8>,
    ) -> Result<TokenContent, TokenError> {
        loop {
            let text = std::str::from_utf8(&token).map_err(|_| TokenError::Invalid)?;
            let refusal = match self
                .authenticator
                .authenticate(text, SystemTime::now())
                .await
            {
                Err(TokenError::Invalid) => TokenError::Invalid,
                decided => return decided,
            };
            let room = MAX_TOKEN_LEN.saturating_sub(token.len());
            let mut rest = (&mut *stream).take(room as u64);
            let read = tokio::time::timeout(TOKEN_REST, rest.read_buf(&mut token)).await;
            if !matches!(read, Ok(Ok(1..))) {
                return Err(refusal);
            }
        }
    }

    /// Ends a tunnel whose token has run out, or when the server stops. Never returns: the tunnel's end does.
    async fn supervise(&self, peer: &Peer, content: &TokenContent) -> std::convert::Infallible {
        let mut check = tokio::time::interval(self.config.expiry_check);
        check.tick().await;
        let reason = loop {
            tokio::select! {
                () = self.stopping.cancelled() => break CloseReason::Shutdown,
                _ = check.tick() => if content.is_expired(SystemTime::now()) {
                    break CloseReason::Expired;
                },
            }
        };
        peer.tunnel.close_because(reason);
        std::future::pending().await
    }
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

async fn challenge(stream: &mut TcpStream, content: &TokenContent) -> Result<Session, Refusal> {
    let mut challenge = Vec::new();
    let handshake = ServerHandshake::new(
        &content.key,
        content.cipher,
        &mut Random::new()?,
        &mut challenge,
    )?;
    stream.write_all(&challenge).await?;
    let mut answer = vec![0; handshake.answer_len()];
    stream.read_exact(&mut answer).await?;
    Ok(handshake.verify(&mut answer)?)
}
