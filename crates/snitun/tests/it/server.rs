//! The server over loopback sockets: authentication, routing and shutdown. Its other listeners are
//! in `server_ports.rs`, limits and metrics in `server_limits.rs`.

use std::time::Duration;

use snitun::client::{ClientConfig, ConnectError};
use snitun::server::{FernetKeys, ServerConfig, ServerEvent, TokenContent};
use snitun::{Cipher, CloseReason, HandshakeError, ProtocolVersion, SessionKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{self, Relay, client_hello, noise, seconds_from_now, with_timeout};

const HOST: &str = "device.example.com";

#[tokio::test]
async fn rejected_device_gets_the_reason() {
    let relay = Relay::start(support::server_config()).await;
    let good = || relay.config_for(HOST, ProtocolVersion::V0, Cipher::AesCbc);

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
        let mut config = relay.config_for(HOST, ProtocolVersion::V0, cipher);
        config.key = SessionKey::generate().unwrap().with_cipher(cipher);
        let refused = relay.device(config).await.unwrap_err();
        // An authenticated cipher detects it in the client.
        let expected = match cipher {
            Cipher::AesCbc => matches!(refused, ConnectError::AnswerRefused),
            _ => matches!(refused, ConnectError::Handshake(HandshakeError::Decrypt(_))),
        };
        assert!(expected, "{cipher}: {refused}");
    }

    // For the other ciphers, the challenge for `aes-cbc` is only a beginning.
    let mut config = good();
    config.key = SessionKey::generate().unwrap().aes_gcm_siv().into();
    config.timeouts.handshake = Duration::from_millis(200);
    let refused = relay.device(config).await.unwrap_err();
    assert!(
        matches!(
            refused,
            ConnectError::ShortChallenge {
                received: 32,
                expected: 60
            }
        ),
        "{refused}"
    );

    let mut config = good();
    config.token = "x".repeat(2049).into();
    let refused = relay.device(config).await.unwrap_err();
    assert!(matches!(refused, ConnectError::TokenSize(2049)));
    relay.stop().await;
}

