//! The stretch between a device's TLS connection and the broker: moves packets, applies AWS's rules
//! to them, and is where connections go wrong on purpose.
//!
//! The broker takes nothing but sockets, so it gets one end of a loopback pair; the other end is
//! joined here with the TLS stream. That lets acknowledgements be withheld, traffic be frozen and
//! the connection be cut without the broker noticing anything but what a real broker would.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::aws_rules::{AwsRules, Outgoing, Refusal, Verdict};
use super::frames::FrameBuffer;
use super::limits::MAX_PACKET;
use crate::faults::{AckPacket, FaultInjector};
use crate::lock;

/// Bytes read at a time: one TLS record.
const PIECE: usize = 16 * 1024;

/// How long either side may take for the end of a connection: a device to accept the last packet,
/// the broker to finish what it has received.
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

/// Moves packets both ways until one side ends or the device breaks a rule, which is returned.
/// Dropping the future cuts the connection.
pub(super) async fn run<D, B>(
    device: D,
    broker: B,
    rules: AwsRules,
    faults: &FaultInjector,
) -> io::Result<Option<Refusal>>
where
    D: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (from_device, mut to_device) = tokio::io::split(device);
    let (mut from_broker, mut to_broker) = tokio::io::split(broker);
    let (answered, is_answered) = watch::channel(false);
    let shared = Shared {
        rules: Mutex::new(rules),
        is_writing: AtomicBool::new(false),
        faults,
    };
    let refusal = tokio::select! {
        // What the broker sent last, such as its DISCONNECT, goes out before the end.
        biased;
        ended = shared.outward(&mut from_broker, &mut to_device, answered) => {
            ended?;
            None
        }
        ended = shared.inward(from_device, &mut to_broker, is_answered) => {
            let refusal = ended?;
            // The broker gets to the end of what it was sent: closing at once could discard it.
            to_broker.shutdown().await?;
            let mut sink = tokio::io::sink();
            let _ = timeout(CLOSE_LIMIT, tokio::io::copy(&mut from_broker, &mut sink)).await;
            refusal
        }
    };
    let last = async {
        if let Some(packet) = refusal.as_ref().and_then(|refusal| refusal.packet.as_ref())
            // In the middle of another packet, the device could not tell the two apart.
            && !shared.is_writing.load(Ordering::Relaxed)
        {
            to_device.write_all(packet).await?;
        }
        to_device.shutdown().await
    };
    timeout(CLOSE_LIMIT, last).await.unwrap_or(Ok(()))?;
    Ok(refusal)
}

/// What both directions of a connection use.
struct Shared<'a> {
    rules: Mutex<AwsRules>,
    /// A packet is on its way to the device.
    is_writing: AtomicBool,
    faults: &'a FaultInjector,
}

