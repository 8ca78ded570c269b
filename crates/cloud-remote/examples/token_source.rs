//! A device that gets the tokens for its tunnel from a web service of its operator instead of the
//! platform, and keeps a certificate that its operator installs.
//!
//! Relay, token service, device and a caller run in this process, over real sockets. The token
//! service shares a key with the relay: it alone decides which device gets which host name.
//!
//! ```sh
//! cargo run -p cloud-remote --example token_source
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use cloud_remote::{
    Application, CertificatePem, CertificateRequest, CertificateResponse, CertificateSource,
    CertificateStore, RemoteAccess, RemoteConfig, SourceError, StoreError, TokenRequest,
    TokenResponse, TokenSource,
};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use snitun::SessionKey;
use snitun::server::{FernetKeys, Server, ServerConfig, TokenContent};
use tokio::net::TcpListener;

type BoxError = Box<dyn Error + Send + Sync>;

/// The public host name of the device.
const NAME: &str = "device.example.com";

/// What the device shows the token service. A real one is different for each device, and the
/// service is reached over HTTPS.
const DEVICE_SECRET: &str = "Bearer 4f6bd1a8";

/// Lifetime of a token. The device asks for the next one before it ends.
const LIFETIME: Duration = Duration::from_secs(3600);

/// The tokens of a device, over HTTP.
struct TokenService {
    client: reqwest::Client,
    url: String,
}

impl TokenSource for TokenService {
    async fn request_token(&self, request: TokenRequest) -> Result<TokenResponse, SourceError> {
        // The request has the keys of the session, so it is a secret. An error is retried with
        // back-off, and shown in the status; an open tunnel stays open meanwhile.
        let response = self
            .client
            .post(&self.url)
            .header(header::AUTHORIZATION, DEVICE_SECRET)
            .body(request.to_json().to_vec())
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(SourceError::unavailable)?;
        let body = response.bytes().await.map_err(SourceError::unavailable)?;
        Ok(TokenResponse::from_json(&body)?)
    }
}

/// The certificate that the operator has installed. It is not replaced at run time.
struct Installed(CertificatePem);

impl CertificateStore for Installed {
    async fn load(&self) -> Result<CertificatePem, StoreError> {
        Ok(self.0.clone())
    }

    async fn store(&self, _: &CertificatePem) -> Result<(), StoreError> {
        Err(StoreError::new("the operator installs certificates"))
    }
}

/// Only called after [`RemoteAccess::set_desired`].
struct NoCertificates;

impl CertificateSource for NoCertificates {
    async fn request_certificate(
        &self,
        _: CertificateRequest,
    ) -> Result<CertificateResponse, SourceError> {
        Err(SourceError::unavailable(
            "the operator installs certificates",
        ))
    }
}

/// The token service: it authenticates the device, and encrypts host name, expiry and the keys of
/// the session into a token for the relay.
async fn issue(
    State(keys): State<Arc<FernetKeys>>,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> Result<Json<Value>, StatusCode> {
    if headers
        .get(header::AUTHORIZATION)
        .is_none_or(|value| value != DEVICE_SECRET)
    {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let request: Value = serde_json::from_slice(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let [key, iv] = ["aesKey", "aesIv"].map(|name| request[name].as_str().unwrap_or_default());
    let key = SessionKey::from_hex(key, iv).map_err(|_| StatusCode::BAD_REQUEST)?;
    let valid = (SystemTime::now() + LIFETIME)
        .duration_since(UNIX_EPOCH)
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?
        .as_secs();
    let token = keys
        .issue(&TokenContent::new(NAME, key, valid))
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    println!("the service has issued a token for {NAME}");
    Ok(Json(json!({ "valid": valid, "token": token.to_string() })))
}

fn http_client(roots: RootCertStore) -> Result<reqwest::ClientBuilder, BoxError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let limit = Duration::from_secs(30);
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .timeout(limit))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    // The operator: a relay and a token service with the same key.
    let key = FernetKeys::generate_key();
    let relay = Server::new(
        FernetKeys::from_keys(&[key.as_str()])?,
        ServerConfig::default(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let relaying = {
        let relay = relay.clone();
        tokio::spawn(async move { relay.serve(listener, std::future::pending()).await })
    };
    let service = Router::new()
        .route("/token", post(issue))
        .with_state(Arc::new(FernetKeys::from_keys(&[key.as_str()])?));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/token", listener.local_addr()?);
    let serving = tokio::spawn(async move { axum::serve(listener, service).await });

    // The device.
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let certificate = CertificatePem::new(made.cert.pem(), made.signing_key.serialize_pem());
    let client = http_client(RootCertStore::empty())?.build()?;
    let page = Router::new().route("/", get(|| async { "hello from the device" }));
    let remote = RemoteAccess::builder(RemoteConfig::new("127.0.0.1", address.port(), NAME))
        .application(Application::service(page))
        .start(
            TokenService { client, url },
            NoCertificates,
            Installed(certificate),
        )
        .await?;
    // Tokens may be requested from now on. A device that knows when its network is down says so.
    remote.set_messaging_online(true);
    let mut status = remote.status();
    let connected = status.wait_for(|status| status.is_connected());
    tokio::time::timeout(Duration::from_secs(30), connected).await??;

    // A caller.
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let browser = http_client(roots)?.resolve(NAME, address).build()?;
    let response = browser
        .get(format!("https://{NAME}:{}/", address.port()))
        .send()
        .await?
        .error_for_status()?;
    println!("the page says: {}", response.text().await?);

    remote.stop(Duration::from_secs(5)).await?;
    relay.stop().await;
    relaying.await?;
    serving.abort();
    Ok(())
}
