//! Channels through a client and a server over loopback sockets: data, close and flow control.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use cloud_net::LogThrottle;
use snitun::client::{ClientConfig, ConnectError};
use snitun::server::ServerConfig;
use snitun::{Channel, ChannelError, Cipher, CloseReason, ProtocolVersion, SessionKey};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use crate::support::{self, Relay, client_hello, noise, with_timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_channels_transfer_both_ways() {
    const CHANNELS: usize = 50;
    const SIZE: usize = 1024 * 1024;

    // All start at once; on a busy machine the last one starts late.
    let relay = Relay::start(ServerConfig {
        first_byte_timeout: support::LIMIT,
        hello_timeout: support::LIMIT,
        ..support::server_config()
    })
    .await;
    let config = relay.config_for("device.example.com", ProtocolVersion::V0, Cipher::AesCbc);
    let mut tunnel = relay.device(config).await.unwrap();

    let device = tokio::spawn(async move {
        let mut echoes = tokio::task::JoinSet::new();
        for _ in 0..CHANNELS {
            let mut channel = tunnel.accept().await.unwrap();
            assert_eq!(channel.peer_ip(), Some("127.0.0.1".parse().unwrap()));
            echoes.spawn(async move {
                let mut hello = vec![0; client_hello("device.example.com").len()];
                channel.read_exact(&mut hello).await.unwrap();
                let mut buffer = vec![0; 30_000];
                loop {
                    let count = channel.read(&mut buffer).await.unwrap();
                    if count == 0 {
                        break;
                    }
                    channel.write_all(&buffer[..count]).await.unwrap();
                }
            });
        }
        while let Some(echo) = echoes.join_next().await {
            echo.unwrap();
        }
        tunnel
    });

    let mut callers = tokio::task::JoinSet::new();
    for seed in 0..CHANNELS as u64 {
        let address = relay.address;
        callers.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream
                .write_all(&client_hello("Device.example.com"))
                .await
                .unwrap();
            let sent = noise(seed, SIZE);
            let (mut reader, mut writer) = stream.split();
            let mut received = vec![0; SIZE];
            let (written, read) =
                tokio::join!(writer.write_all(&sent), reader.read_exact(&mut received));
            written.unwrap();
            read.unwrap();
            assert!(sent == received, "caller {seed} got other bytes back");
        });
    }
    with_timeout(async {
        while let Some(caller) = callers.join_next().await {
            caller.unwrap();
        }
    })
    .await;
    let tunnel = with_timeout(device).await.unwrap();
    drop(tunnel);
    relay.stop().await;
}

#[tokio::test]
async fn every_version_and_cipher_carries_data() {
    let relay = Relay::start(support::server_config()).await;
    for version in ProtocolVersion::ALL {
        for cipher in Cipher::ALL {
            let config = relay.config_for("device.example.com", version, cipher);
            let mut tunnel = relay.device(config).await.unwrap();
            let (mut caller, mut channel) = relay.call(&mut tunnel, "device.example.com").await;
            assert_eq!(channel.peer_ip(), Some("127.0.0.1".parse().unwrap()));
            channel.write_all(b"down").await.unwrap();
            caller.write_all(b"up").await.unwrap();
            let (mut down, mut up) = ([0; 4], [0; 2]);
            with_timeout(caller.read_exact(&mut down)).await.unwrap();
            with_timeout(channel.read_exact(&mut up)).await.unwrap();
            assert_eq!((&down, &up), (b"down", b"up"));
        }
    }
    relay.stop().await;
}

#[tokio::test]
async fn close_delivers_written_data() {
    let relay = Relay::start(support::server_config()).await;
    let config = relay.config_for("device.example.com", ProtocolVersion::V1, Cipher::AesCbc);
    let mut tunnel = relay.device(config).await.unwrap();
    let data = noise(1, 1_000_000);

    let (mut caller, mut channel) = relay.call(&mut tunnel, "device.example.com").await;
    let sent = data.clone();
    let device = tokio::spawn(async move {
        channel.write_all(&sent).await.unwrap();
        channel.shutdown().await.unwrap();
        let failed = channel.write_all(b"more").await.unwrap_err();
        assert_eq!(failed.kind(), std::io::ErrorKind::BrokenPipe);
    });
    let mut received = Vec::new();
    with_timeout(caller.read_to_end(&mut received))
        .await
        .unwrap();
    assert!(received == data);
    with_timeout(device).await.unwrap();

    let (mut caller, mut channel) = relay.call(&mut tunnel, "device.example.com").await;
    let sent = data.clone();
    let caller = tokio::spawn(async move {
        caller.write_all(&sent).await.unwrap();
        caller.shutdown().await.unwrap();
        caller
    });
    let mut received = Vec::new();
    with_timeout(channel.read_to_end(&mut received))
        .await
        .unwrap();
    assert!(received == data);
    let failed = channel.write_all(b"late").await.unwrap_err();
    assert_eq!(failed.kind(), std::io::ErrorKind::BrokenPipe);
    drop(with_timeout(caller).await.unwrap());
    relay.stop().await;
}

