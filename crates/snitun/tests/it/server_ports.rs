//! Listeners for devices only and for callers only, PROXY headers, and channels opened through the
//! handle.

use std::time::SystemTime;

use snitun::client::{ClientConfig, ConnectError};
use snitun::server::{Authenticator, ListenerRole, TokenContent, TokenError};
use snitun::{Cipher, CloseReason, OpenError, ProtocolVersion, SessionKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{self, Relay, client_hello, is_closed, seconds_from_now, with_timeout};

const HOST: &str = "device.example.com";

#[tokio::test]
async fn handle_opens_a_channel() {
    let relay = Relay::start(support::server_config()).await;
    let refused = relay.handle.open(HOST, None).unwrap_err();
    assert_eq!(refused, OpenError::NoDevice);
    let config = relay.config_for(HOST, ProtocolVersion::V2, Cipher::AesGcmSiv);
    let mut device = relay.device(config).await.unwrap();
    let caller = "2001:db8::7".parse().unwrap();
    let mut ours = relay
        .handle
        .open("Device.Example.com.", Some(caller))
        .unwrap();
    let mut theirs = with_timeout(device.accept()).await.unwrap();
    assert_eq!(theirs.peer_ip(), Some(caller));
    ours.write_all(b"question").await.unwrap();
    with_timeout(theirs.read_exact(&mut [0; 8])).await.unwrap();
    theirs.write_all(b"answer").await.unwrap();
    drop(theirs);
    let mut answer = String::new();
    with_timeout(ours.read_to_string(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer, "answer");

    assert!(relay.handle.tunnel("other.example.com").is_none());
    let tunnel = relay.handle.tunnel(HOST).unwrap();
    with_timeout(tunnel.ping()).await.unwrap();
    let stats = tunnel.stats();
    assert_eq!((stats.bytes_sent, stats.bytes_received), (8, 6));
    relay.stop().await;
    assert_eq!(*with_timeout(tunnel.closed()).await, CloseReason::Shutdown);
}

#[tokio::test]
async fn listeners_accept_only_their_role() {
    let relay = Relay::start(support::server_config()).await;
    let (devices, _) = relay.port(ListenerRole::Devices, false).await;
    let (callers, _) = relay.port(ListenerRole::Callers, true).await;
    let config = relay.config_for(HOST, ProtocolVersion::V2, Cipher::AesCbc);
    let token = config.token.expose().to_owned();
    let hello = client_hello(HOST);
    let proxied = b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n";
    assert!(is_closed(devices, &hello).await);
    assert!(is_closed(callers, &[&proxied[..], token.as_bytes()].concat()).await);
    // A header is required where it is enabled; a ClientHello is rejected where it is not.
    assert!(is_closed(callers, &hello).await);
    assert!(is_closed(relay.address, &[&proxied[..], &hello].concat()).await);

    let stream = TcpStream::connect(devices).await.unwrap();
    let mut tunnel = with_timeout(snitun::client::connect(stream, config))
        .await
        .unwrap();
    // The header may arrive in pieces, and together with the data after it.
    let mut caller = TcpStream::connect(callers).await.unwrap();
    caller.set_nodelay(true).unwrap();
    for byte in &proxied[..20] {
        caller.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let rest = [&proxied[20..], &hello].concat();
    caller.write_all(&rest).await.unwrap();
    let mut channel = with_timeout(tunnel.accept()).await.unwrap();
    assert_eq!(channel.peer_ip(), Some("2001:db8::7".parse().unwrap()));
    let mut first = vec![0; hello.len()];
    with_timeout(channel.read_exact(&mut first)).await.unwrap();
    assert_eq!(first, hello);
    relay.stop().await;
}

/// Accepts tokens of another kind, unless its backend is unavailable.
struct PassPhrase;

impl Authenticator for PassPhrase {
    async fn authenticate(&self, token: &str, _: SystemTime) -> Result<TokenContent, TokenError> {
        match token {
            "open, sesame" => {
                let key = SessionKey::new([7; 32], [9; 16]);
                Ok(TokenContent::new(HOST, key, seconds_from_now(60)))
            }
            "are you there?" => Err(TokenError::Unavailable),
            _ => Err(TokenError::Invalid),
        }
    }
}

#[tokio::test]
async fn device_listener_accepts_any_known_token() {
    let relay = Relay::start_with(PassPhrase, support::server_config()).await;
    let (devices, _) = relay.port(ListenerRole::Devices, false).await;
    let connect = async |address, token: &str| {
        let key = SessionKey::new([7; 32], [9; 16]).aes_cbc();
        let stream = TcpStream::connect(address).await.unwrap();
        with_timeout(snitun::client::connect(
            stream,
            ClientConfig::new(token, key),
        ))
        .await
    };
    let mut tunnel = connect(devices, "open, sesame").await.unwrap();
    drop(relay.call(&mut tunnel, HOST).await);
    let refused = connect(devices, "open, pepper").await.unwrap_err();
    assert!(matches!(refused, ConnectError::TokenRefused), "{refused}");
    let refused = connect(devices, "are you there?").await.unwrap_err();
    assert!(matches!(refused, ConnectError::TokenRefused), "{refused}");
    // A listener for callers too distinguishes them by the first bytes.
    let refused = connect(relay.address, "open, sesame").await.unwrap_err();
    assert!(matches!(refused, ConnectError::TokenRefused), "{refused}");
    let metrics = relay.handle.metrics();
    assert_eq!(metrics.devices_connected, 1);
    assert_eq!(metrics.devices_bad_token, 1);
    assert_eq!(metrics.devices_unchecked_token, 1);
    assert_eq!(metrics.refused_unknown, 1);
    relay.stop().await;
}

#[tokio::test]
async fn ipv4_caller_address_is_canonical_on_dual_stack() {
    let relay = Relay::start(support::server_config()).await;
    let config = relay.config_for("device.example.com", ProtocolVersion::V0, Cipher::AesCbc);
    let _tunnel = relay.device(config).await.unwrap();
    let seen: std::net::IpAddr = "::ffff:192.0.2.7".parse().unwrap();
    let channel = relay.handle.open("device.example.com", Some(seen)).unwrap();
    assert_eq!(channel.peer_ip(), Some("192.0.2.7".parse().unwrap()));
    relay.stop().await;
}
