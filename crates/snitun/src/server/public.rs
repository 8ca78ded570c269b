//! The public side: finds the device that a caller wants, and joins the two.

use std::io;
use std::net::IpAddr;
use std::pin::pin;

use cloud_net::UntrustedText;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::metrics::count;
use super::port::PerAddress;
use super::{InFlight, Inner};
use crate::close::OpenError;
use crate::driver::WhenWoken;
use crate::relay::{Relayed, relay};
use crate::sni::{self, SniError};

/// Why a public connection was closed before, or instead of, being served.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejection {
    #[error("the ClientHello did not come in time")]
    TimedOut,
    #[error("the caller went away before its ClientHello was complete")]
    Gone,
    #[error(transparent)]
    Sni(#[from] SniError),
    #[error("no device is connected for {0}")]
    NoDevice(UntrustedText),
    #[error("the device takes no further channel: {0}")]
    Open(#[from] OpenError),
    #[error("too many callers of its address are being served")]
    TooMany,
    #[error("the server is stopping")]
    Stopping,
    #[error("the connection failed before its ClientHello was complete: {0}")]
    Hello(#[source] io::Error),
    #[error("the connection failed: {0}")]
    Relay(#[source] io::Error),
}

impl Inner {
    /// Runs a caller's connection, of which `first` has been read, to its end.
    pub(super) async fn public(
        &self,
        mut stream: TcpStream,
        first: Vec<u8>,
        caller: IpAddr,
        in_flight: InFlight,
    ) -> Result<Relayed, Rejection> {
        let limit = self.config.hello_timeout;
        let (hello, name) = tokio::select! {
            () = self.closing.cancelled() => return Err(Rejection::Stopping),
            read = tokio::time::timeout(limit, read_hello(&mut stream, first)) => {
                read.map_err(|_| Rejection::TimedOut)??
            }
        };
        let peer = self
            .registry
            .find(&name)
            .ok_or_else(|| Rejection::NoDevice(name.into()))?;
        let _place =
            PerAddress::take(&self.callers_per_address, caller).ok_or(Rejection::TooMany)?;
        let _served = self.callers.token();
        let mut channel = peer.tunnel.open(Some(caller))?;
        drop(in_flight);
        // A new channel has room for this.
        channel.write_all(&hello).await.map_err(Rejection::Relay)?;
        drop(hello);
        count(&self.metrics.counters.callers_connected);
        tracing::debug!(hostname = peer.hostname, channel = %channel.id(), "channel opened");
        let stopping = pin!(self.stopping.cancelled());
        tokio::select! {
            biased;
            () = WhenWoken::new(stopping) => Err(Rejection::Stopping),
            relayed = relay(stream, channel, self.config.public_idle) => {
                relayed.map_err(Rejection::Relay)
            }
        }
    }
}

/// Reads a complete ClientHello; yields all bytes read and the host name.
async fn read_hello(
    stream: &mut TcpStream,
    mut hello: Vec<u8>,
) -> Result<(Vec<u8>, String), Rejection> {
    loop {
        if let Some(name) = sni::server_name(&hello)? {
            return Ok((hello, name));
        }
        let room = sni::MAX_CLIENT_HELLO.saturating_sub(hello.len()) as u64;
        let mut more = (&mut *stream).take(room);
        if more.read_buf(&mut hello).await.map_err(Rejection::Hello)? == 0 {
            return Err(Rejection::Gone);
        }
    }
}
