//! The server over real sockets on loopback: whom it lets in, whom it connects, what it bounds and counts, how it stops.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use snitun::client::{ClientConfig, ConnectError};
use snitun::server::{
    FernetKeys, PortRole, ServerConfig, ServerEvent, ServerMetrics, TokenContent,
};
use snitun::{Cipher, CloseReason, HandshakeError, ProtocolVersion, SessionKey};
use support::{Relay, client_hello, noise, seconds_from_now, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HOST: &str = "device.example.com";

#[tokio::test]
async fn whoever_should_not_get_in_is_told_why() {
    let relay = Relay::start(ServerConfig::default()).await;
    let good = || relay.invite(HOST, ProtocolVersion::V0, Cipher::AesCbc);

    let mut config = good();
    config.token = "gAAAAABnot-a-token".into();
    let refused = relay.device(config).await.unwrap_err();
    assert!(matches!(refused, ConnectError::TokenRefused), "{refused}");
    assert!(!refused.is_retryable());

    let key = SessionKey::generate().unwrap();
    let expired = TokenContent::new(HOST, key, seconds_from_now(-2));
    let token = relay.keys.issue(&expired).unwrap();
    let config = ClientConfig::new(token, expired.key.aes_cbc());
    let refused = relay.device(config).await.unwrap_err();
    assert!(matches!(refused, ConnectError::TokenRefused), "{refused}");

    for cipher in Cipher::ALL {
        let mut config = relay.invite(HOST, ProtocolVersion::V0, cipher);
        config.key = SessionKey::generate().unwrap().with_cipher(cipher);
        let refused = relay.device(config).await.unwrap_err();
        // With an authenticated cipher we see it ourselves.
        let expected = match cipher {
            Cipher::AesCbc => matches!(refused, ConnectError::AnswerRefused),
            _ => matches!(refused, ConnectError::Handshake(HandshakeError::BadUnit(_))),
        };
        assert!(expected, "{cipher}: {refused}");
    }

    let mut config = good();
    config.token = "x".repeat(2049).into();
    let refused = relay.device(config).await.unwrap_err();
    assert!(matches!(refused, ConnectError::TokenSize(2049)));
    relay.stop().await;
}

/// The same token, and so the same key, in the hands of two devices.
#[tokio::test]
async fn a_token_is_taken_again_unless_its_cipher_forbids_it() {
    let relay = Relay::start(ServerConfig::default()).await;
    for cipher in Cipher::ALL {
        let key = || SessionKey::new([0x5a; 32], [0xc3; 16]);
        let mut content = TokenContent::new(HOST, key(), seconds_from_now(60));
        content.cipher = cipher;
        let token = relay.keys.issue(&content).unwrap();
        for attempt in 0..3 {
            let config = ClientConfig::new(token.as_str(), key().with_cipher(cipher));
            match relay.device(config).await {
                Ok(tunnel) => {
                    assert!(cipher != Cipher::AesGcm || attempt == 0);
                    drop(tunnel);
                }
                Err(refused) => {
                    assert!(cipher == Cipher::AesGcm && attempt > 0, "{refused}");
                    assert!(matches!(refused, ConnectError::TokenRefused), "{refused}");
                }
            }
        }
    }
    relay.stop().await;
}

#[tokio::test]
async fn a_token_in_two_pieces_is_taken() {
    let relay = Relay::start(ServerConfig::default()).await;
    let config = relay.invite(HOST, ProtocolVersion::V0, Cipher::AesCbc);
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (first, second) = config.token.expose().split_at(50);
    stream.write_all(first.as_bytes()).await.unwrap();
    tokio::task::yield_now().await;
    stream.write_all(second.as_bytes()).await.unwrap();
    let mut challenge = [0; 32];
    within(stream.read_exact(&mut challenge)).await.unwrap();
    relay.stop().await;
}

#[tokio::test]
async fn callers_that_cannot_be_served_are_closed() {
    let relay = Relay::start(ServerConfig::default()).await;
    let config = relay.invite(HOST, ProtocolVersion::V0, Cipher::AesCbc);
    let mut tunnel = relay.device(config).await.unwrap();
    let nameless = {
        let mut hello = client_hello("x");
        // The only extension becomes one that is not server_name.
        let at = hello.len() - 10;
        hello[at + 1] = 99;
        hello
    };
    let unknown = client_hello("other.example.com");
    let half = &client_hello(HOST)[..30];
    for bytes in [
        &nameless[..],
        &unknown,
        b"GET / HTTP/1.1\r\n\r\n",
        half,
        b"",
    ] {
        let mut caller = TcpStream::connect(relay.address).await.unwrap();
        caller.write_all(bytes).await.unwrap();
        if bytes.is_empty() {
            caller.shutdown().await.unwrap();
        }
        // The half hello is given two seconds, the others none.
        let closed = within(caller.read(&mut [0; 10])).await;
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    }
    // The tunnel has seen none of it.
    assert_eq!(tunnel.handle().open_channels(), 0);
    let (_caller, _channel) = relay.call(&mut tunnel, HOST).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_hello_may_come_byte_by_byte() {
    let relay = Relay::start(ServerConfig::default()).await;
    let config = relay.invite(HOST, ProtocolVersion::V0, Cipher::AesCbc);
    let mut tunnel = relay.device(config).await.unwrap();
    let mut caller = TcpStream::connect(relay.address).await.unwrap();
    caller.set_nodelay(true).unwrap();
    let hello = client_hello("DEVICE.example.COM");
    for byte in &hello {
        caller.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut channel = within(tunnel.accept()).await.unwrap();
    let mut first = vec![0; hello.len()];
    within(channel.read_exact(&mut first)).await.unwrap();
    assert_eq!(first, hello);
    relay.stop().await;
}

#[tokio::test]
async fn devices_come_go_and_take_over() {
    let relay = Relay::start(ServerConfig::default()).await;
    let mut events = relay.handle.subscribe();
    let invite = || relay.invite("Device.Example.com", ProtocolVersion::V0, Cipher::AesCbc);
    let connected = || ServerEvent::Connected {
        hostname: HOST.into(),
    };
    let disconnected = |reason| ServerEvent::Disconnected {
        hostname: HOST.into(),
        reason,
    };

    let first = relay.device(invite()).await.unwrap();
    assert_eq!(within(events.recv()).await.unwrap(), connected());
    let mut second = relay.device(invite()).await.unwrap();
    let replaced = disconnected(CloseReason::Replaced);
    assert_eq!(within(events.recv()).await.unwrap(), replaced);
    assert_eq!(within(events.recv()).await.unwrap(), connected());
    assert_eq!(*within(first.handle().closed()).await, CloseReason::Peer);
    assert_eq!(relay.handle.hostnames(), [HOST]);

    // The one that took over is reached; the end of the old one does not disturb it.
    drop(first);
    let (caller, channel) = relay.call(&mut second, "device.example.com.").await;
    drop((caller, channel));

    assert!(relay.handle.disconnect("DEVICE.example.com"));
    assert_eq!(*within(second.handle().closed()).await, CloseReason::Peer);
    assert!(within(second.accept()).await.is_none());
    let by_us = disconnected(CloseReason::Local);
    assert_eq!(within(events.recv()).await.unwrap(), by_us);
    assert!(!relay.handle.is_connected(HOST));
    assert!(!relay.handle.disconnect(HOST));

    let third = relay.device(invite()).await.unwrap();
    assert_eq!(within(events.recv()).await.unwrap(), connected());
    drop(third);
    let by_peer = disconnected(CloseReason::Peer);
    assert_eq!(within(events.recv()).await.unwrap(), by_peer);
    relay.stop().await;
}

#[tokio::test]
async fn a_device_is_found_by_its_aliases_too() {
    let relay = Relay::start(ServerConfig::default()).await;
    let key = SessionKey::generate().unwrap();
    let mut content = TokenContent::new(HOST, key, seconds_from_now(60));
    content.alias = vec!["Alias.example.com".into()];
    let token = relay.keys.issue(&content).unwrap();
    let config = ClientConfig::new(token, content.key.aes_cbc());
    let mut tunnel = relay.device(config).await.unwrap();
    let (_caller, _channel) = relay.call(&mut tunnel, "alias.example.com").await;
    assert!(relay.handle.is_connected("alias.example.com"));
    assert_eq!(relay.handle.hostnames(), [HOST]);
    drop(tunnel);
    within(async {
        while relay.handle.is_connected("alias.example.com") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    relay.stop().await;
}

#[tokio::test]
async fn a_tunnel_ends_when_its_token_has_run_out() {
    let config = ServerConfig {
        expiry_check: Duration::from_millis(100),
        ..ServerConfig::default()
    };
    let relay = Relay::start(config).await;
    let mut events = relay.handle.subscribe();
    let key = SessionKey::generate().unwrap();
    let content = TokenContent::new(HOST, key, seconds_from_now(1));
    let token = relay.keys.issue(&content).unwrap();
    let config = ClientConfig::new(token, content.key.aes_cbc());
    let tunnel = relay.device(config).await.unwrap();
    within(events.recv()).await.unwrap();
    let expired = ServerEvent::Disconnected {
        hostname: HOST.into(),
        reason: CloseReason::Expired,
    };
    assert_eq!(within(events.recv()).await.unwrap(), expired);
    assert_eq!(*within(tunnel.handle().closed()).await, CloseReason::Peer);
    relay.stop().await;
}

#[tokio::test]
async fn stopping_the_server_ends_tunnels_channels_and_callers() {
    let relay = Relay::start(ServerConfig::default()).await;
    let mut events = relay.handle.subscribe();
    let config = relay.invite(HOST, ProtocolVersion::V0, Cipher::AesCbc);
    let mut tunnel = relay.device(config).await.unwrap();
    within(events.recv()).await.unwrap();
    let (mut caller, mut channel) = relay.call(&mut tunnel, HOST).await;
    // Someone who has not even said what it wants does not hold it up.
    let _silent = TcpStream::connect(relay.address).await.unwrap();
    relay.stop().await;
    let stopped = ServerEvent::Disconnected {
        hostname: HOST.into(),
        reason: CloseReason::Shutdown,
    };
    assert_eq!(within(events.recv()).await.unwrap(), stopped);
    assert_eq!(*within(tunnel.handle().closed()).await, CloseReason::Peer);
    assert!(within(tunnel.accept()).await.is_none());
    assert!(within(tunnel.handle().ping()).await.is_err());
    within(channel.read_to_end(&mut Vec::new())).await.unwrap();
    let closed = within(caller.read(&mut [0; 10])).await;
    assert!(matches!(closed, Ok(0) | Err(_)));
}

/// Sends `bytes` to the server and tells whether it hangs up without having sent anything.
async fn is_closed(address: SocketAddr, bytes: &[u8]) -> bool {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    matches!(within(stream.read(&mut [0; 10])).await, Ok(0) | Err(_))
}

#[tokio::test]
async fn ports_for_devices_and_for_callers_take_nobody_else() {
    let relay = Relay::start(ServerConfig::default()).await;
    let (devices, _) = relay.port(PortRole::Devices, false).await;
    let (callers, _) = relay.port(PortRole::Callers, true).await;
    let config = relay.invite(HOST, ProtocolVersion::V2, Cipher::AesCbc);
    let token = config.token.expose().to_owned();
    let hello = client_hello(HOST);
    let proxied = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n";
    assert!(is_closed(devices, &hello).await);
    assert!(is_closed(callers, &[&proxied[..], token.as_bytes()].concat()).await);
    // A header is demanded where it is switched on, and no ClientHello where it is not.
    assert!(is_closed(callers, &hello).await);
    assert!(is_closed(relay.address, &[&proxied[..], &hello].concat()).await);

    let stream = TcpStream::connect(devices).await.unwrap();
    let mut tunnel = within(snitun::client::connect(stream, config))
        .await
        .unwrap();
    // The header may come in pieces, and together with what follows.
    let mut caller = TcpStream::connect(callers).await.unwrap();
    caller.set_nodelay(true).unwrap();
    for byte in &proxied[..20] {
        caller.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let rest = [&proxied[20..], &hello].concat();
    caller.write_all(&rest).await.unwrap();
    let mut channel = within(tunnel.accept()).await.unwrap();
    assert_eq!(channel.peer_ip(), Some("2001:db8::7".parse().unwrap()));
    let mut first = vec![0; hello.len()];
    within(channel.read_exact(&mut first)).await.unwrap();
    assert_eq!(first, hello);
    relay.stop().await;
}

#[tokio::test]
async fn connections_that_say_nothing_are_limited() {
    for (max_in_flight, max_in_flight_per_address) in [(3, 100), (100, 3)] {
        let relay = Relay::start(ServerConfig {
            max_in_flight,
            max_in_flight_per_address,
            first_byte_timeout: support::LIMIT,
            ..ServerConfig::default()
        })
        .await;
        let mut silent = Vec::new();
        for _ in 0..3 {
            silent.push(TcpStream::connect(relay.address).await.unwrap());
        }
        assert!(is_closed(relay.address, b"").await);
        // Once they have gone there is room again: a caller gets as far as to be told that nobody is there.
        drop(silent);
        let config = || relay.invite(HOST, ProtocolVersion::V0, Cipher::AesCbc);
        within(async {
            while relay.device(config()).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        relay.stop().await;
    }
}

/// Waits until the server's counts are as `expected` says.
async fn counted(relay: &Relay, expected: impl Fn(&ServerMetrics) -> bool) -> ServerMetrics {
    within(async {
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
async fn what_is_carried_is_counted_on_both_sides() {
    let relay = Relay::start(ServerConfig::default()).await;
    let config = relay.invite(HOST, ProtocolVersion::V1, Cipher::AesCbc);
    let mut tunnel = relay.device(config).await.unwrap();
    let handle = tunnel.handle();
    let (mut caller, mut channel) = relay.call(&mut tunnel, HOST).await;
    let up = (client_hello(HOST).len() + 1000) as u64;
    caller.write_all(&[1; 1000]).await.unwrap();
    channel.write_all(&[2; 70_000]).await.unwrap();
    within(channel.read_exact(&mut [0; 1000])).await.unwrap();
    within(caller.read_exact(&mut [0; 70_000])).await.unwrap();
    let stats = handle.stats();
    assert_eq!((stats.bytes_received, stats.bytes_sent), (up, 70_000));
    assert_eq!((stats.channels_opened, stats.channels_refused), (1, 0));
    let metrics = relay.handle.metrics();
    assert_eq!(metrics.tunnels_up, 1);
    assert_eq!((metrics.connections, metrics.callers_connected), (2, 1));
    let carried = metrics.tunnels;
    assert_eq!((carried.bytes_received, carried.bytes_sent), (70_000, up));

    // A tunnel's counts outlive it.
    drop((caller, channel, tunnel));
    let metrics = counted(&relay, |metrics| metrics.tunnels_up == 0).await;
    assert_eq!(metrics.tunnels, carried);
    assert_eq!(handle.stats().bytes_sent, 70_000);
    let json = serde_json::to_value(&metrics).unwrap();
    assert_eq!(json["tunnels"]["channels_opened"], 1);
    relay.stop().await;
}

#[tokio::test]
async fn who_is_not_let_in_or_connected_is_counted_by_the_reason() {
    let relay = Relay::start(ServerConfig {
        hello_timeout: Duration::from_millis(50),
        max_spent_keys: 1,
        ..ServerConfig::default()
    })
    .await;
    let invite = |cipher| relay.invite(HOST, ProtocolVersion::V0, cipher);
    let mut forged = invite(Cipher::AesCbc);
    forged.token = "gAAAAABnot-a-token".into();
    let mut expired = TokenContent::new(HOST, SessionKey::generate().unwrap(), 1);
    expired.cipher = Cipher::AesGcm;
    let expired = relay.keys.issue(&expired).unwrap();
    let expired = ClientConfig::new(expired, SessionKey::generate().unwrap().aes_gcm().into());
    let mut impostor = invite(Cipher::AesCbc);
    impostor.key = SessionKey::generate().unwrap().aes_cbc().into();
    for config in [forged, expired, impostor] {
        relay.device(config).await.unwrap_err();
    }
    let mut tunnel = relay.device(invite(Cipher::AesGcm)).await.unwrap();
    relay.device(invite(Cipher::AesGcm)).await.unwrap_err();

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
async fn fernet_keys_are_replaced_without_refusing_older_tokens() {
    let (old, new) = (FernetKeys::generate_key(), FernetKeys::generate_key());
    let both = FernetKeys::from_keys(&[&*new, &*old]).unwrap();
    let relay = Relay::with_keys(both, ServerConfig::default()).await;
    for (key, let_in) in [
        (&*old, true),
        (&*new, true),
        (&*FernetKeys::generate_key(), false),
    ] {
        let issuer = FernetKeys::from_keys(&[key]).unwrap();
        let key = SessionKey::generate().unwrap();
        let content = TokenContent::new(HOST, key, seconds_from_now(60));
        let token = issuer.issue(&content).unwrap();
        let config = ClientConfig::new(token, content.key.aes_cbc());
        assert_eq!(relay.device(config).await.is_ok(), let_in);
    }
    relay.stop().await;
}

#[tokio::test]
async fn a_throttled_server_spaces_what_it_sends() {
    let relay = Relay::start(ServerConfig {
        throttling: NonZeroU32::new(50),
        ..ServerConfig::default()
    })
    .await;
    let config = relay.invite(HOST, ProtocolVersion::V0, Cipher::AesCbc);
    let mut tunnel = relay.device(config).await.unwrap();
    let (mut caller, mut channel) = relay.call(&mut tunnel, HOST).await;
    let begun = Instant::now();
    // Ten frames at least, of 64 KiB at most, with 20 ms behind each.
    let sent = noise(1, 10 * 64 * 1024);
    let mut received = vec![0; sent.len()];
    let (written, read) =
        within(async { tokio::join!(caller.write_all(&sent), channel.read_exact(&mut received)) })
            .await;
    written.unwrap();
    read.unwrap();
    assert!(sent == received);
    assert!(begun.elapsed() >= Duration::from_millis(9 * 20));
    assert!(relay.handle.metrics().tunnels.throttled >= 9);
    relay.stop().await;
}

#[tokio::test]
async fn connections_are_limited_in_number_and_in_time() {
    let mut config = ServerConfig {
        max_connections: 2,
        public_idle: Duration::from_millis(300),
        ..ServerConfig::default()
    };
    config.timeouts.handshake = Duration::from_millis(300);
    let relay = Relay::start(config).await;
    // A device that does not answer its challenge has its time.
    let config = relay.invite(HOST, ProtocolVersion::V0, Cipher::AesCbc);
    let mut silent = TcpStream::connect(relay.address).await.unwrap();
    let token = config.token.expose().as_bytes();
    silent.write_all(token).await.unwrap();
    let mut challenge = Vec::new();
    within(silent.read_to_end(&mut challenge)).await.unwrap();
    assert_eq!(challenge.len(), 32);
    counted(&relay, |metrics| metrics.devices_gave_up == 1).await;

    let mut tunnel = relay.device(config).await.unwrap();
    let (mut caller, _channel) = relay.call(&mut tunnel, HOST).await;
    assert!(is_closed(relay.address, &client_hello(HOST)).await);
    assert_eq!(relay.handle.metrics().refused_busy, 1);
    // The caller says nothing more, and makes room.
    let idle = within(caller.read(&mut [0; 10])).await;
    assert!(matches!(idle, Ok(0) | Err(_)), "{idle:?}");
    let _next = relay.call(&mut tunnel, HOST).await;
    relay.stop().await;
}

/// Behind a load balancer all connections come from one address: whom they are for counts.
#[tokio::test]
async fn proxied_callers_are_limited_by_their_own_address() {
    let relay = Relay::start(ServerConfig {
        max_in_flight_per_address: 1,
        hello_timeout: support::LIMIT,
        first_byte_timeout: support::LIMIT,
        ..ServerConfig::default()
    })
    .await;
    let (port, _) = relay.port(PortRole::Callers, true).await;
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
    // The first has been read as soon as a second one is refused.
    within(async {
        while relay.handle.metrics().refused_address == 0 {
            let mut second = TcpStream::connect(port).await.unwrap();
            second.write_all(&header(9)).await.unwrap();
            second.write_all(&hello).await.unwrap();
            let _ = second.read(&mut [0; 10]).await;
        }
    })
    .await;
    let config = relay.invite(HOST, ProtocolVersion::V2, Cipher::AesCbc);
    let mut tunnel = relay.device(config).await.unwrap();
    let mut other = TcpStream::connect(port).await.unwrap();
    let whole = [&header(10), &hello[..]].concat();
    other.write_all(&whole).await.unwrap();
    let channel = within(tunnel.accept()).await.unwrap();
    assert_eq!(channel.peer_ip(), Some("203.0.113.10".parse().unwrap()));
    relay.stop().await;
}
