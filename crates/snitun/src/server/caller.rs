//! The public side: connects a caller to the device that it requests.

use std::net::IpAddr;
use std::pin::pin;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::listener::AddressLimiter;
use super::metrics::count;
use super::rejection::CallerRejection;
use super::{InFlight, Inner};
use crate::copy::{CopyStats, copy_bidirectional};
use crate::driver::WakeGated;
use crate::sni;

impl Inner {
    /// Serves a caller's connection until it ends; `first` was read already.
    pub(super) async fn serve_caller(
        &self,
        mut stream: TcpStream,
        first: Vec<u8>,
        caller: IpAddr,
        in_flight: InFlight,
    ) -> Result<CopyStats, CallerRejection> {
        let limit = self.config.hello_timeout;
        let (hello, name) = tokio::select! {
            () = self.closing.cancelled() => return Err(CallerRejection::Stopping),
            read = tokio::time::timeout(limit, read_hello(&mut stream, first)) => {
                read.map_err(|_| CallerRejection::TimedOut)??
            }
        };
        let peer = self
            .registry
            .find(&name)
            .ok_or_else(|| CallerRejection::NoDevice(name.into()))?;
        let _permit = AddressLimiter::try_acquire(&self.callers_per_address, caller)
            .ok_or(CallerRejection::TooMany)?;
        let _served = self.callers.token();
        let mut channel = peer.tunnel.open(Some(caller))?;
        drop(in_flight);
        // A new channel has room for the ClientHello.
        channel
            .write_all(&hello)
            .await
            .map_err(CallerRejection::Relay)?;
        drop(hello);
        count(&self.metrics.counters.callers_connected);
        tracing::debug!(hostname = peer.hostname, channel = %channel.id(), "channel opened");
        let stopping = pin!(self.stopping.cancelled());
        tokio::select! {
            biased;
            () = WakeGated::new(stopping) => Err(CallerRejection::Stopping),
            copied = copy_bidirectional(stream, channel, self.config.public_idle) => {
                copied.map_err(CallerRejection::Relay)
            }
        }
    }
}

/// Reads a complete ClientHello; returns all bytes read and the host name.
async fn read_hello(
    stream: &mut TcpStream,
    mut hello: Vec<u8>,
) -> Result<(Vec<u8>, String), CallerRejection> {
    loop {
        if let Some(name) = sni::server_name(&hello)? {
            return Ok((hello, name));
        }
        let room = sni::MAX_CLIENT_HELLO.saturating_sub(hello.len()) as u64;
        let mut more = (&mut *stream).take(room);
        if more
            .read_buf(&mut hello)
            .await
            .map_err(CallerRejection::Hello)?
            == 0
        {
            return Err(CallerRejection::Gone);
        }
    }
}
