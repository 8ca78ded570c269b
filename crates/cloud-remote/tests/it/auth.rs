//! The guard in front of the application: passwords and client certificates, through the tunnel,
//! over every protocol and for every kind of application.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::HeaderMap;
use axum::routing::{any, get};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cloud_remote::auth::{
    AuthLayer, AuthRules, AuthenticatedUser, ClientCertificate, ClientRoots, PasswordFile,
};
use cloud_remote::{
    Application, ForwardOptions, HttpOptions, PathPrefix, RemoteAccess, StartError,
    UpstreamProtocol,
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose};
use rustls::ClientConfig;
use snitun::{Cipher, ProtocolVersion};
use testkit::pki::{Authority, Pair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tower::Layer;

use crate::support::{Cloud, NAME, within};

/// The right credentials of [`users`].
const RIGHT: &str = "alice:secret";

fn users(name: &str, password: &str) -> PasswordFile {
    PasswordFile::parse(&format!("{name}:{}", bcrypt::hash(password, 4).unwrap())).unwrap()
}

fn passwords(prefix: &str) -> AuthRules {
    AuthRules::new().passwords(prefix.parse().unwrap(), users("alice", "secret"))
}

fn certificates(prefix: &str, authority: &Authority) -> AuthRules {
    let roots = ClientRoots::from_pem(&authority.pem()).unwrap();
    AuthRules::new()
        .client_certificates(prefix.parse().unwrap(), roots)
        .unwrap()
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", STANDARD.encode(credentials))
}

/// An application that counts what reaches it, shows the headers, and has a WebSocket.
fn application() -> (Router, Arc<AtomicUsize>) {
    let reached = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&reached);
    let router = Router::new()
        .route(
            "/ws",
            any(|upgrade: WebSocketUpgrade| async {
                upgrade.on_upgrade(|mut socket| async move {
                    while let Some(Ok(message)) = socket.recv().await {
                        let _ = socket.send(message).await;
                    }
                })
            }),
        )
        .fallback(|headers: HeaderMap| async move {
            headers
                .iter()
                .map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()))
                .collect::<String>()
        })
        .layer(axum::middleware::from_fn(
            move |request: axum::extract::Request, next: axum::middleware::Next| {
                count.fetch_add(1, Ordering::Relaxed);
                next.run(request)
            },
        ));
    (router, reached)
}

/// A device with a guarded application.
struct Device {
    cloud: Cloud,
    remote: RemoteAccess,
    reached: Arc<AtomicUsize>,
}

impl Device {
    async fn serving(rules: AuthRules) -> Self {
        let (router, reached) = application();
        Self::start(Application::service(router), rules, reached).await
    }

    /// Serves the application at a local address, as a reverse proxy with this protocol.
    async fn forwarding(rules: AuthRules, protocol: UpstreamProtocol) -> Self {
        let (router, reached) = application();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = ForwardOptions::new().protocol(protocol);
        let application = Application::forward_with(listener.local_addr().unwrap(), options);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self::start(application, rules, reached).await
    }

    async fn start(application: Application, rules: AuthRules, reached: Arc<AtomicUsize>) -> Self {
        Self::start_with(Cloud::start().await, application, rules, reached).await
    }

    async fn start_with(
        cloud: Cloud,
        application: Application,
        rules: AuthRules,
        reached: Arc<AtomicUsize>,
    ) -> Self {
        let builder = cloud.builder().application(application).auth(rules);
        let remote = cloud.connected_device(builder).await;
        Self {
            cloud,
            remote,
            reached,
        }
    }

    fn reached(&self) -> usize {
        self.reached.load(Ordering::Relaxed)
    }

