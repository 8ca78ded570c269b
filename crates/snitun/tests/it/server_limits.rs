//! Limits and metrics of the server over loopback sockets.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use snitun::client::ClientConfig;
use snitun::server::{ListenerRole, ServerConfig, ServerMetrics, TokenContent};
use snitun::{Cipher, Limits, ProtocolVersion, SessionKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{self, Relay, client_hello, is_closed, noise, with_timeout};

const HOST: &str = "device.example.com";

#[tokio::test]
async fn silent_connections_are_limited() {
    for (max_in_flight, max_in_flight_per_address) in [(3, 100), (100, 3)] {
        let relay = Relay::start(ServerConfig {
            max_in_flight,
            max_in_flight_per_address,
            first_byte_timeout: support::LIMIT,
            ..support::server_config()
        })
        .await;
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(TcpStream::connect(relay.address).await.unwrap());
        }
        assert!(is_closed(relay.address, b"").await);
        // After they have disconnected there is room again: a caller gets as far as the error that
        // no device is connected.
        drop(silent);
        let config = || relay.config_for(HOST, ProtocolVersion::V0, Cipher::AesCbc);
        with_timeout(async {
            while relay.device(config()).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        relay.stop().await;
    }
}

/// Waits until the server's metrics match `expected`.
async fn counted(relay: &Relay, expected: impl Fn(&ServerMetrics) -> bool) -> ServerMetrics {
    with_timeout(async {
        loop {
            let metrics = relay.handle.metrics();
            if expected(&metrics) {
                break metrics;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn traffic_is_counted_on_both_sides() {
    let relay = Relay::start(support::server_config()).await;
    let mut tunnel = relay.tunnel(HOST, ProtocolVersion::V1).await;
    let handle = tunnel.handle();
    let (mut caller, mut channel) = relay.call(&mut tunnel, HOST).await;
    let up = (client_hello(HOST).len() + 1000) as u64;
    caller.write_all(&[1; 1000]).await.unwrap();
    channel.write_all(&[2; 70_000]).await.unwrap();
    with_timeout(channel.read_exact(&mut [0; 1000]))
        .await
        .unwrap();
    with_timeout(caller.read_exact(&mut [0; 70_000]))
        .await
        .unwrap();
    let stats = handle.stats();
    assert_eq!((stats.bytes_received, stats.bytes_sent), (up, 70_000));
    assert_eq!((stats.channels_opened, stats.channels_refused), (1, 0));
    let metrics = relay.handle.metrics();
    assert_eq!(metrics.tunnels_up, 1);
    assert_eq!((metrics.connections, metrics.callers_connected), (2, 1));
    let carried = metrics.tunnels;
    assert_eq!((carried.bytes_received, carried.bytes_sent), (70_000, up));

    // A tunnel's counters outlive it.
    drop((caller, channel, tunnel));
    let metrics = counted(&relay, |metrics| metrics.tunnels_up == 0).await;
    assert_eq!(metrics.tunnels, carried);
    assert_eq!(handle.stats().bytes_sent, 70_000);
    let json = serde_json::to_value(&metrics).unwrap();
    assert_eq!(json["tunnels"]["channels_opened"], 1);
    relay.stop().await;
}

#[tokio::test]
async fn rejections_are_counted_by_reason() {
    let relay = Relay::start(ServerConfig {
        hello_timeout: Duration::from_millis(50),
        max_used_keys: 1,
        ..support::server_config()
    })
    .await;
    let config_for = |cipher| relay.config_for(HOST, ProtocolVersion::V0, cipher);
    let mut forged = config_for(Cipher::AesCbc);
    forged.token = "gAAAAABnot-a-token".into();
    let mut expired = TokenContent::new(HOST, SessionKey::generate().unwrap(), 1);
    expired.cipher = Cipher::AesGcm;
    let expired = relay.keys.issue(&expired).unwrap();
    let expired = ClientConfig::new(expired, SessionKey::generate().unwrap().aes_gcm().into());
    let mut impostor = config_for(Cipher::AesCbc);
    impostor.key = SessionKey::generate().unwrap().aes_cbc().into();
    for config in [forged, expired, impostor] {
        relay.device(config).await.unwrap_err();
    }
    let mut tunnel = relay.device(config_for(Cipher::AesGcm)).await.unwrap();
    relay.device(config_for(Cipher::AesGcm)).await.unwrap_err();

    assert!(is_closed(relay.address, b"GET / HTTP/1.1\r\n\r\n").await);
    assert!(is_closed(relay.address, b"\x16\x03\x01\x00\x02\x02\x00").await);
    assert!(is_closed(relay.address, &client_hello("other.example.com")).await);
    assert!(is_closed(relay.address, &client_hello(HOST)[..30]).await);
    let _served = relay.call(&mut tunnel, HOST).await;
    let expected = |metrics: &ServerMetrics| {
        [
            metrics.connections,
            metrics.devices_bad_token,
            metrics.devices_expired_token,
            metrics.devices_wrong_answer,
            metrics.devices_spent_key,
            metrics.devices_connected,
            metrics.refused_unknown,
            metrics.callers_bad_hello,
            metrics.callers_no_device,
            metrics.callers_gave_up,
            metrics.callers_connected,
        ] == [10, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    };
    counted(&relay, expected).await;
    relay.stop().await;
}

#[tokio::test]
async fn throttled_server_spaces_messages() {
    let relay = Relay::start(ServerConfig {
        throttling: NonZeroU32::new(50),
        ..support::server_config()
    })
    .await;
    let mut tunnel = relay.tunnel(HOST, ProtocolVersion::V0).await;
    let (mut caller, mut channel) = relay.call(&mut tunnel, HOST).await;
    let begun = Instant::now();
    // At least ten frames, of at most 64 KiB, with 20 ms after each.
    let sent = noise(1, 10 * 64 * 1024);
    let mut received = vec![0; sent.len()];
    let (written, read) = with_timeout(async {
        tokio::join!(caller.write_all(&sent), channel.read_exact(&mut received))
    })
    .await;
    written.unwrap();
    read.unwrap();
    assert!(sent == received);
    assert!(begun.elapsed() >= Duration::from_millis(9 * 20));
    assert!(relay.handle.metrics().tunnels.throttled >= 9);
    relay.stop().await;
}

#[tokio::test]
async fn unanswered_challenge_times_out() {
    let mut config = support::server_config();
    config.timeouts.handshake = Duration::from_millis(300);
    let relay = Relay::start(config).await;
    let config = relay.config_for(HOST, ProtocolVersion::V0, Cipher::AesCbc);
    let mut silent = TcpStream::connect(relay.address).await.unwrap();
    let token = config.token.expose().as_bytes();
    silent.write_all(token).await.unwrap();
    let mut challenge = Vec::new();
    with_timeout(silent.read_to_end(&mut challenge))
        .await
        .unwrap();
    assert_eq!(challenge.len(), 32);
    counted(&relay, |metrics| metrics.devices_gave_up == 1).await;
    relay.stop().await;
}

#[tokio::test]
async fn total_connections_are_limited() {
    let relay = Relay::start(ServerConfig {
        max_connections: 2,
        ..support::server_config()
    })
    .await;
    let mut tunnel = relay.tunnel(HOST, ProtocolVersion::V0).await;
    let served = relay.call(&mut tunnel, HOST).await;
    assert!(is_closed(relay.address, &client_hello(HOST)).await);
    assert_eq!(relay.handle.metrics().refused_busy, 1);
    // Disconnecting frees a permit.
    drop(served);
    with_timeout(async {
        loop {
            let mut caller = TcpStream::connect(relay.address).await.unwrap();
            let _ = caller.write_all(&client_hello(HOST)).await;
            tokio::select! {
                _closed = caller.read_u8() => {}
                _served = tunnel.accept() => break,
            }
        }
    })
    .await;
    relay.stop().await;
}

#[tokio::test]
async fn idle_caller_is_closed() {
    let relay = Relay::start(ServerConfig {
        public_idle: Duration::from_millis(100),
        ..support::server_config()
    })
    .await;
    let mut tunnel = relay.tunnel(HOST, ProtocolVersion::V0).await;
    let mut caller = TcpStream::connect(relay.address).await.unwrap();
    caller.write_all(&client_hello(HOST)).await.unwrap();
    let mut channel = with_timeout(tunnel.accept()).await.unwrap();
    let idle = with_timeout(caller.read(&mut [0; 10])).await;
    assert!(matches!(idle, Ok(0) | Err(_)), "{idle:?}");
    let mut received = Vec::new();
    with_timeout(channel.read_to_end(&mut received))
        .await
        .unwrap();
    assert_eq!(received, client_hello(HOST));
    relay.stop().await;
}

/// One address cannot use all channels of a device.
#[tokio::test]
async fn callers_are_limited_per_address() {
    let relay = Relay::start(ServerConfig {
        max_callers_per_address: 2,
        ..support::server_config()
    })
    .await;
    let mut tunnel = relay.tunnel(HOST, ProtocolVersion::V0).await;
    let first = relay.call(&mut tunnel, HOST).await;
    let _second = relay.call(&mut tunnel, HOST).await;
    assert!(is_closed(relay.address, &client_hello(HOST)).await);
    counted(&relay, |metrics| metrics.callers_refused_address == 1).await;
    // Other addresses have their own permits.
    let (port, _) = relay.port(ListenerRole::Callers, true).await;
    let mut other = TcpStream::connect(port).await.unwrap();
    other
        .write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n")
        .await
        .unwrap();
    other.write_all(&client_hello(HOST)).await.unwrap();
    let _others = with_timeout(tunnel.accept()).await.unwrap();
    // Disconnecting frees a permit.
    drop(first);
    with_timeout(async {
        loop {
            let mut caller = TcpStream::connect(relay.address).await.unwrap();
            caller.write_all(&client_hello(HOST)).await.unwrap();
            let mut answer = [0];
            tokio::select! {
                _closed = caller.read(&mut answer) => {}
                _served = tunnel.accept() => break,
            }
        }
    })
    .await;
    relay.stop().await;
}

/// One timeout covers the whole token, however small its segments are.
#[tokio::test]
async fn slow_token_times_out() {
    let relay = Relay::start(ServerConfig {
        first_byte_timeout: Duration::from_millis(300),
        token_timeout: Duration::from_millis(250),
        ..support::server_config()
    })
    .await;
    let (devices, _) = relay.port(ListenerRole::Devices, false).await;
    let config = relay.config_for(HOST, ProtocolVersion::V0, Cipher::AesCbc);
    let token = config.token.expose().as_bytes();
    for (address, limit) in [(relay.address, 300), (devices, 250)] {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut reader, mut writer) = stream.split();
        let mut pieces = 0;
        let trickle = async {
            for byte in token.chunks(1) {
                // Each segment arrives well within its timeout; the reader detects the server's
                // end.
                if writer.write_all(byte).await.is_err() {
                    break;
                }
                pieces += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let mut answer = [0];
        let closed = async { reader.read(&mut answer).await };
        let closed = with_timeout(async {
            tokio::select! {
                closed = closed => closed,
                () = trickle => panic!("the whole token was taken"),
            }
        })
        .await;
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
        assert!(begun.elapsed() >= Duration::from_millis(limit));
        // Before the maximum number of segments.
        assert!(pieces < 8, "{pieces} pieces");
    }
    let metrics = counted(&relay, |metrics| metrics.devices_bad_token == 2).await;
    assert_eq!(metrics.devices_connected, 0);
    relay.stop().await;
}

/// Behind a load balancer all connections have the same address: the source addresses count.
#[tokio::test]
async fn proxied_callers_are_limited_per_source_address() {
    let relay = Relay::start(ServerConfig {
        max_in_flight_per_address: 1,
        hello_timeout: support::LIMIT,
        first_byte_timeout: support::LIMIT,
        ..support::server_config()
    })
    .await;
    let (port, _) = relay.port(ListenerRole::Callers, true).await;
    let header = |last: u8| {
        // Version 2, PROXY, TCP over IPv4, 12 bytes: source, destination, ports.
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        header.extend([203, 0, 113, last, 192, 0, 2, 1, 0x12, 0x34, 1, 0xbb]);
        header
    };
    let mut first = TcpStream::connect(port).await.unwrap();
    let hello = client_hello(HOST);
    let begun = [&header(9), &hello[..20]].concat();
    first.write_all(&begun).await.unwrap();
    // The first has been read once a second one is refused.
    with_timeout(async {
        while relay.handle.metrics().refused_address == 0 {
            let mut second = TcpStream::connect(port).await.unwrap();
            second.write_all(&header(9)).await.unwrap();
            second.write_all(&hello).await.unwrap();
            let _ = second.read(&mut [0; 10]).await;
        }
    })
    .await;
    let mut tunnel = relay.tunnel(HOST, ProtocolVersion::V2).await;
    let mut other = TcpStream::connect(port).await.unwrap();
    let whole = [&header(10), &hello[..]].concat();
    other.write_all(&whole).await.unwrap();
    let channel = with_timeout(tunnel.accept()).await.unwrap();
    assert_eq!(channel.peer_ip(), Some("203.0.113.10".parse().unwrap()));
    relay.stop().await;
}

#[tokio::test]
async fn server_accepts_extreme_settings() {
    let relay = Relay::start(ServerConfig {
        expiry_check: Duration::ZERO,
        max_in_flight: usize::MAX,
        max_connections: usize::MAX,
        public_idle: Duration::MAX,
        hello_timeout: Duration::MAX,
        first_byte_timeout: Duration::MAX,
        limits: Limits {
            max_channels: usize::MAX,
            max_unaccepted: usize::MAX,
            ..Limits::default()
        },
        ..support::server_config()
    })
    .await;
    let mut config = relay.config_for("device.example.com", ProtocolVersion::V1, Cipher::AesCbc);
    config.timeouts.ping_interval = Duration::ZERO;
    config.limits.max_channels = usize::MAX;
    let mut tunnel = relay.device(config).await.unwrap();
    let (mut caller, mut channel) = relay.call(&mut tunnel, "device.example.com").await;
    channel.write_all(b"fine").await.unwrap();
    channel.shutdown().await.unwrap();
    let mut received = Vec::new();
    with_timeout(caller.read_to_end(&mut received))
        .await
        .unwrap();
    assert_eq!(received, b"fine");
    relay.stop().await;
}