impl Shared<'_> {
    /// From the device to the broker, until the device ends or breaks a rule.
    async fn inward<R, W>(
        &self,
        mut from: R,
        to: &mut W,
        mut is_answered: watch::Receiver<bool>,
    ) -> io::Result<Option<Refusal>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut buffer = FrameBuffer::default();
        loop {
            let frame = match buffer.next(MAX_PACKET) {
                Ok(Some(frame)) => frame,
                Err(reason) => return Ok(Some(lock(&self.rules).unreadable(reason))),
                Ok(None) => {
                    buffer.bytes.reserve(PIECE);
                    let limit = lock(&self.rules).silence_limit();
                    let read = from.read_buf(&mut buffer.bytes);
                    let read = match limit {
                        None => read.await?,
                        Some(limit) => match timeout(limit, read).await {
                            Ok(read) => read?,
                            Err(_) => return Ok(Some(lock(&self.rules).keep_alive_missed())),
                        },
                    };
                    if read == 0 {
                        return Ok(None);
                    }
                    continue;
                }
            };
            self.wait_while_frozen().await;
            let verdict = lock(&self.rules).on_client_packet(&frame);
            match verdict {
                Verdict::Forward(bytes) => to.write_all(&bytes).await?,
                Verdict::Ignore => {}
                Verdict::Refuse(refusal) => return Ok(Some(refusal)),
            }
            // CONNACK comes before any DISCONNECT. A broker that answers nothing closes, which ends
            // the other direction.
            if is_answered.wait_for(|answered| *answered).await.is_err() {
                return Ok(None);
            }
        }
    }

    /// From the broker to the device, until the broker ends.
    async fn outward<R, W>(
        &self,
        from: &mut R,
        to: &mut W,
        answered: watch::Sender<bool>,
    ) -> io::Result<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut buffer = FrameBuffer::default();
        loop {
            while let Some(frame) = buffer
                .next(usize::MAX)
                .map_err(|reason| io::Error::other(format!("the broker broke: {reason:?}")))?
            {
                let outgoing = lock(&self.rules)
                    .on_broker_packet(&frame)
                    .map_err(io::Error::other)?;
                let Outgoing::Send(bytes) = outgoing else {
                    return Ok(());
                };
                let acknowledgement = frame.acknowledgement();
                let is_withheld =
                    acknowledgement.is_some_and(|packet| self.faults.take_withheld(packet));
                if !is_withheld {
                    // A write for each packet makes a TLS record for each. A client that waits for
                    // its socket and then reads one packet (paho in the event loop of another
                    // library) would not notice a second one in the same record.
                    self.is_writing.store(true, Ordering::Relaxed);
                    to.write_all(&bytes).await?;
                    to.flush().await?;
                    self.is_writing.store(false, Ordering::Relaxed);
                }
                if acknowledgement == Some(AckPacket::Connack) {
                    answered.send_replace(true);
                }
            }
            buffer.bytes.reserve(PIECE);
            if from.read_buf(&mut buffer.bytes).await? == 0 {
                return Ok(());
            }
            self.wait_while_frozen().await;
        }
    }

    async fn wait_while_frozen(&self) {
        while let Some(until) = self.faults.frozen_until() {
            tokio::time::sleep_until(until.min(Instant::now() + FREEZE_CHECK)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use mqtt5::ConnectOptions;
    use mqtt5::packet::MqttPacket;
    use mqtt5::packet::connect::ConnectPacket;
    use tokio::io::DuplexStream;

    use super::*;

    const CONNACK: [u8; 5] = [0x20, 3, 0, 0, 0];
    const PINGREQ: [u8; 2] = [0xc0, 0];
    const PINGRESP: [u8; 2] = [0xd0, 0];

    /// Sends CONNECT with this keep-alive through the pipe and answers it.
    async fn connect(device: &mut DuplexStream, broker: &mut DuplexStream, keep_alive: u16) {
        let mut connect = ConnectPacket::new(ConnectOptions::new("SN1").protocol_options);
        connect.keep_alive = keep_alive;
        let mut bytes = Vec::new();
        connect.encode(&mut bytes).unwrap();
        device.write_all(&bytes).await.unwrap();
        let mut got = vec![0; bytes.len()];
        broker.read_exact(&mut got).await.unwrap();
        broker.write_all(&CONNACK).await.unwrap();
        let mut got = [0; CONNACK.len()];
        device.read_exact(&mut got).await.unwrap();
        assert_eq!(got, CONNACK);
    }

    #[tokio::test]
    async fn withholds_towards_the_device_only() {
        let faults = FaultInjector::new();
        faults.withhold(AckPacket::Puback, 0);
        let (mut device, pipe_device) = tokio::io::duplex(64);
        let (pipe_broker, mut broker) = tokio::io::duplex(64);
        let pipe = run(pipe_device, pipe_broker, AwsRules::new(None), &faults);
        let both = async {
            connect(&mut device, &mut broker, 60).await;
            let puback = [0x40, 2, 0, 1];
            device.write_all(&puback).await.unwrap();
            let mut got = [0; 4];
            broker.read_exact(&mut got).await.unwrap();
            assert_eq!(got, puback);

            broker.write_all(&[0x40, 2, 0, 1, 0xd0, 0]).await.unwrap();
            let mut got = [0; 2];
            device.read_exact(&mut got).await.unwrap();
            assert_eq!(got, PINGRESP);
            drop(broker);
            assert_eq!(device.read(&mut got).await.unwrap(), 0);
        };
        let (ended, ()) = tokio::join!(pipe, both);
        assert_eq!(ended.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn missed_keep_alive_ends_with_its_reason() {
        let faults = FaultInjector::new();
        let (mut device, pipe_device) = tokio::io::duplex(256);
        let (pipe_broker, mut broker) = tokio::io::duplex(256);
        let pipe = run(pipe_device, pipe_broker, AwsRules::new(None), &faults);
        let both = async {
            connect(&mut device, &mut broker, 40).await;
            tokio::time::sleep(Duration::from_secs(59)).await;
            device.write_all(&PINGREQ).await.unwrap();
            let since = Instant::now();
            let mut got = [0; 2];
            broker.read_exact(&mut got).await.unwrap();
            assert_eq!(got, PINGREQ);
            assert_eq!(broker.read(&mut got).await.unwrap(), 0, "the broker's end");
            drop(broker);
            let mut last = Vec::new();
            device.read_to_end(&mut last).await.unwrap();
            assert_eq!((last[0], last[2]), (0xe0, 0x8d), "{last:?}");
            assert_eq!(since.elapsed(), Duration::from_secs(60));
        };
        let (ended, ()) = tokio::join!(pipe, both);
        ended.unwrap().expect("a refusal");
    }
}
