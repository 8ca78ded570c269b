//! The tokio driver: carries out what the sans-IO core decides.
//!
//! One task owns the connection ([`task`]); the channels ([`channel`]) reach the multiplexer through a lock ([`shared`]).
//! Decisions are not made here.

#![cfg_attr(
    not(all(feature = "client", feature = "server")),
    allow(dead_code, reason = "each end uses its part")
)]

mod channel;
mod input;
mod random;
mod shared;
mod task;
#[cfg(test)]
mod tests;
mod when_woken;

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
pub use random::NoRandomness;
pub(crate) use random::Random;
pub(crate) use when_woken::WhenWoken;

use shared::{Ping, Shared};
use task::Task;

use crate::close::{CloseReason, OpenError};
use crate::decoder::Decoder;
use crate::encoder::Encoder;
use crate::handshake::Session;
use crate::mux::{ChannelKey, MuxConfig};
use crate::stats::TunnelStats;

/// Bytes that a task moves before others on its thread get their turn, and before the runtime looks for what else has come: ten
/// to twenty microseconds, and little enough to be still in the processor's cache when the next task takes it up. tokio's own
/// measure is operations, and 128 of them move megabytes.
pub(crate) const TURN: usize = 64 * 1024;

/// Begins to carry frames over `stream`, whose handshake yielded `session`. The future that comes with the handle does the
/// work and ends with the tunnel.
pub(crate) fn start<S>(
    stream: S,
    session: Session,
    config: MuxConfig,
    malformed_log: Arc<LogThrottle>,
) -> Result<(TunnelHandle, impl Future<Output = CloseReason> + Send), NoRandomness>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let version = config.version;
    let encoder = Encoder::new(session.sealer, version, Box::new(Random::new()?));
    let decoder = Decoder::new(session.opener, version);
    let shared = Arc::new(Shared::new(config, Random::new()?));
    let task = Task::new(stream, Arc::clone(&shared), decoder, encoder, malformed_log);
    Ok((TunnelHandle { shared }, task.run()))
}

/// A running tunnel, seen from anywhere. Cheap to clone; does not keep the tunnel open.
#[derive(Clone)]
pub struct TunnelHandle {
    shared: Arc<Shared>,
}

/// Why a ping was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PingError {
    /// The tunnel ended first.
    #[error("the tunnel ended before the ping was answered")]
    Closed,
    /// The answer did not come in time, although other things did: it may be behind them.
    #[error("the ping was not answered in time, although the peer sends other things")]
    TimedOut,
    /// Several pings are waiting for their answers already.
    #[error("too many pings wait for an answer already")]
    TooMany,
}

impl TunnelHandle {
    /// Closes the tunnel: what the channels have written still goes out, for a limited time
    /// ([`Timeouts::drain`](crate::Timeouts::drain)). Returns at once; [`closed`](Self::closed) tells when it is over.
    pub fn close(&self) {
        self.close_because(CloseReason::Local);
    }

    pub(crate) fn close_because(&self, reason: CloseReason) {
        self.shared.close(reason);
    }

    /// Waits until the tunnel has ended and tells why.
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
        // The sender lives in what we hold ourselves, so that there is always a reason.
        reason.unwrap_or_else(|| Arc::new(CloseReason::Local))
    }

    /// Whether the tunnel has ended.
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed()
    }

    /// How many channels are open.
    pub fn open_channels(&self) -> usize {
        self.shared.with(|state| state.mux.open_channels())
    }

    /// What the tunnel has carried so far; the last word on it once it has ended.
    pub fn stats(&self) -> TunnelStats {
        self.shared.with(|state| state.mux.stats())
    }

    /// Sends a ping and waits for the answer, for [`Timeouts::ping_answer`](crate::Timeouts::ping_answer) at most; yields how
    /// long it took. If nothing at all comes in for that time, the tunnel is ended.
    ///
    /// # Errors
    /// [`PingError`].
    ///
    /// # Cancel safety
    /// Yes; the ping is sent all the same.
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
            state.pings.push(Ping { id, sent, answer });
            Ok((sent, state.mux.ping_answer()))
        })?;
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer.map_err(|_| PingError::Closed),
            Err(_) if self.shared.with(|state| state.mux.has_heard_since(sent)) => {
                Err(PingError::TimedOut)
            }
            // Its time is up as well, to the nanosecond.
            Err(_) => Err(PingError::Closed),
        }
    }

    /// The next channel that the peer opens; `None` once the tunnel has ended.
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
            // On a port for both families, an IPv4 address comes in the guise of an IPv6 one.
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
