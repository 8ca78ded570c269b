//! The guard in front of the application: passwords and client certificates, through the tunnel,
//! over every protocol and for every kind of application.

mod client_certificates;
mod passwords;
mod scope;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::HeaderMap;
use axum::routing::any;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cloud_remote::auth::{AuthRules, ClientRoots, PasswordFile};
use cloud_remote::{Application, ForwardOptions, RemoteAccess, UpstreamProtocol};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use testkit::pki::{Authority, Pair};
use tokio::net::TcpListener;

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
