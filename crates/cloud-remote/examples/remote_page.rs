//! Serves a device's page through a relay, before and after a certificate rotation.
//!
//! Everything runs in this process over real sockets: the relay (a SniTun server), a platform that
//! issues tokens and certificates, the device with its web application, and a public client that
//! verifies the certificate.
//!
//! ```sh
//! cargo run -p cloud-remote --example remote_page
//! ```

use std::error::Error;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::routing::get;
use axum::{Extension, Router};
use cloud_remote::{
    Application, CertificatePem, CertificateRequest, CertificateResponse, CertificateSource,
    CertificateStore, ClientAddr, RemoteAccess, RemoteConfig, SourceError, StoreError,
    TokenRequest, TokenResponse, TokenSource,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SerialNumber};
use rustls::{ClientConfig, RootCertStore};
use snitun::SessionKey;
use snitun::server::{FernetKeys, Server, ServerConfig, TokenContent};
use tokio::net::TcpListener;

type BoxError = Box<dyn Error + Send + Sync>;

/// The device's public host name.
const NAME: &str = "sn0001.ui.example.com";

/// Issues tokens for the relay, and certificates.
struct Platform {
    keys: FernetKeys,
    issuer: Issuer<'static, KeyPair>,
}

impl Platform {
    fn issue(&self, serial: u64) -> Result<CertificatePem, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([NAME.to_owned()])?;
        params.serial_number = Some(SerialNumber::from(serial));
        Ok(CertificatePem::new(
            params.signed_by(&key, &self.issuer)?.pem(),
            key.serialize_pem(),
        ))
    }

    fn token(&self, request: &TokenRequest) -> Result<Vec<u8>, BoxError> {
        let valid = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3_600;
        let key = SessionKey::from_hex(request.key_hex(), request.iv_hex())?;
        let token = self.keys.issue(&TokenContent::new(NAME, key, valid))?;
        Ok(format!(r#"{{"valid": {valid}, "throttling": 0, "token": "{token}"}}"#).into_bytes())
    }
}

/// The device's connection to the platform. A real one publishes the requests as JSON, and waits
/// for the responses.
struct Line(Arc<Platform>);

impl TokenSource for Line {
    async fn request_token(&self, request: TokenRequest) -> Result<TokenResponse, SourceError> {
        let response = self.0.token(&request).map_err(SourceError::unavailable)?;
        Ok(TokenResponse::from_json(&response)?)
    }
}

impl CertificateSource for Line {
    async fn request_certificate(
        &self,
        request: CertificateRequest,
    ) -> Result<CertificateResponse, SourceError> {
        let serial: Result<u64, _> = request.serial().as_str().parse();
        let serial = serial.map_err(SourceError::unavailable)?;
        let certificate = self.0.issue(serial).map_err(SourceError::unavailable)?;
        Ok(CertificateResponse::from(certificate))
    }
}

/// Stores the certificate. A real one writes files.
struct Memory(Mutex<CertificatePem>);

impl CertificateStore for Memory {
    async fn load(&self) -> Result<CertificatePem, StoreError> {
        Ok(self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }

    async fn store(&self, certificate: &CertificatePem) -> Result<(), StoreError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = certificate.clone();
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), BoxError> {
    // The public side: a relay, and an authority that clients trust.
    let relay_key = FernetKeys::generate_key();
    let relay = Server::new(
        FernetKeys::from_keys(&[relay_key.as_str()])?,
        ServerConfig::default(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let relaying = {
        let relay = relay.clone();
        tokio::spawn(async move { relay.serve(listener, std::future::pending()).await })
    };
    let mut params = CertificateParams::new([])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "Example CA");
    let ca_key = KeyPair::generate()?;
    let root = params.self_signed(&ca_key)?;
    let platform = Arc::new(Platform {
        keys: FernetKeys::from_keys(&[relay_key.as_str()])?,
        issuer: Issuer::new(params, ca_key),
    });

    // The device: a web application, and remote access to it.
    let web = Router::new().route(
        "/",
        get(
            |Extension(ClientAddr(caller)): Extension<ClientAddr>| async move {
                format!("hello, {caller:?}")
            },
        ),
    );
    let remote = RemoteAccess::builder(RemoteConfig::new("127.0.0.1", address.port(), NAME))
        .application(Application::service(web))
        .start(
            Line(Arc::clone(&platform)),
            Line(Arc::clone(&platform)),
            Memory(Mutex::new(platform.issue(1)?)),
        )
        .await?;
    remote.set_messaging_online(true);
    let mut status = remote.status();
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, status.wait_for(|status| status.is_connected())).await??;
    println!("connected through the relay at {address}");

    // A public client.
    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone())?;
    let tls =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
    let browser = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .resolve(NAME, address)
        .no_proxy()
        .timeout(limit)
        .build()?;
    let url = format!("https://{NAME}:{}/", address.port());
    println!(
        "the page says: {}",
        browser
            .get(&url)
            .send()
            .await?
            .error_for_status()?
            .text()
            .await?
    );

    // The platform desires another certificate; the page is available before and after.
    remote.set_desired_serial("2")?;
    let rotated = status.wait_for(|status| status.certificate.serial.as_str() == "2");
    let serial = tokio::time::timeout(limit, rotated)
        .await??
        .certificate
        .serial
        .clone();
    println!("the certificate was rotated to serial number {serial}");
    println!(
        "the page says: {}",
        browser
            .get(&url)
            .send()
            .await?
            .error_for_status()?
            .text()
            .await?
    );

    remote.stop(Duration::from_secs(5)).await?;
    relay.stop().await;
    relaying.await?;
    println!("stopped");
    Ok(())
}