    /// Returns the TLS configuration of a client with this certificate.
    fn client(&self, protocol: &str, identity: Option<&Pair>) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.cloud.roots());
        let mut config = match identity {
            Some(pair) => builder
                .with_client_auth_cert(pair.chain(), pair.private_key())
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.into()];
        config
    }

    async fn open(&self, protocol: &str, identity: Option<&Pair>) -> std::io::Result<Caller> {
        self.open_with(self.client(protocol, identity)).await
    }

    async fn open_with(&self, config: ClientConfig) -> std::io::Result<Caller> {
        let is_http2 = config.alpn_protocols == [b"h2"];
        let stream = TokioIo::new(self.cloud.open_with(config).await?);
        let failed = std::io::Error::other;
        Ok(if is_http2 {
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
            let (sender, connection) = within(handshake).await.map_err(failed)?;
            tokio::spawn(connection);
            Caller::Http2(sender)
        } else {
            let handshake = hyper::client::conn::http1::handshake(stream);
            let (sender, connection) = within(handshake).await.map_err(failed)?;
            tokio::spawn(connection.with_upgrades());
            Caller::Http1(sender)
        })
    }

    /// Sends one request over a connection of its own.
    async fn get(&self, protocol: &str, path: &str, authorization: Option<&str>) -> Answer {
        let mut caller = self.open(protocol, None).await.unwrap();
        caller.get(path, authorization).await.unwrap()
    }
}

/// An open connection.
enum Caller {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

/// Status, headers and body of a response.
type Answer = Response<String>;

impl Caller {
    async fn send(&mut self, request: http::request::Builder) -> hyper::Result<Answer> {
        let request = request.body(Full::default()).unwrap();
        let response = match self {
            Self::Http1(sender) => {
                within(sender.ready()).await?;
                let (mut parts, body) = request.into_parts();
                parts.headers.insert("host", NAME.parse().unwrap());
                parts.uri = parts.uri.path_and_query().unwrap().clone().into();
                within(sender.send_request(Request::from_parts(parts, body))).await?
            }
            Self::Http2(sender) => within(sender.send_request(request)).await?,
        };
        let (parts, body) = response.into_parts();
        let body = within(body.collect()).await?.to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        Ok(Response::from_parts(parts, body))
    }

    async fn get(&mut self, path: &str, authorization: Option<&str>) -> hyper::Result<Answer> {
        let mut request = Request::get(format!("https://{NAME}{path}"));
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        self.send(request).await
    }
}

fn lines_of<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    answer
        .body()
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter_map(|(found, value)| (found == name).then_some(value))
        .collect()
}

const PROTOCOLS: [&str; 2] = ["http/1.1", "h2"];

#[tokio::test]
async fn only_right_password_reaches_any_application() {
    for device in [
        Device::serving(passwords("/")).await,
        Device::forwarding(passwords("/"), UpstreamProtocol::Http1).await,
        Device::forwarding(passwords("/"), UpstreamProtocol::Http2).await,
    ] {
        for protocol in PROTOCOLS {
            for wrong in [
                None,
                Some("alice:wrong"),
                Some("bob:secret"),
                Some("alice:"),
            ] {
                let wrong = wrong.map(basic);
                let answer = device.get(protocol, "/", wrong.as_deref()).await;
                assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
                assert_eq!(
                    answer.headers()["www-authenticate"],
                    "Basic realm=\"device\", charset=\"UTF-8\""
                );
                assert_eq!(answer.headers()["cache-control"], "no-store");
            }
            assert_eq!(device.reached(), 0);
        }
        for (protocol, reached) in PROTOCOLS.into_iter().zip(1..) {
            let answer = device.get(protocol, "/", Some(&basic(RIGHT))).await;
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(device.reached(), reached);
            // The application gets the name, not the password.
            assert_eq!(lines_of(&answer, "remote-user"), ["alice"]);
            assert_eq!(lines_of(&answer, "authorization"), [""; 0]);
        }
    }
}

#[tokio::test]
async fn authorization_is_passed_on_if_wanted_and_where_nothing_is_asked() {
    let device = Device::serving(passwords("/admin").pass_authorization(true)).await;
    let right = basic(RIGHT);
    let answer = device.get("h2", "/admin", Some(&right)).await;
    assert_eq!(lines_of(&answer, "authorization"), [&right]);
    device.remote.set_auth(passwords("/admin"));
    let answer = device.get("h2", "/", Some("Bearer token")).await;
    assert_eq!(lines_of(&answer, "authorization"), ["Bearer token"]);
    let answer = device.get("h2", "/admin", Some("Bearer token")).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        answer.headers()["www-authenticate"],
        "Basic realm=\"device /admin\", charset=\"UTF-8\""
    );
}

