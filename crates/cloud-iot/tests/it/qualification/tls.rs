//! TLS: what the device offers and accepts, and what it must refuse with an alert.

use std::io;

use cloud_iot::{Cause, Session, TlsCause};
use rumqttc::v5::mqttbytes::QoS as WireQoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rustls::{AlertDescription, CipherSuite};
use tokio_rustls::LazyConfigAcceptor;

use crate::common::*;
use crate::support::pki::{Flaw, Pki};
use crate::support::tap::{ALERT, APPLICATION_DATA};

/// Suites that AWS recommends, for TLS 1.3 and 1.2.
const RECOMMENDED: [CipherSuite; 6] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
];

/// Other suites that AWS accepts, and a value that is not a suite but signals protection against an
/// old attack.
const SUPPORTED: [CipherSuite; 2] = [
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_EMPTY_RENEGOTIATION_INFO_SCSV,
];

async fn connects_to(flaw: Flaw, version: &'static rustls::SupportedProtocolVersion) {
    let pki = Pki::new();
    let peer = Peer::listen(pki.server_of_version(flaw, version)).await;
    let session = Session::builder(config(&pki, peer.port, "device"))
        .start()
        .unwrap();
    let _link = peer.online(&session).await;
    session.stop(STOP).await;
}

#[tokio::test]
async fn tls_connect() {
    connects_to(Flaw::None, &rustls::version::TLS13).await;
    connects_to(Flaw::None, &rustls::version::TLS12).await;
}

#[tokio::test]
async fn tls_receive_maximum_size_fragments() {
    for version in rustls::ALL_VERSIONS {
        let pki = Pki::new();
        let peer = Peer::listen(pki.server_of_version(Flaw::None, version)).await;
        let session = Session::builder(config(&pki, peer.port, "device"))
            .start()
            .unwrap();
        let mut link = peer.online(&session).await;
        let mut stream = session.messages("in/#").unwrap();
        let payload: Vec<u8> = (0..128_u32 << 10).map(|n| (n % 251) as u8).collect();
        let mut publish = Publish::new("in/large", WireQoS::AtLeastOnce, payload.clone(), None);
        publish.pkid = 1;
        link.write(Packet::Publish(publish)).await;
        let received = soon(stream.recv()).await.unwrap().unwrap();
        assert!(received.payload == payload, "the payload was damaged");
        let Some(Packet::PubAck(ack)) = link.read().await else {
            panic!("no PUBACK")
        };
        assert_eq!(ack.pkid, 1);
        // A record holds at most 2^14 bytes plus the encryption overhead.
        let full = |record: &&crate::support::tap::Record| {
            record.kind == APPLICATION_DATA && record.length > 1 << 14
        };
        let wire = link.wire();
        let sent = wire.sent().seen.iter().filter(full).count();
        assert!(sent >= 8, "{sent} records of the largest size");
        session.stop(STOP).await;
    }
}

#[tokio::test]
async fn tls_device_support_of_aws_iot_cipher_suites() {
    let (peer, session) = started(|config| config).await;
    let acceptor = LazyConfigAcceptor::new(Default::default(), peer.tcp().await);
    let start = soon(acceptor).await.unwrap();
    let hello = start.client_hello();
    let offered = hello.cipher_suites();
    assert!(
        offered.iter().any(|suite| RECOMMENDED.contains(suite)),
        "{offered:?}"
    );
    for suite in offered {
        assert!(
            RECOMMENDED.contains(suite) || SUPPORTED.contains(suite),
            "{suite:?} is not supported by AWS"
        );
    }
    assert_eq!(hello.server_name(), Some("localhost"), "SNI");
    drop(start);
    session.stop(STOP).await;
}

#[tokio::test]
async fn tls_large_size_server_certificate() {
    connects_to(Flaw::LongChain, &rustls::version::TLS13).await;
    connects_to(Flaw::LongChain, &rustls::version::TLS12).await;
}

/// The device must refuse this server, report why, and send an alert.
async fn is_refused(pki: &Pki, device: &Pki, flaw: Flaw, cause: TlsCause, alert: AlertDescription) {
    for version in rustls::ALL_VERSIONS {
        let peer = Peer::listen(pki.server_of_version(flaw, version)).await;
        let mut config = config(pki, peer.port, "device");
        config.tls = pki.device_trusting(device);
        let session = Session::builder(config).start().unwrap();
        let mut events = session.events();
        let tcp = peer.tcp().await;
        let wire = tcp.wire.clone();
        let server = peer.handshake_on(tcp).await;
        let received = rustls_error(server.unwrap_err());
        assert_eq!(received, rustls::Error::AlertReceived(alert), "{version:?}");
        assert_eq!(*lost(&mut events).await, Cause::Tls(cause.clone()));
        // TLS 1.3 hides the record type after the hello messages.
        if version.version == rustls::ProtocolVersion::TLSv1_2 {
            let last = wire.received().seen.last().copied().unwrap();
            assert_eq!((last.kind, last.length), (ALERT, 2));
        }
        session.stop(STOP).await;
    }
}

fn rustls_error(error: io::Error) -> rustls::Error {
    error
        .into_inner()
        .and_then(|inner| inner.downcast().ok())
        .map(|error: Box<rustls::Error>| *error)
        .expect("an error of TLS")
}

#[tokio::test]
async fn tls_unsecure_server_cert_untrusted_ca() {
    // An unknown CA, and one with the name of a known CA.
    for (trusted, alert) in [
        (Pki::named("another CA"), AlertDescription::UnknownCA),
        (Pki::new(), AlertDescription::DecryptError),
    ] {
        let pki = Pki::new();
        is_refused(&pki, &trusted, Flaw::None, TlsCause::UnknownIssuer, alert).await;
    }
}

#[tokio::test]
async fn tls_incorrect_subject_name_server_cert() {
    let pki = Pki::new();
    let alert = AlertDescription::BadCertificate;
    is_refused(&pki, &pki, Flaw::OtherName, TlsCause::WrongName, alert).await;
}

#[tokio::test]
async fn tls_expired_server_cert() {
    let pki = Pki::new();
    let alert = AlertDescription::CertificateExpired;
    is_refused(&pki, &pki, Flaw::Expired, TlsCause::Expired, alert).await;
}
