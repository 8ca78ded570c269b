//! Distinct causes, and what TLS must refuse.

use cloud_iot::{Cause, Session, SessionConfig, TlsCause};
use tokio::net::TcpListener;

use crate::common::*;
use crate::support::pki::{Flaw, Pki};

async fn cause(config: SessionConfig) -> Cause {
    let session = Session::builder(config).start().unwrap();
    let mut events = session.events();
    let cause = lost(&mut events).await;
    session.stop(STOP).await;
    (*cause).clone()
}

#[tokio::test]
async fn a_foreign_ca_is_refused_with_an_alert() {
    let (pki, foreign) = (Pki::new(), Pki::new());
    let peer = Peer::listen(pki.server(Flaw::None)).await;
    let mut config = config(&pki, peer.port, "device");
    config.tls = pki.device_trusting(&foreign);
    let (cause, server) = tokio::join!(cause(config), peer.handshake());
    assert_eq!(cause, Cause::Tls(TlsCause::UnknownIssuer));
    assert!(!cause.is_retryable());
    let alert = server.unwrap_err().to_string();
    assert!(alert.contains("alert"), "{alert}");
}

#[tokio::test]
async fn wrong_name_and_expired_certificate_are_refused_with_alert() {
    for (flaw, expected) in [
        (Flaw::OtherName, TlsCause::WrongName),
        (Flaw::Expired, TlsCause::Expired),
    ] {
        let pki = Pki::new();
        let peer = Peer::listen(pki.server(flaw)).await;
        let config = config(&pki, peer.port, "device");
        let (cause, server) = tokio::join!(cause(config), peer.handshake());
        assert_eq!(cause, Cause::Tls(expected));
        let alert = server.unwrap_err().to_string();
        assert!(alert.contains("alert"), "{alert}");
    }
}

#[tokio::test]
async fn unknown_device_is_rejected() {
    let (pki, foreign) = (Pki::new(), Pki::new());
    let peer = Peer::listen(pki.server(Flaw::None)).await;
    let mut config = config(&pki, peer.port, "device");
    config.tls = foreign.device_trusting(&pki);
    let (cause, server) = tokio::join!(cause(config), peer.handshake());
    assert!(
        matches!(cause, Cause::Tls(TlsCause::ClientCertificateRejected(_))),
        "{cause:?}"
    );
    assert!(server.is_err());
}

#[tokio::test]
async fn connection_refused() {
    let pki = Pki::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    assert_eq!(cause(config(&pki, port, "device")).await, Cause::Refused);
}

#[tokio::test]
async fn no_such_name() {
    let pki = Pki::new();
    let mut config = config(&pki, 8883, "device");
    // This top-level domain is reserved and never exists.
    config.host = "nowhere.invalid".into();
    assert_eq!(cause(config).await, Cause::NameNotFound);
}

#[tokio::test]
async fn a_server_without_tls() {
    let pki = Pki::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"220 hello\r\n")
            .await
            .unwrap();
        stream
    };
    let (cause, _stream) = tokio::join!(cause(config(&pki, port, "device")), serve);
    assert_eq!(cause, Cause::Tls(TlsCause::NotTls));
}
