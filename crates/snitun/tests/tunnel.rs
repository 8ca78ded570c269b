//! Client and server over real sockets on loopback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::time::Duration;

use snitun::client::{ClientConfig, ConnectError};
use snitun::server::{PortRole, ServerConfig, ServerEvent, TokenContent};
use snitun::{
    ChannelError, Cipher, CloseReason, HandshakeError, KeyError, ProtocolVersion, SessionKey,
};
use support::{Relay, client_hello, noise, seconds_from_now, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_channels_carry_megabytes_both_ways() {
    const CHANNELS: usize = 50;
    const SIZE: usize = 1024 * 1024;

    // All of them begin at once; on a busy machine the last gets its turn late.
    let relay = Relay::start(ServerConfig {
        first_byte_timeout: support::LIMIT,
        hello_timeout: support::LIMIT,
        ..ServerConfig::default()
    })
    .await;
    let config = relay.invite("device.example.com", ProtocolVersion::V0, Cipher::AesCbc);
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
    within(async {
        while let Some(caller) = callers.join_next().await {
            caller.unwrap();
        }
    })
    .await;
    let tunnel = within(device).await.unwrap();
    drop(tunnel);
    relay.stop().await;
}

#[tokio::test]
async fn every_version_and_cipher_carries_data_and_addresses() {
    let relay = Relay::start(ServerConfig::default()).await;
    for version in ProtocolVersion::ALL {
        for cipher in Cipher::ALL {
            let config = relay.invite("device.example.com", version, cipher);
            let mut tunnel = relay.device(config).await.unwrap();
            let (mut caller, mut channel) = relay.call(&mut tunnel, "device.example.com").await;
            assert_eq!(channel.peer_ip(), Some("127.0.0.1".parse().unwrap()));
            channel.write_all(b"down").await.unwrap();
            caller.write_all(b"up").await.unwrap();
            let (mut down, mut up) = ([0; 4], [0; 2]);
            within(caller.read_exact(&mut down)).await.unwrap();
            within(channel.read_exact(&mut up)).await.unwrap();
            assert_eq!((&down, &up), (b"down", b"up"));
        }
    }
    relay.stop().await;
}

#[tokio::test]
async fn whoever_should_not_get_in_is_told_why() {
    let relay = Relay::start(ServerConfig::default()).await;
    let good = || relay.invite("device.example.com", ProtocolVersion::V0, Cipher::AesCbc);

    let mut config = good();
    config.token = "gAAAAABnot-a-token".into();
    let refused = relay.device(config).await.unwrap_err();
    assert!(matches!(refused, ConnectError::TokenRefused), "{refused}");
    assert!(!refused.is_retryable());

    let key = SessionKey::generate().unwrap();
    let expired = TokenContent::new("device.example.com", key.clone(), seconds_from_now(-2));
    let config = ClientConfig::new(relay.keys.issue(&expired).unwrap(), key);
    let refused = relay.device(config).await.unwrap_err();
    assert!(matches!(refused, ConnectError::TokenRefused), "{refused}");

    for cipher in Cipher::ALL {
        let mut config = relay.invite("device.example.com", ProtocolVersion::V0, cipher);
        config.key = SessionKey::generate().unwrap();
        let refused = relay.device(config).await.unwrap_err();
        // With an authenticated cipher we see it ourselves.
        let expected = match cipher {
            Cipher::AesCbc => matches!(refused, ConnectError::AnswerRefused),
            _ => matches!(refused, ConnectError::Handshake(HandshakeError::BadUnit(_))),
        };
        assert!(expected, "{cipher}: {refused}");
    }

    let config = relay.invite("device.example.com", ProtocolVersion::V0, Cipher::AesGcm);
    drop(relay.device(config.clone()).await.unwrap());
    let refused = relay.device(config).await.unwrap_err();
    let reused = HandshakeError::Key(KeyError::AlreadyUsed);
    assert!(matches!(refused, ConnectError::Handshake(error) if error == reused));

    let mut config = good();
    config.token = "x".repeat(2049).into();
    let refused = relay.device(config).await.unwrap_err();
    assert!(matches!(refused, ConnectError::TokenSize(2049)));
    relay.stop().await;
}

#[tokio::test]
async fn a_token_in_two_pieces_is_taken() {
    let relay = Relay::start(ServerConfig::default()).await;
    let config = relay.invite("device.example.com", ProtocolVersion::V0, Cipher::AesCbc);
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
    let config = relay.invite("device.example.com", ProtocolVersion::V0, Cipher::AesCbc);
    let mut tunnel = relay.device(config).await.unwrap();
    let nameless = {
        let mut hello = client_hello("x");
        // The only extension becomes one that is not server_name.
        let at = hello.len() - 10;
        hello[at + 1] = 99;
        hello
    };
    let unknown = client_hello("other.example.com");
    let half = &client_hello("device.example.com")[..30];
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
    let (_caller, _channel) = relay.call(&mut tunnel, "device.example.com").await;
    relay.stop().await;
}

#[tokio::test]
async fn a_hello_may_come_byte_by_byte() {
    let relay = Relay::start(ServerConfig::default()).await;
    let config = relay.invite("device.example.com", ProtocolVersion::V0, Cipher::AesCbc);
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
async fn a_close_on_either_side_delivers_what_was_written() {
    let relay = Relay::start(ServerConfig::default()).await;
    let config = relay.invite("device.example.com", ProtocolVersion::V1, Cipher::AesCbc);
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
    within(caller.read_to_end(&mut received)).await.unwrap();
    assert!(received == data);
    within(device).await.unwrap();

    let (mut caller, mut channel) = relay.call(&mut tunnel, "device.example.com").await;
    let sent = data.clone();
    let caller = tokio::spawn(async move {
        caller.write_all(&sent).await.unwrap();
        caller.shutdown().await.unwrap();
        caller
    });
    let mut received = Vec::new();
    within(channel.read_to_end(&mut received)).await.unwrap();
    assert!(received == data);
    let failed = channel.write_all(b"late").await.unwrap_err();
    assert_eq!(failed.kind(), std::io::ErrorKind::BrokenPipe);
    drop(within(caller).await.unwrap());
    relay.stop().await;
}

#[tokio::test]
async fn a_caller_that_goes_away_mid_transfer_ends_its_channel_only() {
    let relay = Relay::start(ServerConfig::default()).await;
    let config = relay.invite("device.example.com", ProtocolVersion::V0, Cipher::AesCbc);
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
    within(caller.read_exact(&mut [0; 1000])).await.unwrap();
    drop(caller);
    assert_eq!(
        within(endless).await.unwrap(),
        std::io::ErrorKind::BrokenPipe
    );
    other_channel.write_all(b"still here").await.unwrap();
    let mut read = [0; 10];
    within(other.read_exact(&mut read)).await.unwrap();
    assert_eq!(&read, b"still here");
    relay.stop().await;
}

/// A device that does not read one channel; yields what became of it once `total` bytes were sent on that one.
async fn slow_reader(version: ProtocolVersion, total: usize) -> std::io::Result<usize> {
    let relay = Relay::start(ServerConfig::default()).await;
    let mut config = relay.invite("device.example.com", version, Cipher::AesCbc);
    // What is under way when PAUSE goes out, in the buffers of two sockets, has to fit.
    config.limits.receive_per_channel = 16_000_000;
    config.limits.pause_above = 500_000;
    config.limits.resume_below = 100_000;
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
        let number = within(quick_channel.read_u32()).await.unwrap();
        quick_channel.write_u32(number).await.unwrap();
        assert_eq!(within(quick.read_u32()).await.unwrap(), round);
    }
    if !version.has_flow_control() {
        // Without flow control all of it comes, and the channel goes at its limit.
        drop(within(flood).await.unwrap());
        within(async {
            while tunnel.handle().open_channels() > 1 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    let mut received = Vec::new();
    let result = within(slow_channel.read_to_end(&mut received)).await;
    assert_eq!(tunnel.handle().open_channels(), 1);
    drop((quick, quick_channel));
    relay.stop().await;
    result
}

#[tokio::test]
async fn a_slow_reader_is_waited_for_where_the_version_can() {
    let read = slow_reader(ProtocolVersion::V1, 40_000_000).await;
    assert_eq!(read.unwrap(), 40_000_000);
}

#[tokio::test]
async fn a_slow_reader_loses_its_channel_where_the_version_cannot_wait() {
    let read = slow_reader(ProtocolVersion::V0, 40_000_000).await;
    let error = read.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let inner = error.get_ref().unwrap().downcast_ref::<ChannelError>();
    assert_eq!(inner, Some(&ChannelError::Overrun));
}

#[tokio::test]
async fn devices_come_go_and_take_over() {
    let relay = Relay::start(ServerConfig::default()).await;
    let mut events = relay.handle.subscribe();
    let invite = || relay.invite("Device.Example.com", ProtocolVersion::V0, Cipher::AesCbc);
    let connected = || ServerEvent::Connected {
        hostname: "device.example.com".into(),
    };
    let disconnected = |reason| ServerEvent::Disconnected {
        hostname: "device.example.com".into(),
        reason,
    };

    let first = relay.device(invite()).await.unwrap();
    assert_eq!(within(events.recv()).await.unwrap(), connected());
    let mut second = relay.device(invite()).await.unwrap();
    let replaced = disconnected(CloseReason::Replaced);
    assert_eq!(within(events.recv()).await.unwrap(), replaced);
    assert_eq!(within(events.recv()).await.unwrap(), connected());
    assert_eq!(*within(first.handle().closed()).await, CloseReason::Peer);
    assert_eq!(relay.handle.hostnames(), ["device.example.com"]);

    // The one that took over is reached; the end of the old one does not disturb it.
    drop(first);
    let (caller, channel) = relay.call(&mut second, "device.example.com.").await;
    drop((caller, channel));

    assert!(relay.handle.disconnect("DEVICE.example.com"));
    assert_eq!(*within(second.handle().closed()).await, CloseReason::Peer);
    assert!(within(second.accept()).await.is_none());
    let by_us = disconnected(CloseReason::Local);
    assert_eq!(within(events.recv()).await.unwrap(), by_us);
    assert!(!relay.handle.is_connected("device.example.com"));
    assert!(!relay.handle.disconnect("device.example.com"));

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
    let mut content = TokenContent::new("device.example.com", key.clone(), seconds_from_now(60));
    content.alias = vec!["Alias.example.com".into()];
    let config = ClientConfig::new(relay.keys.issue(&content).unwrap(), key);
    let mut tunnel = relay.device(config).await.unwrap();
    let (_caller, _channel) = relay.call(&mut tunnel, "alias.example.com").await;
    assert!(relay.handle.is_connected("alias.example.com"));
    assert_eq!(relay.handle.hostnames(), ["device.example.com"]);
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
    let content = TokenContent::new("device.example.com", key.clone(), seconds_from_now(1));
    let config = ClientConfig::new(relay.keys.issue(&content).unwrap(), key);
    let tunnel = relay.device(config).await.unwrap();
    within(events.recv()).await.unwrap();
    let expired = ServerEvent::Disconnected {
        hostname: "device.example.com".into(),
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
    let config = relay.invite("device.example.com", ProtocolVersion::V0, Cipher::AesCbc);
    let mut tunnel = relay.device(config).await.unwrap();
    within(events.recv()).await.unwrap();
    let (mut caller, mut channel) = relay.call(&mut tunnel, "device.example.com").await;
    // Someone who has not even said what it wants does not hold it up.
    let _silent = TcpStream::connect(relay.address).await.unwrap();
    relay.stop().await;
    let stopped = ServerEvent::Disconnected {
        hostname: "device.example.com".into(),
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

#[tokio::test]
async fn closing_a_tunnel_delivers_what_its_channels_have_written() {
    let relay = Relay::start(ServerConfig::default()).await;
    let config = relay.invite("device.example.com", ProtocolVersion::V2, Cipher::AesGcmSiv);
    let mut tunnel = relay.device(config).await.unwrap();
    let (mut caller, mut channel) = relay.call(&mut tunnel, "device.example.com").await;
    let data = noise(3, 200_000);
    channel.write_all(&data).await.unwrap();
    let handle = tunnel.handle();
    handle.close();
    assert_eq!(*within(handle.closed()).await, CloseReason::Local);
    let mut received = Vec::new();
    within(caller.read_to_end(&mut received)).await.unwrap();
    assert!(received == data);
    let cut = channel.read_u8().await.unwrap_err();
    assert_eq!(cut.kind(), std::io::ErrorKind::ConnectionReset);
    relay.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_not_waited_for_forever() {
    let key = SessionKey::generate().unwrap();
    let config = || ClientConfig::new("gAAA", key.clone());
    let (ours, theirs) = tokio::io::duplex(4096);
    let failed = snitun::client::connect(ours, config()).await.unwrap_err();
    assert!(matches!(failed, ConnectError::TimedOut(_)), "{failed}");
    assert!(failed.is_retryable());
    drop(theirs);

    // One that sends a challenge and then nothing.
    let (ours, mut theirs) = tokio::io::duplex(4096);
    theirs.write_all(&[9; 32]).await.unwrap();
    let failed = snitun::client::connect(ours, config()).await.unwrap_err();
    assert!(matches!(failed, ConnectError::TimedOut(_)), "{failed}");
    // The token, the answer and the ping have come, and then the end: nothing was left running.
    let mut sent = Vec::new();
    within(theirs.read_to_end(&mut sent)).await.unwrap();
    assert_eq!(sent.len(), 4 + 32 + 32);
}

/// Sends `bytes` to the server and tells whether it hangs up without having sent anything.
async fn is_closed(address: std::net::SocketAddr, bytes: &[u8]) -> bool {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    matches!(within(stream.read(&mut [0; 10])).await, Ok(0) | Err(_))
}

#[tokio::test]
async fn ports_for_devices_and_for_callers_take_nobody_else() {
    let relay = Relay::start(ServerConfig::default()).await;
    let (devices, _) = relay.port(PortRole::Devices, false).await;
    let (callers, _) = relay.port(PortRole::Callers, true).await;
    let config = relay.invite("device.example.com", ProtocolVersion::V2, Cipher::AesCbc);
    let token = config.token.expose().to_owned();
    let hello = client_hello("device.example.com");
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
        let config = relay.invite("device.example.com", ProtocolVersion::V0, Cipher::AesCbc);
        within(async {
            while relay.device(config.clone()).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        relay.stop().await;
    }
}