#[tokio::test]
async fn caller_abort_ends_only_its_channel() {
    let relay = Relay::start(support::server_config()).await;
    let config = relay.config_for("device.example.com", ProtocolVersion::V0, Cipher::AesCbc);
    let mut tunnel = relay.device(config).await.unwrap();
    let (mut caller, mut channel) = relay.call(&mut tunnel, "device.example.com").await;
    let (mut other, mut other_channel) = relay.call(&mut tunnel, "device.example.com").await;
    let endless = tokio::spawn(async move {
        let block = vec![0; 10_000];
        loop {
            if let Err(error) = channel.write_all(&block).await {
                break error.kind();
            }
        }
    });
    with_timeout(caller.read_exact(&mut [0; 1000]))
        .await
        .unwrap();
    drop(caller);
    assert_eq!(
        with_timeout(endless).await.unwrap(),
        std::io::ErrorKind::BrokenPipe
    );
    other_channel.write_all(b"still here").await.unwrap();
    let mut read = [0; 10];
    with_timeout(other.read_exact(&mut read)).await.unwrap();
    assert_eq!(&read, b"still here");
    relay.stop().await;
}

/// Limit of unread data that is reached quickly.
const SMALL_LIMIT: usize = 2_000_000;

/// A device that does not read one channel; returns the bytes that it finds there in the end, and
/// the outcome, after `total` bytes were sent on it.
async fn slow_reader(
    version: ProtocolVersion,
    total: usize,
    overrun_log: &Arc<LogThrottle>,
) -> (usize, std::io::Result<usize>) {
    let relay = Relay::start(support::server_config()).await;
    let mut config = relay.config_for("device.example.com", version, Cipher::AesCbc);
    // From version 1 on the data in flight when PAUSE is sent, in the buffers of two sockets, has
    // to fit.
    config.limits.receive_per_channel = if version.has_flow_control() {
        16_000_000
    } else {
        SMALL_LIMIT
    };
    config.limits.pause_above = 500_000;
    config.limits.resume_below = 100_000;
    config.overrun_log = Arc::clone(overrun_log);
    let mut tunnel = relay.device(config).await.unwrap();
    let (mut slow, mut slow_channel) = relay.call(&mut tunnel, "device.example.com").await;
    let flood = tokio::spawn(async move {
        let sent = slow.write_all(&vec![7; total]).await;
        let _ = slow.shutdown().await;
        (sent, slow)
    });
    // Meanwhile, many round trips on another channel.
    let (mut quick, mut quick_channel) = relay.call(&mut tunnel, "device.example.com").await;
    for round in 0..500_u32 {
        quick.write_all(&round.to_be_bytes()).await.unwrap();
        let number = with_timeout(quick_channel.read_u32()).await.unwrap();
        quick_channel.write_u32(number).await.unwrap();
        assert_eq!(with_timeout(quick.read_u32()).await.unwrap(), round);
    }
    if !version.has_flow_control() {
        // Without flow control all data arrives, and the channel is closed at its limit.
        drop(with_timeout(flood).await.unwrap());
        with_timeout(async {
            while tunnel.handle().open_channels() > 1 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    let mut received = Vec::new();
    let result = with_timeout(slow_channel.read_to_end(&mut received)).await;
    assert_eq!(tunnel.handle().open_channels(), 1);
    drop((quick, quick_channel));
    relay.stop().await;
    (received.len(), result)
}

/// Returns how many lines the throttle would still let through.
fn lines_left(log: &LogThrottle) -> usize {
    std::iter::from_fn(|| log.allow()).count()
}

#[tokio::test]
async fn slow_reader_is_paused_with_flow_control() {
    let log = Arc::new(LogThrottle::new());
    let (_, read) = slow_reader(ProtocolVersion::V1, 40_000_000, &log).await;
    assert_eq!(read.unwrap(), 40_000_000);
    assert_eq!(lines_left(&log), lines_left(&LogThrottle::new()));
}

#[tokio::test]
async fn unread_channel_delivers_and_closes_without_flow_control() {
    let log = Arc::new(LogThrottle::new());
    let (received, read) = slow_reader(ProtocolVersion::V0, 40_000_000, &log).await;
    assert!((SMALL_LIMIT - 64 * 1024..=SMALL_LIMIT).contains(&received));
    assert_eq!(lines_left(&log) + 1, lines_left(&LogThrottle::new()));
    let error = read.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let inner = error.get_ref().unwrap().downcast_ref::<ChannelError>();
    assert_eq!(inner, Some(&ChannelError::Overrun));
}

/// Reads to the end, more slowly than the sender writes, while another channel makes round trips.
async fn read_slowly(
    reader: &mut (impl AsyncRead + Unpin),
    quick: &mut TcpStream,
    quick_channel: &mut Channel,
) -> usize {
    let mut rounds = 0;
    let quick_rounds = async {
        loop {
            quick.write_u32(rounds).await.unwrap();
            let number = with_timeout(quick_channel.read_u32()).await.unwrap();
            quick_channel.write_u32(number).await.unwrap();
            assert_eq!(with_timeout(quick.read_u32()).await.unwrap(), rounds);
            rounds += 1;
        }
    };
    let slow = async {
        let mut buffer = vec![0; 64 * 1024];
        let mut received = 0;
        loop {
            match with_timeout(reader.read(&mut buffer)).await.unwrap() {
                0 => return received,
                count => received += count,
            }
            // This is what makes it slow.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let received = tokio::select! {
        received = slow => received,
        () = quick_rounds => unreachable!("endless"),
    };
    assert!(rounds > 10, "{rounds} round trips");
    received
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reader_loses_nothing_without_flow_control() {
    const TOTAL: usize = 40_000_000;
    let mut config = support::server_config();
    config.limits.receive_per_channel = SMALL_LIMIT;
    let relay = Relay::start(config).await;
    for upload in [false, true] {
        let mut config =
            relay.config_for("device.example.com", ProtocolVersion::V0, Cipher::AesCbc);
        config.limits.receive_per_channel = SMALL_LIMIT;
        let mut tunnel = relay.device(config).await.unwrap();
        let (mut quick, mut quick_channel) = relay.call(&mut tunnel, "device.example.com").await;
        let (mut caller, mut channel) = relay.call(&mut tunnel, "device.example.com").await;
        let data = vec![7; TOTAL];
        let (read, ()) = if upload {
            let sending = async {
                caller.write_all(&data).await.unwrap();
                caller.shutdown().await.unwrap();
            };
            tokio::join!(
                read_slowly(&mut channel, &mut quick, &mut quick_channel),
                sending
            )
        } else {
            let sending = async {
                channel.write_all(&data).await.unwrap();
                channel.shutdown().await.unwrap();
            };
            tokio::join!(
                read_slowly(&mut caller, &mut quick, &mut quick_channel),
                sending
            )
        };
        assert_eq!(read, TOTAL, "upload: {upload}");
    }
    relay.stop().await;
}

/// A caller that reads only after its channel was closed at the limit.
#[tokio::test]
async fn late_caller_gets_what_the_relay_holds() {
    let mut config = support::server_config();
    config.limits.receive_per_channel = SMALL_LIMIT;
    let relay = Relay::start(config).await;
    let config = relay.config_for("device.example.com", ProtocolVersion::V0, Cipher::AesCbc);
    let mut tunnel = relay.device(config).await.unwrap();
    let (mut caller, mut channel) = relay.call(&mut tunnel, "device.example.com").await;
    let endless = async { while channel.write_all(&[7; 64 * 1024]).await.is_ok() {} };
    with_timeout(endless).await;
    let mut received = Vec::new();
    with_timeout(caller.read_to_end(&mut received))
        .await
        .unwrap();
    // More is in the buffers of the caller's connection.
    assert!(received.len() > SMALL_LIMIT, "{} bytes", received.len());
    relay.stop().await;
}

#[tokio::test]
async fn tunnel_close_delivers_written_data() {
    let relay = Relay::start(support::server_config()).await;
    let config = relay.config_for("device.example.com", ProtocolVersion::V2, Cipher::AesGcmSiv);
    let mut tunnel = relay.device(config).await.unwrap();
    let (mut caller, mut channel) = relay.call(&mut tunnel, "device.example.com").await;
    let data = noise(3, 200_000);
    channel.write_all(&data).await.unwrap();
    let handle = tunnel.handle();
    handle.close();
    assert_eq!(*with_timeout(handle.closed()).await, CloseReason::Local);
    let mut received = Vec::new();
    with_timeout(caller.read_to_end(&mut received))
        .await
        .unwrap();
    assert!(received == data);
    let cut = channel.read_u8().await.unwrap_err();
    assert_eq!(cut.kind(), std::io::ErrorKind::ConnectionReset);
    relay.stop().await;
}

/// Closing a connection with unread bytes resets it, and data in flight to the peer is lost.
#[tokio::test]
async fn tunnel_close_during_upload_delivers_written_data() {
    for round in 0..2 {
        let relay = Relay::start(support::server_config()).await;
        let config = relay.config_for("device.example.com", ProtocolVersion::V1, Cipher::AesCbc);
        let mut tunnel = relay.device(config).await.unwrap();
        let (mut uploader, mut upload) = relay.call(&mut tunnel, "device.example.com").await;
        let (mut caller, mut channel) = relay.call(&mut tunnel, "device.example.com").await;
        let uploading = tokio::spawn(async move {
            let block = noise(1, 100_000);
            while uploader.write_all(&block).await.is_ok() {}
        });
        // The transfer is running.
        let mut some = vec![0; 1_000_000];
        with_timeout(upload.read_exact(&mut some)).await.unwrap();
        let receiving = tokio::spawn(async move {
            let mut sink = vec![0; 65536];
            while matches!(upload.read(&mut sink).await, Ok(1..)) {}
        });
        let data = noise(round, 2_000_000);
        let reading = tokio::spawn(async move {
            let mut received = Vec::new();
            let read = caller.read_to_end(&mut received).await;
            (received, read)
        });
        with_timeout(channel.write_all(&data)).await.unwrap();
        tunnel.handle().close();
        let (received, read) = with_timeout(reading).await.unwrap();
        assert!(received == data, "{} bytes, {read:?}", received.len());
        with_timeout(uploading).await.unwrap();
        with_timeout(receiving).await.unwrap();
        relay.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn silent_server_times_out() {
    let key = SessionKey::generate().unwrap().aes_cbc();
    let config = || ClientConfig::new("gAAA", key.clone());
    let (ours, theirs) = tokio::io::duplex(4096);
    let failed = snitun::client::connect(ours, config()).await.unwrap_err();
    assert!(matches!(failed, ConnectError::TimedOut(_)), "{failed}");
    assert!(failed.is_retryable());
    drop(theirs);

    // A server that sends a challenge and then nothing.
    let (ours, mut theirs) = tokio::io::duplex(4096);
    theirs.write_all(&[9; 32]).await.unwrap();
    let failed = snitun::client::connect(ours, config()).await.unwrap_err();
    assert!(matches!(failed, ConnectError::TimedOut(_)), "{failed}");
    // The token, the answer and the ping arrived, and then the end: nothing is left running.
    let mut sent = Vec::new();
    with_timeout(theirs.read_to_end(&mut sent)).await.unwrap();
    assert_eq!(sent.len(), 4 + 32 + 32);
}

/// A connection that counts its writes: each is a system call.
struct Counting {
    stream: TcpStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn frames_are_batched_into_one_write() {
    const CHANNELS: usize = 100;
    let relay = Relay::start(support::server_config()).await;
    let config = relay.config_for("device.example.com", ProtocolVersion::V1, Cipher::AesCbc);
    let writes = Arc::new(AtomicUsize::new(0));
    let stream = Counting {
        stream: TcpStream::connect(relay.address).await.unwrap(),
        writes: Arc::clone(&writes),
    };
    let mut tunnel = with_timeout(snitun::client::connect(stream, config))
        .await
        .unwrap();
    let mut joined = Vec::new();
    for _ in 0..CHANNELS {
        joined.push(relay.call(&mut tunnel, "device.example.com").await);
    }
    let before = writes.load(Ordering::Relaxed);
    for (_, channel) in &mut joined {
        channel.write_all(&[1; 1000]).await.unwrap();
    }
    for (caller, _) in &mut joined {
        with_timeout(caller.read_exact(&mut [0; 1000]))
            .await
            .unwrap();
    }
    let writes = writes.load(Ordering::Relaxed) - before;
    assert!(writes <= 3, "{CHANNELS} frames took {writes} writes");
    relay.stop().await;
}