/// Two devices use the same token, and so the same key.
#[tokio::test]
async fn token_is_reusable_unless_cipher_forbids() {
    let relay = Relay::start(support::server_config()).await;
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
async fn token_in_two_segments_is_accepted() {
    let relay = Relay::start(support::server_config()).await;
    let config = relay.config_for(HOST, ProtocolVersion::V0, Cipher::AesCbc);
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (first, second) = config.token.expose().split_at(50);
    stream.write_all(first.as_bytes()).await.unwrap();
    tokio::task::yield_now().await;
    stream.write_all(second.as_bytes()).await.unwrap();
    let mut challenge = [0; 32];
    with_timeout(stream.read_exact(&mut challenge))
        .await
        .unwrap();
    relay.stop().await;
}

#[tokio::test]
async fn unservable_callers_are_closed() {
    let relay = Relay::start(support::server_config()).await;
    let mut tunnel = relay.tunnel(HOST, ProtocolVersion::V0).await;
    let nameless = {
        let mut hello = client_hello("x");
        // The only extension becomes one other than server_name.
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
        // The incomplete hello has two seconds, the others none.
        let closed = with_timeout(caller.read(&mut [0; 10])).await;
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    }
    // None of it reached the tunnel.
    assert_eq!(tunnel.handle().open_channels(), 0);
    let (_caller, _channel) = relay.call(&mut tunnel, HOST).await;
    relay.stop().await;
}

#[tokio::test]
async fn client_hello_byte_by_byte_is_accepted() {
    let relay = Relay::start(support::server_config()).await;
    let mut tunnel = relay.tunnel(HOST, ProtocolVersion::V0).await;
    let mut caller = TcpStream::connect(relay.address).await.unwrap();
    caller.set_nodelay(true).unwrap();
    let hello = client_hello("DEVICE.example.COM");
    for byte in &hello {
        caller.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut channel = with_timeout(tunnel.accept()).await.unwrap();
    let mut first = vec![0; hello.len()];
    with_timeout(channel.read_exact(&mut first)).await.unwrap();
    assert_eq!(first, hello);
    relay.stop().await;
}

#[tokio::test]
async fn devices_connect_disconnect_and_replace() {
    let relay = Relay::start(support::server_config()).await;
    let mut events = relay.handle.subscribe();
    let config_for = || relay.config_for("Device.Example.com", ProtocolVersion::V0, Cipher::AesCbc);
    let connected = || ServerEvent::Connected {
        hostname: HOST.into(),
    };
    let disconnected = |reason| ServerEvent::Disconnected {
        hostname: HOST.into(),
        reason,
    };

    let first = relay.device(config_for()).await.unwrap();
    assert_eq!(with_timeout(events.recv()).await.unwrap(), connected());
    let mut second = relay.device(config_for()).await.unwrap();
    let replaced = disconnected(CloseReason::Replaced);
    assert_eq!(with_timeout(events.recv()).await.unwrap(), replaced);
    assert_eq!(with_timeout(events.recv()).await.unwrap(), connected());
    assert_eq!(
        *with_timeout(first.handle().closed()).await,
        CloseReason::Peer
    );
    assert_eq!(relay.handle.hostnames(), [HOST]);

    // The replacement is reached; the end of the old one does not affect it.
    drop(first);
    let (caller, channel) = relay.call(&mut second, "device.example.com.").await;
    drop((caller, channel));

    assert!(relay.handle.disconnect("DEVICE.example.com"));
    assert_eq!(
        *with_timeout(second.handle().closed()).await,
        CloseReason::Peer
    );
    assert!(with_timeout(second.accept()).await.is_none());
    let by_us = disconnected(CloseReason::Local);
    assert_eq!(with_timeout(events.recv()).await.unwrap(), by_us);
    assert!(!relay.handle.is_connected(HOST));
    assert!(!relay.handle.disconnect(HOST));

    let third = relay.device(config_for()).await.unwrap();
    assert_eq!(with_timeout(events.recv()).await.unwrap(), connected());
    drop(third);
    let by_peer = disconnected(CloseReason::Peer);
    assert_eq!(with_timeout(events.recv()).await.unwrap(), by_peer);
    relay.stop().await;
}

#[tokio::test]
async fn device_is_found_by_alias() {
    let relay = Relay::start(support::server_config()).await;
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
    with_timeout(async {
        while relay.handle.is_connected("alias.example.com") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    relay.stop().await;
}

/// One device's host name is another one's alias.
#[tokio::test]
async fn alias_does_not_shadow_a_hostname() {
    const OTHER: &str = "other.example.com";
    let relay = Relay::start(support::server_config()).await;
    let mut events = relay.handle.subscribe();
    let own = relay.config_for(HOST, ProtocolVersion::V0, Cipher::AesCbc);
    let mut first = relay.device(own).await.unwrap();
    let key = SessionKey::generate().unwrap();
    let mut content = TokenContent::new(OTHER, key, seconds_from_now(60));
    content.alias = vec![HOST.to_uppercase()];
    let token = relay.keys.issue(&content).unwrap();
    let config = ClientConfig::new(token, content.key.aes_cbc());
    let mut second = relay.device(config).await.unwrap();

    assert_eq!(relay.handle.hostnames(), [HOST, OTHER]);
    drop(relay.call(&mut first, HOST).await);
    drop(relay.call(&mut second, OTHER).await);
    drop(first);
    for expected in [
        ServerEvent::Connected {
            hostname: HOST.into(),
        },
        ServerEvent::Connected {
            hostname: OTHER.into(),
        },
        ServerEvent::Disconnected {
            hostname: HOST.into(),
            reason: CloseReason::Peer,
        },
    ] {
        assert_eq!(with_timeout(events.recv()).await.unwrap(), expected);
    }
    // After its owner has disconnected, the alias is used.
    drop(relay.call(&mut second, HOST).await);
    assert_eq!(relay.handle.hostnames(), [OTHER]);
    relay.stop().await;
}

#[tokio::test]
async fn tunnel_ends_when_token_expires() {
    let config = ServerConfig {
        expiry_check: Duration::from_millis(100),
        ..support::server_config()
    };
    let relay = Relay::start(config).await;
    let mut events = relay.handle.subscribe();
    let key = SessionKey::generate().unwrap();
    // Long enough to connect, on the slowest machine.
    let content = TokenContent::new(HOST, key, seconds_from_now(4));
    let token = relay.keys.issue(&content).unwrap();
    let config = ClientConfig::new(token, content.key.aes_cbc());
    let tunnel = relay.device(config).await.unwrap();
    with_timeout(events.recv()).await.unwrap();
    let expired = ServerEvent::Disconnected {
        hostname: HOST.into(),
        reason: CloseReason::Expired,
    };
    assert_eq!(with_timeout(events.recv()).await.unwrap(), expired);
    assert_eq!(
        *with_timeout(tunnel.handle().closed()).await,
        CloseReason::Peer
    );
    relay.stop().await;
}

#[tokio::test]
async fn stop_ends_tunnels_channels_and_callers() {
    let relay = Relay::start(support::server_config()).await;
    let mut events = relay.handle.subscribe();
    let mut tunnel = relay.tunnel(HOST, ProtocolVersion::V0).await;
    with_timeout(events.recv()).await.unwrap();
    let (mut caller, mut channel) = relay.call(&mut tunnel, HOST).await;
    // A connection that has sent nothing does not delay the stop.
    let _silent = TcpStream::connect(relay.address).await.unwrap();
    relay.stop().await;
    let stopped = ServerEvent::Disconnected {
        hostname: HOST.into(),
        reason: CloseReason::Shutdown,
    };
    assert_eq!(with_timeout(events.recv()).await.unwrap(), stopped);
    assert_eq!(
        *with_timeout(tunnel.handle().closed()).await,
        CloseReason::Peer
    );
    assert!(with_timeout(tunnel.accept()).await.is_none());
    assert!(with_timeout(tunnel.handle().ping()).await.is_err());
    with_timeout(channel.read_to_end(&mut Vec::new()))
        .await
        .unwrap();
    let closed = with_timeout(caller.read(&mut [0; 10])).await;
    assert!(matches!(closed, Ok(0) | Err(_)));
}

/// A response in flight when the server stops arrives completely; new connections are refused
/// meanwhile.
#[tokio::test]
async fn stop_lets_callers_finish() {
    let relay = Relay::start(ServerConfig {
        stop_grace: support::LIMIT,
        ..ServerConfig::default()
    })
    .await;
    let mut tunnel = relay.tunnel(HOST, ProtocolVersion::V1).await;
    let (mut caller, mut channel) = relay.call(&mut tunnel, HOST).await;
    let address = relay.address;
    let mut begun = TcpStream::connect(address).await.unwrap();
    begun.write_all(&client_hello(HOST)[..30]).await.unwrap();
    let sent = noise(1, 4_000_000);
    let (first, rest) = sent.split_at(1_000_000);
    channel.write_all(first).await.unwrap();
    let mut received = vec![0; first.len()];
    with_timeout(caller.read_exact(&mut received))
        .await
        .unwrap();

    let stopping = tokio::spawn(relay.stop());
    // The listener is closed, and pending connections are closed too.
    let closed = with_timeout(begun.read(&mut [0; 10])).await;
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    with_timeout(async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!stopping.is_finished());
    let answering = async {
        channel.write_all(rest).await.unwrap();
        channel.shutdown().await.unwrap();
    };
    let ((), read) =
        with_timeout(async { tokio::join!(answering, caller.read_to_end(&mut received)) }).await;
    read.unwrap();
    assert!(received == sent);
    drop(caller);
    with_timeout(stopping).await.unwrap();
    assert_eq!(
        *with_timeout(tunnel.handle().closed()).await,
        CloseReason::Peer
    );
}

#[tokio::test]
async fn key_rotation_keeps_older_tokens_valid() {
    let (old, new) = (FernetKeys::generate_key(), FernetKeys::generate_key());
    let both = FernetKeys::from_keys(&[&*new, &*old]).unwrap();
    let relay = Relay::with_keys(both, support::server_config()).await;
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