#[tokio::test]
async fn refused_request_makes_no_connection_and_its_body_is_not_asked_for() {
    let cloud = Cloud::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let application = Application::forward(listener.local_addr().unwrap());
    let device = Device::start_with(cloud, application, passwords("/"), Arc::default()).await;
    let mut stream = device.cloud.open(&["http/1.1"]).await.unwrap();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {NAME}\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    // The body is missing, so the connection cannot be used again.
    let _ = within(stream.read_to_end(&mut seen)).await;
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{seen}");
    let connection = tokio::time::timeout(std::time::Duration::ZERO, listener.accept()).await;
    assert!(connection.is_err(), "a connection to the application");
}

#[tokio::test]
async fn browser_gets_a_page_and_program_json() {
    let device = Device::serving(passwords("/")).await;
    let mut caller = device.open("h2", None).await.unwrap();
    for (accept, start, contains) in [
        (
            "text/html",
            "<!doctype html>",
            "asks for a user name and a password",
        ),
        ("application/json", "{", "\"status\":401"),
        ("text/event-stream", "401 Unauthorized", "password"),
    ] {
        let request = Request::get(format!("https://{NAME}/")).header("accept", accept);
        let answer = caller.send(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        let body = answer.body();
        assert!(body.starts_with(start) && body.contains(contains), "{body}");
    }
    // A preflight has no credentials, and would reach the application.
    let request = Request::options(format!("https://{NAME}/"))
        .header("origin", "https://other.example.com")
        .header("access-control-request-method", "GET");
    let answer = caller.send(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(device.reached(), 0);
}

#[tokio::test]
async fn websocket_needs_password_over_both_versions() {
    for device in [
        Device::serving(passwords("/ws")).await,
        Device::forwarding(passwords("/ws"), UpstreamProtocol::Http1).await,
    ] {
        for (authorization, status) in [(None, 401), (Some("alice:wrong"), 401), (Some(RIGHT), 101)]
        {
            let mut stream = device.cloud.open(&["http/1.1"]).await.unwrap();
            let authorization = authorization
                .map(|credentials| format!("Authorization: {}\r\n", basic(credentials)))
                .unwrap_or_default();
            // A message follows at once, as from a client that expects to be let in.
            let request = format!(
                "GET /ws HTTP/1.1\r\nHost: {NAME}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 {authorization}\r\n\u{1}"
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut seen = vec![0; 12];
            within(stream.read_exact(&mut seen)).await.unwrap();
            assert_eq!(seen, format!("HTTP/1.1 {status}").as_bytes());
        }
        assert_eq!(device.reached(), 1);
    }
    // As a stream of an HTTP/2 connection (RFC 8441).
    let device = Device::serving(passwords("/ws")).await;
    let stream = TokioIo::new(device.cloud.open(&["h2"]).await.unwrap());
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (mut sender, connection) = within(handshake).await.unwrap();
    tokio::spawn(connection);
    let request = |method, path, authorization: Option<&str>| {
        let mut request = Request::builder().method(method);
        if method == "CONNECT" {
            let protocol = hyper::ext::Protocol::from_static("websocket");
            request = request
                .extension(protocol)
                .header("sec-websocket-version", "13");
        }
        if let Some(credentials) = authorization {
            request = request.header("authorization", basic(credentials));
        }
        let request = request.uri(format!("https://{NAME}{path}"));
        request.body(Empty::<Bytes>::new()).unwrap()
    };
    // The first response shows that the device's settings have arrived.
    within(sender.send_request(request("GET", "/", None)))
        .await
        .unwrap();
    for (authorization, status) in [(None, 401), (Some("alice:wrong"), 401), (Some(RIGHT), 200)] {
        let request = request("CONNECT", "/ws", authorization);
        let response = within(sender.send_request(request)).await.unwrap();
        assert_eq!(response.status(), status);
    }
    assert_eq!(device.reached(), 2);
}

#[tokio::test]
async fn unguarded_part_is_open_and_ambiguous_path_is_refused() {
    let device = Device::forwarding(passwords("/admin"), UpstreamProtocol::Http1).await;
    for protocol in PROTOCOLS {
        for (path, status) in [
            ("/", 200),
            ("/administrator", 200),
            ("/my%20files", 200),
            ("/admin", 401),
            ("/Admin/users?x=1", 401),
            ("/%61dmin", 400),
            ("//admin", 400),
            ("/x/..%2fadmin", 400),
            ("/admin%2fusers", 400),
        ] {
            let answer = device.get(protocol, path, None).await;
            assert_eq!(answer.status(), status, "{path}");
        }
    }
    assert_eq!(device.reached(), 2 * 3);
}

#[tokio::test]
async fn new_rules_hold_for_the_next_request_of_an_open_connection() {
    let device = Device::serving(AuthRules::new()).await;
    for protocol in PROTOCOLS {
        device.remote.set_auth(AuthRules::new());
        let mut caller = device.open(protocol, None).await.unwrap();
        assert_eq!(caller.get("/", None).await.unwrap().status(), 200);
        device.remote.set_auth(passwords("/"));
        assert_eq!(caller.get("/", None).await.unwrap().status(), 401);
        let right = basic(RIGHT);
        assert_eq!(caller.get("/", Some(&right)).await.unwrap().status(), 200);
        // The password is changed.
        let changed = AuthRules::new().passwords(PathPrefix::root(), users("alice", "other"));
        device.remote.set_auth(changed);
        assert_eq!(caller.get("/", Some(&right)).await.unwrap().status(), 401);
        let other = basic("alice:other");
        assert_eq!(caller.get("/", Some(&other)).await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn too_many_wrong_passwords_are_refused_for_their_caller_alone() {
    let device = Device::serving(passwords("/")).await;
    let right = basic(RIGHT);
    let mut earlier = device.open("h2", None).await.unwrap();
    assert_eq!(earlier.get("/", Some(&right)).await.unwrap().status(), 200);
    let mut refused = None;
    for number in 0..20 {
        let answer = device
            .get("h2", "/", Some(&basic(&format!("alice:{number}"))))
            .await;
        if answer.status() != 401 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = refused.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=10).contains(&wait), "{wait}");
    // A right password says no more than a wrong one.
    let answer = device.get("h2", "/", Some(&right)).await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    // A session that was open before goes on.
    assert_eq!(earlier.get("/", Some(&right)).await.unwrap().status(), 200);
}

/// Before version 2 of the tunnel's protocol a caller over IPv6 has an unknown address.
#[tokio::test]
async fn right_password_of_unknown_caller_is_not_locked_out() {
    let cloud = Cloud::over_ipv6(ProtocolVersion::V0, Cipher::AesCbc).await;
    let (router, reached) = application();
    let application = Application::service(router);
    let device = Device::start_with(cloud, application, passwords("/"), reached).await;
    for number in 0..25 {
        let answer = device
            .get("h2", "/", Some(&basic(&format!("alice:{number}"))))
            .await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{number}");
    }
    let answer = device.get("h2", "/", Some(&basic(RIGHT))).await;
    assert_eq!(answer.status(), StatusCode::OK);
}

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
async fn identity_headers_of_callers_never_pass() {
    let authority = Authority::new("Clients");
    let (router, reached) = application();
    let rules = certificates("/admin", &authority)
        .passwords("/users".parse().unwrap(), users("alice", "secret"));
    let names = [
        "client-cert",
        "x-client-subject",
        "remote-user",
        "client_cert",
        "x_client_subject",
    ];
    // Not even if the operator lets them through for a proxy in front.
    let options = names.iter().fold(HttpOptions::new(), |options, name| {
        options.pass_header(name.parse().unwrap())
    });
    let cloud = Cloud::start().await;
    let builder = cloud.builder().application(Application::service(router));
    let remote = cloud
        .connected_device(builder.http(options).auth(rules))
        .await;
    let device = Device {
        cloud,
        remote,
        reached,
    };
    let identity = authority.client("alice");
    for protocol in PROTOCOLS {
        for (path, subjects, users) in [
            ("/", &[][..], &[][..]),
            ("/admin", &["CN=alice"], &[]),
            ("/users", &[], &["alice"]),
        ] {
            let mut caller = device.open(protocol, Some(&identity)).await.unwrap();
            let mut request =
                Request::get(format!("https://{NAME}{path}")).header("authorization", basic(RIGHT));
            for name in names {
                request = request.header(name, "forged");
            }
            let answer = caller.send(request).await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            assert!(!answer.body().contains("forged"), "{}", answer.body());
            assert_eq!(lines_of(&answer, "x-client-subject"), subjects, "{path}");
            assert_eq!(lines_of(&answer, "remote-user"), users, "{path}");
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

#[tokio::test]
async fn application_that_cannot_be_guarded_is_never_reached() {
    let authority = Authority::new("Clients");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let cloud = Cloud::start().await;
    let refused = [
        (Application::forward_tcp(address, None), passwords("/")),
        (
            Application::forward_tcp(address, None),
            certificates("/admin", &authority),
        ),
        (Application::passthrough(address), passwords("/")),
        (
            Application::passthrough(address),
            certificates("/", &authority),
        ),
    ];
    for (application, rules) in refused.clone() {
        let builder = cloud.builder().application(application).auth(rules);
        let platform = || Arc::clone(&cloud.platform);
        let error = builder
            .start(platform(), platform(), platform())
            .await
            .unwrap_err();
        assert!(matches!(error, StartError::Auth), "{error}");
    }
    // Nor if the rules come later.
    let remote = cloud.device(Application::forward(address)).await;
    for (application, rules) in refused {
        remote.set_auth(rules);
        remote.set_application(application).unwrap();
        let mut config = cloud.client_config(&[]);
        config.resumption = rustls::client::Resumption::disabled();
        assert!(cloud.open_with(config).await.is_err());
    }
    let connection = tokio::time::timeout(std::time::Duration::ZERO, listener.accept()).await;
    assert!(connection.is_err(), "a connection to the application");
}

#[tokio::test]
async fn layer_guards_a_part_of_a_service() {
    let authority = Authority::new("Clients");
    let layer = AuthLayer::new(passwords("/"));
    let admin = Router::new().route(
        "/admin",
        get(|user: axum::Extension<AuthenticatedUser>| async move { user.0.0.to_string() }),
    );
    let router =
        Router::new()
            .route("/", get(|| async { "public" }))
            .route(
                "/certificate",
                get(|shown: axum::Extension<ClientCertificate>| async move {
                    shown.0.0.len().to_string()
                }),
            )
            .merge(admin.layer(layer.clone()));
    let rules = certificates("/certificate", &authority);
    let application = Application::service(AuthLayer::new(AuthRules::new()).layer(router));
    let device = Device::start(application, rules, Arc::default()).await;
    let answer = device.get("h2", "/", None).await;
    assert_eq!(answer.body(), "public");
    let answer = device.get("h2", "/admin", None).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(
        answer.body().contains("asks for a user name"),
        "{}",
        answer.body()
    );
    let answer = device.get("h2", "/admin", Some(&basic(RIGHT))).await;
    assert_eq!(answer.body(), "alice");
    layer.set(AuthRules::new().passwords(PathPrefix::root(), users("bob", "secret")));
    let answer = device.get("h2", "/admin", Some(&basic(RIGHT))).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let identity = authority.client("alice");
    let mut caller = device.open("h2", Some(&identity)).await.unwrap();
    let answer = caller.get("/certificate", None).await.unwrap();
    assert_eq!(answer.body(), &identity.chain()[0].len().to_string());
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
