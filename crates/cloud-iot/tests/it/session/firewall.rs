//! Firewalls that allow TCP but not TLS on the main port: the session uses the fallback port.

use std::time::Duration;

use cloud_iot::{Cause, FallbackPort, Session, TlsCause, tls::ALPN_AWS_MQTT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::common::*;
use crate::support::pki::{Flaw, Pki};

/// What the firewall does with a connection once the handshake has started.
#[derive(Debug, Clone, Copy)]
enum Firewall {
    Resets,
    Closes,
    Answers,
    IsSilent,
}

impl Firewall {
    /// Its port, for as long as the tasks live.
    async fn open(self) -> (u16, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut held = Vec::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                held.extend(self.treat(stream).await);
            }
        });
        (port, tasks)
    }

    /// The connection, if it stays open.
    async fn treat(self, mut stream: TcpStream) -> Option<TcpStream> {
        stream.readable().await.unwrap();
        let mut hello = [0; 4096];
        match self {
            // Unread data makes this a reset.
            Self::Resets => return None,
            Self::Closes => {
                assert!(stream.read(&mut hello).await.unwrap() > 0);
                return None;
            }
            Self::Answers => {
                let page = b"HTTP/1.1 403 Forbidden\r\n\r\nblocked";
                stream.write_all(page).await.unwrap();
            }
            Self::IsSilent => {}
        }
        Some(stream)
    }
}

async fn gets_out(firewall: Firewall, cause: Cause) {
    let pki = Pki::new();
    let peer = Peer::listen_with_alpn(&pki, ALPN_AWS_MQTT).await;
    let (port, _tasks) = firewall.open().await;
    let mut config = config(&pki, port, "device");
    config.fallback_port = FallbackPort::Port(peer.port);
    config.timeouts.connect = Duration::from_secs(1);
    let session = Session::builder(config).start().unwrap();
    let mut events = session.events();
    assert_eq!(*lost(&mut events).await, cause, "{firewall:?}");
    let _link = peer.online(&session).await;
    assert_eq!(session.port(), peer.port);
    session.stop(STOP).await;
}

#[tokio::test]
async fn firewall_aborts_handshake() {
    for firewall in [Firewall::Resets, Firewall::Closes] {
        gets_out(firewall, Cause::Tls(TlsCause::HandshakeAborted)).await;
    }
}

#[tokio::test]
async fn firewall_answers_with_http_page() {
    gets_out(Firewall::Answers, Cause::Tls(TlsCause::NotTls)).await;
}

#[tokio::test]
async fn firewall_drops_silently() {
    gets_out(Firewall::IsSilent, Cause::ConnectTimeout).await;
}

/// The server itself answered, and it answers the same on every port.
#[tokio::test]
async fn untrusted_server_is_no_firewall() {
    for flaw in [Flaw::OtherName, Flaw::Expired] {
        let pki = Pki::new();
        let peer = Peer::listen(pki.server(flaw)).await;
        let mut config = config(&pki, peer.port, "device");
        let (other, _tasks) = Firewall::IsSilent.open().await;
        config.fallback_port = FallbackPort::Port(other);
        let session = Session::builder(config).start().unwrap();
        let mut events = session.events();
        assert!(peer.handshake().await.is_err());
        let cause = lost(&mut events).await;
        assert!(matches!(*cause, Cause::Tls(_)), "{cause:?}");
        assert_eq!(session.port(), peer.port);
        session.stop(STOP).await;
    }
}
