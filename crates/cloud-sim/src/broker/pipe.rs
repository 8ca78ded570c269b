//! The stretch between a device's TLS connection and the broker: moves bytes, and is where connections go wrong on
//! purpose.
//!
//! The broker takes nothing but sockets, so it gets one end of a loopback pair; the other end is joined here with the
//! TLS stream. That lets acknowledgements be withheld, traffic be frozen and the line be cut without the broker
//! noticing anything but what a real broker would.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::packets::{Filtered, PacketFilter};
use crate::faults::FaultInjector;

/// Bytes moved at a time: one TLS record.
const PIECE: usize = 16 * 1024;

/// How long a device may take to accept the last bytes of a connection that the broker has ended.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// How often frozen traffic checks whether it may move again: a freeze can end early.
const FREEZE_CHECK: Duration = Duration::from_millis(50);

/// Two sockets that are connected with each other.
pub(super) async fn socket_pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let near = TcpStream::connect(listener.local_addr()?).await?;
    loop {
        let (far, peer) = listener.accept().await?;
        // Anybody on this machine could have been quicker.
        if peer == near.local_addr()? {
            near.set_nodelay(true)?;
            far.set_nodelay(true)?;
            return Ok((near, far));
        }
    }
}

/// Moves bytes both ways until one side ends. Dropping the future cuts the line.
pub(super) async fn run<S>(device: S, broker: TcpStream, faults: &FaultInjector) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_device, mut to_device) = tokio::io::split(device);
    let (mut from_broker, mut to_broker) = tokio::io::split(broker);
    let inward = pump(&mut from_device, &mut to_broker, faults, None);
    let outward = pump(
        &mut from_broker,
        &mut to_device,
        faults,
        Some(PacketFilter::new()),
    );
    tokio::select! {
        // What the broker said last, such as its DISCONNECT, goes out before the end.
        biased;
        ended = outward => {
            ended?;
            tokio::time::timeout(CLOSE_LIMIT, to_device.shutdown()).await.unwrap_or(Ok(()))
        }
        ended = inward => ended,
    }
}

async fn pump<R, W>(
    from: &mut R,
    to: &mut W,
    faults: &FaultInjector,
    mut filter: Option<PacketFilter>,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; PIECE];
    let mut output = Filtered::default();
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        while let Some(until) = faults.frozen_until() {
            tokio::time::sleep_until(until.min(Instant::now() + FREEZE_CHECK)).await;
        }
        let bytes = buffer.get(..read).unwrap_or_default();
        match &mut filter {
            None => to.write_all(bytes).await?,
            Some(filter) => {
                output.clear();
                filter.push(bytes, &mut output, |packet| faults.take_withheld(packet));
                // A write for each packet makes a TLS record for each. A client that waits for its socket and then reads
                // one packet (paho in the event loop of another library) would not notice a second one in the same record.
                for piece in output.pieces() {
                    to.write_all(piece).await?;
                }
            }
        }
        to.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::AckPacket;

    #[tokio::test]
    async fn withholds_towards_the_device_only() {
        let faults = FaultInjector::new();
        faults.withhold(AckPacket::Puback, 0);
        let (mut device, pipe_device) = tokio::io::duplex(64);
        let (pipe_broker, mut broker) = socket_pair().await.unwrap();
        let pipe = run(pipe_device, pipe_broker, &faults);
        let both = async {
            let puback = [0x40, 2, 0, 1];
            device.write_all(&puback).await.unwrap();
            let mut got = [0; 4];
            broker.read_exact(&mut got).await.unwrap();
            assert_eq!(got, puback);

            broker.write_all(&[0x40, 2, 0, 1, 0xd0, 0]).await.unwrap();
            let mut got = [0; 2];
            device.read_exact(&mut got).await.unwrap();
            assert_eq!(got, [0xd0, 0]);
            drop(broker);
            assert_eq!(device.read(&mut got).await.unwrap(), 0);
        };
        let (ended, ()) = tokio::join!(pipe, both);
        ended.unwrap();
    }
}
