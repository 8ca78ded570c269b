//! Client certificates: which are accepted, in new, resumed and open connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cloud_remote::{Application, PathPrefix, UpstreamProtocol};
use http::StatusCode;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose};
use rustls::ClientConfig;
use testkit::pki::{Authority, Pair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{Device, PROTOCOLS, RIGHT, basic, certificates, lines_of, users};
use crate::support::{NAME, within};

/// What a client shows, and the status of `/admin` that it gets, if TLS lets it in.
fn client_certificates(authority: &Authority) -> Vec<(&'static str, Option<Pair>, Option<u16>)> {
    let sign = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "alice");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        Some(authority.sign(&params))
    };
    let now = time::OffsetDateTime::now_utc();
    let day = time::Duration::days(1);
    vec![
        ("none", None, Some(403)),
        ("right", sign(&|_| {}), Some(200)),
        (
            "no usages",
            sign(&|params| params.extended_key_usages.clear()),
            Some(200),
        ),
        (
            "expired",
            sign(&|params| params.not_after = now - day),
            None,
        ),
        (
            "not yet valid",
            sign(&|params| params.not_before = now + day),
            None,
        ),
        (
            "for servers",
            sign(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            None,
        ),
        (
            "of another authority",
            Some(Authority::new("Clients").client("alice")),
            None,
        ),
        ("self-signed", Some(Pair::self_signed("alice")), None),
    ]
}

#[tokio::test]
async fn only_certificates_of_the_authority_reach_guarded_paths() {
    let authority = Authority::new("Clients");
    let rules = certificates("/admin", &authority);
    for device in [
        Device::serving(rules.clone()).await,
        Device::forwarding(rules.clone(), UpstreamProtocol::Http1).await,
        Device::forwarding(rules.clone(), UpstreamProtocol::Http2).await,
    ] {
        for protocol in PROTOCOLS {
            for (name, identity, status) in client_certificates(&authority) {
                let before = device.reached();
                let answer = match device.open(protocol, identity.as_ref()).await {
                    Ok(mut caller) => caller.get("/admin", None).await.ok(),
                    Err(_) => None,
                };
                let found = answer.as_ref().map(|answer| answer.status().as_u16());
                assert_eq!(found, status, "{name}");
                assert_eq!(
                    device.reached() - before,
                    usize::from(found == Some(200)),
                    "{name}"
                );
                let Some(answer) = answer.filter(|answer| answer.status() == 200) else {
                    continue;
                };
                let certificate = &identity.unwrap().chain()[0];
                let encoded = format!(":{}:", STANDARD.encode(certificate));
                assert_eq!(lines_of(&answer, "client-cert"), [encoded]);
                assert_eq!(lines_of(&answer, "x-client-subject"), ["CN=alice"]);
            }
            let answer = device.get(protocol, "/", None).await;
            assert_eq!(answer.status(), StatusCode::OK);
        }
    }
}

#[tokio::test]
async fn certificate_and_password_are_both_needed_where_both_are_asked_for() {
    let authority = Authority::new("Clients");
    let rules =
        certificates("/", &authority).passwords(PathPrefix::root(), users("alice", "secret"));
    let device = Device::serving(rules).await;
    let identity = authority.client("alice");
    for (identity, authorization, status) in [
        (None, None, 403),
        (None, Some(RIGHT), 403),
        (Some(&identity), None, 401),
        (Some(&identity), Some("alice:wrong"), 401),
        (Some(&identity), Some(RIGHT), 200),
    ] {
        let mut caller = device.open("h2", identity).await.unwrap();
        let answer = caller
            .get("/", authorization.map(basic).as_deref())
            .await
            .unwrap();
        assert_eq!(answer.status(), status);
    }
}

#[tokio::test]
async fn resumed_session_keeps_its_certificate_until_the_authority_changes() {
    let (old, new) = (Authority::new("Old"), Authority::new("New"));
    let device = Device::serving(certificates("/", &old)).await;
    let identity = old.client("alice");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        device.remote.set_auth(certificates("/", &old));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(device.cloud.roots())
            .with_client_auth_cert(identity.chain(), identity.private_key())
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let call = async || {
            let mut stream = device.cloud.open_with(config.clone()).await.ok()?;
            let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut seen = Vec::new();
            let _ = within(stream.read_to_end(&mut seen)).await;
            let kind = stream.get_ref().1.handshake_kind()?;
            let status = String::from_utf8(seen).unwrap().get(9..12)?.to_owned();
            Some((kind, status))
        };
        use rustls::HandshakeKind::{Full, Resumed};
        assert_eq!(call().await, Some((Full, "200".to_owned())));
        assert_eq!(call().await, Some((Resumed, "200".to_owned())));
        // The certificate is not accepted any more, in whichever way the client comes back.
        device.remote.set_auth(certificates("/", &new));
        assert_eq!(call().await, None);
        assert_eq!(call().await, None);
    }
}

#[tokio::test]
async fn open_connection_needs_a_certificate_of_the_new_authority() {
    let (old, new) = (Authority::new("Old"), Authority::new("New"));
    let device = Device::serving(certificates("/", &old)).await;
    let mut caller = device.open("h2", Some(&old.client("alice"))).await.unwrap();
    assert_eq!(caller.get("/", None).await.unwrap().status(), 200);
    device.remote.set_auth(certificates("/", &new));
    assert_eq!(caller.get("/", None).await.unwrap().status(), 403);
    device.remote.set_auth(certificates("/", &old));
    assert_eq!(caller.get("/", None).await.unwrap().status(), 200);
}

#[tokio::test]
async fn public_authority_does_not_issue_client_certificates() {
    let authority = Authority::new("Clients");
    let device = Device::serving(certificates("/", &authority)).await;
    let server = device
        .cloud
        .platform
        .ca
        .issue(&crate::support::Issue::serial(7));
    let identity = Pair {
        certificate: server.chain().to_owned(),
        key: server.key().to_owned(),
    };
    let answer = match device.open("h2", Some(&identity)).await {
        Ok(mut caller) => caller.get("/", None).await.ok(),
        Err(_) => None,
    };
    assert!(answer.is_none());
}

#[tokio::test]
async fn plain_tcp_is_reached_with_a_right_certificate_only() {
    let authority = Authority::new("Clients");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let reached = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&reached);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let _ = stream.write_all(b"hello").await;
        }
    });
    let application = Application::forward_tcp(address, None);
    let device = Device::start(application, certificates("/", &authority), reached).await;
    for (name, identity, _) in client_certificates(&authority) {
        let before = device.reached();
        let is_right = ["right", "no usages"].contains(&name);
        let mut config = device.client("", identity.as_ref());
        config.alpn_protocols.clear();
        let mut seen = Vec::new();
        if let Ok(mut stream) = device.cloud.open_with(config).await {
            let _ = within(stream.read_to_end(&mut seen)).await;
        }
        assert_eq!(seen, if is_right { &b"hello"[..] } else { b"" }, "{name}");
        assert_eq!(device.reached() - before, usize::from(is_right), "{name}");
    }
}
