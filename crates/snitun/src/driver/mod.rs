//! The tokio driver of the multiplexer: sockets, clock and tasks.
//!
//! One task owns the connection ([`connection`]); the channels ([`channel`]) access the multiplexer
//! through a lock ([`shared`]). All decisions are made in [`mux`](crate::mux).

#![cfg_attr(
    not(all(feature = "client", feature = "server")),
    allow(dead_code, reason = "each end uses its part")
)]

mod channel;
mod connection;
mod random;
mod read_buffer;
mod shared;
#[cfg(test)]
mod tests;
mod wake_gate;

use std::fmt;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use cloud_net::LogThrottle;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

pub use channel::{Channel, ChannelReader, ChannelWriter};
pub use random::EntropyError;
pub(crate) use random::Random;
pub(crate) use wake_gate::WakeGated;

use connection::ConnectionTask;
use shared::{PendingPing, Shared};

use crate::close::{CloseReason, OpenError};
use crate::codec::decoder::Decoder;
use crate::codec::encoder::Encoder;
use crate::handshake::Session;
use crate::mux::{ChannelKey, MuxConfig};
use crate::stats::TunnelStats;

/// Bytes that a task transfers before it yields to other tasks and to the runtime's I/O: ten to
/// twenty microseconds, and little enough to be still in the processor's cache when the next task
/// uses them. tokio's own budget counts operations, and 128 of them transfer megabytes.
pub(crate) const POLL_BUDGET: usize = 64 * 1024;

/// Rate limits of the log lines that a peer can cause.
#[derive(Clone, Debug, Default)]
pub(crate) struct TunnelLogs {
    /// Channels with a malformed address.
    pub(crate) malformed: Arc<LogThrottle>,
    /// Channels closed at a limit of received data.
    pub(crate) overrun: Arc<LogThrottle>,
    /// Channels that are sent more slowly because their reader may be far behind.
    pub(crate) paced: Arc<LogThrottle>,
}

/// Starts a tunnel over `stream`, whose handshake produced `session`. The returned future runs the
/// connection and ends with the tunnel.
pub(crate) fn start<S>(
    stream: S,
    session: Session,
    config: MuxConfig,
    logs: TunnelLogs,
) -> Result<(TunnelHandle, impl Future<Output = CloseReason> + Send), EntropyError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let version = config.version;
    let encoder = Encoder::new(session.sealer, version, Box::new(Random::new()?));
    let decoder = Decoder::new(session.opener, version);
    let shared = Arc::new(Shared::new(config, Random::new()?));
    let task = ConnectionTask::new(stream, Arc::clone(&shared), decoder, encoder, logs);
    Ok((TunnelHandle { shared }, task.run()))
}

/// A handle to a running tunnel. Cheap to clone; does not keep the tunnel open.
#[derive(Clone)]
pub struct TunnelHandle {
    shared: Arc<Shared>,
}

/// The reason why a ping failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PingError {
    /// The tunnel ended first.
    #[error("the tunnel ended before the ping was answered")]
    Closed,
    /// No answer arrived in time, although other data did: it may be behind that data.
    #[error("the ping was not answered in time, although the peer sends other data")]
    TimedOut,
    /// Too many pings wait for an answer already.
    #[error("too many pings wait for an answer already")]
    TooMany,
}

impl TunnelHandle {
    /// Closes the tunnel: data written to the channels is still sent, for a limited time
    /// ([`Timeouts::drain`](crate::Timeouts::drain)). Returns at once; [`closed`](Self::closed)
    /// waits for the end.
    pub fn close(&self) {
        self.close_because(CloseReason::Local);
    }

    pub(crate) fn close_because(&self, reason: CloseReason) {
        self.shared.close(reason);
    }

    /// Waits until the tunnel has ended and returns the reason.
    ///
    /// # Cancel safety
    /// Yes.
    pub async fn closed(&self) -> Arc<CloseReason> {
        let mut closed = self.shared.closed.subscribe();
        let reason = closed
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|reason| reason.clone());
        // `self` owns the sender, so there is always a reason.
        reason.unwrap_or_else(|| Arc::new(CloseReason::Local))
    }

    /// Returns whether the tunnel has ended.
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed()
    }

    /// Returns the number of open channels.
    pub fn open_channels(&self) -> usize {
        self.shared.with(|state| state.mux.open_channels())
    }

    /// Returns the traffic counters; they stay available after the tunnel has ended.
    pub fn stats(&self) -> TunnelStats {
        self.shared.with(|state| state.mux.stats())
    }

    /// Sends a ping and waits for the answer, for
    /// [`Timeouts::ping_answer`](crate::Timeouts::ping_answer) at most; returns the round-trip
    /// time. If nothing at all arrives within that time, the tunnel ends.
    ///
    /// # Errors
    /// [`PingError`].
    ///
    /// # Cancel safety
    /// Yes; the ping is sent anyway.
    pub async fn ping(&self) -> Result<Duration, PingError> {
        let (sender, answer) = oneshot::channel();
        let (sent, limit) = self.shared.with(|state| {
            if state.closing.is_some() {
                return Err(PingError::Closed);
            }
            let (id, sent) = (state.random.id(), state.clock.now());
            if !state.mux.ping(id, sent) {
                return Err(PingError::TooMany);
            }
            state.pings.retain(|ping| !ping.answer.is_closed());
            let answer = sender;
            state.pings.push(PendingPing { id, sent, answer });
            Ok((sent, state.mux.ping_answer()))
        })?;
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer.map_err(|_| PingError::Closed),
            Err(_) if self.shared.with(|state| state.mux.has_received_since(sent)) => {
                Err(PingError::TimedOut)
            }
            // The tunnel's own ping timeout fires at the same instant.
            Err(_) => Err(PingError::Closed),
        }
    }

    /// Waits for the next channel that the peer opens; `None` once the tunnel has ended.
    pub(crate) async fn accept(&self) -> Option<Channel> {
        poll_fn(|cx| {
            let key = self.shared.with(|state| {
                let key = state.mux.accept();
                if key.is_none() {
                    state.park_acceptor(cx);
                }
                key
            });
            match key {
                Some(key) => Poll::Ready(self.channel(key)),
                None if self.is_closed() => Poll::Ready(None),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// Opens a channel on behalf of a public caller.
    pub(crate) fn open(&self, caller: Option<IpAddr>) -> Result<Channel, OpenError> {
        let key = self.shared.with(|state| {
            if state.closing.is_some() {
                return Err(OpenError::Closed);
            }
            let id = state.random.id();
            // A dual-stack socket reports an IPv4 address as an IPv4-mapped IPv6 address.
            state
                .mux
                .open(id, caller.map(|caller| caller.to_canonical()))
        })?;
        self.channel(key).ok_or(OpenError::Closed)
    }

    fn channel(&self, key: ChannelKey) -> Option<Channel> {
        let (id, caller) = self
            .shared
            .with(|state| state.mux.id(key).map(|id| (id, state.mux.caller(key))))?;
        Some(Channel::new(Arc::clone(&self.shared), key, id, caller))
    }
}

impl fmt::Debug for TunnelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelHandle")
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
