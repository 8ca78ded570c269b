//! Our remote access against the Python snitun server.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cloud_remote::{
    Application, CertificatePem, CertificateRequest, CertificateResponse, CertificateSource,
    CertificateStore, RemoteAccess, RemoteConfig, SourceError, StoreError, TokenRequest,
    TokenResponse, TokenSource,
};
use integration_tests::origin::application;
use integration_tests::process::Process;
use snitun::server::{FernetKeys, TokenContent};
use snitun::{Cipher, ProtocolVersion, SessionKey};
use testkit::pki::Authority;
use testkit::port::free_port;
use testkit::wait::timeout;

use crate::peers::{python, python_snitun_047, script};
use crate::traffic::{VISITORS, exchange};

const HOST: &str = "device.example.com";

/// The platform's part: tokens under a Fernet key that the Python server knows.
struct Platform {
    keys: FernetKeys,
    version: ProtocolVersion,
    cipher: Cipher,
}

impl TokenSource for Platform {
    async fn request_token(&self, request: TokenRequest) -> Result<TokenResponse, SourceError> {
        let key = SessionKey::from_hex(request.key_hex(), request.iv_hex())
            .map_err(SourceError::unavailable)?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_err(SourceError::unavailable)?;
        let valid = (now + Duration::from_secs(3600)).as_secs();
        let mut content = TokenContent::new(HOST, key, valid);
        (content.protocol_version, content.cipher) = (self.version, self.cipher);
        let answer = serde_json::json!({
            "valid": valid,
            "throttling": 0,
            "token": self.keys.issue(&content).map_err(SourceError::unavailable)?,
            "protocol_version": u8::from(self.version),
            "cipher": self.cipher.to_string(),
        });
        Ok(TokenResponse::from_json(answer.to_string().as_bytes())?)
    }
}

/// No test requests another certificate.
struct NoRotation;

impl CertificateSource for NoRotation {
    async fn request_certificate(
        &self,
        _: CertificateRequest,
    ) -> Result<CertificateResponse, SourceError> {
        Err(SourceError::TimedOut)
    }
}

struct Memory(Mutex<CertificatePem>);

impl CertificateStore for Memory {
    async fn load(&self) -> Result<CertificatePem, StoreError> {
        Ok(self
            .0
            .lock()
            .map_err(|_| StoreError::new("poisoned"))?
            .clone())
    }

    async fn store(&self, certificate: &CertificatePem) -> Result<(), StoreError> {
        *self.0.lock().map_err(|_| StoreError::new("poisoned"))? = certificate.clone();
        Ok(())
    }
}

async fn our_device_against_the_python_server(
    python: &Path,
    version: ProtocolVersion,
    cipher: Cipher,
) -> anyhow::Result<()> {
    let authority = Authority::new("interop");
    let pair = authority.server(&[HOST]);
    let fernet_key = FernetKeys::generate_key();
    let keys = FernetKeys::from_keys(&[&*fernet_key])?;
    let relay: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let start_server = || {
        let port = relay.port().to_string();
        let mut command = script(python, "py_snitun_server.py");
        Process::spawn(
            "the Python server",
            // In one word with its name: a key may begin with `-`, which the script would take for
            // another option.
            command.args([&format!("--fernet-key={}", *fernet_key), "--port", &port]),
        )
    };
    let mut server = start_server()?;
    server.event("ready").await?;

    let store = Memory(CertificatePem::new(pair.certificate, pair.key).into());
    let device = RemoteAccess::builder(RemoteConfig::new("127.0.0.1", relay.port(), HOST))
        .application(Application::service(application(VISITORS)))
        .start(
            Platform {
                keys,
                version,
                cipher,
            },
            NoRotation,
            store,
        )
        .await?;
    let mut status = device.status();
    device.set_messaging_online(true);
    timeout(
        "the tunnel",
        status.wait_for(|status| status.is_connected()),
    )
    .await?;
    exchange(relay, HOST, &authority.pem()).await?;

    // The device reconnects to a server that was restarted.
    server.kill().await?;
    timeout(
        "the loss to be noticed",
        status.wait_for(|status| !status.is_connected()),
    )
    .await?;
    let mut server = start_server()?;
    server.event("ready").await?;
    timeout(
        "the tunnel to come back",
        status.wait_for(|status| status.is_connected()),
    )
    .await?;
    exchange(relay, HOST, &authority.pem()).await?;

    device.stop(Duration::from_secs(5)).await?;
    server.terminate().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snitun_0_40_server() -> anyhow::Result<()> {
    our_device_against_the_python_server(&python()?, ProtocolVersion::V0, Cipher::AesCbc).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snitun_0_47_server() -> anyhow::Result<()> {
    let Some(python) = python_snitun_047()? else {
        return Ok(());
    };
    // `matrix` tests all pairs; this tests what uses the tunnel.
    for (version, cipher) in [
        (ProtocolVersion::V0, Cipher::AesCbc),
        (ProtocolVersion::V1, Cipher::AesGcm),
        (ProtocolVersion::V2, Cipher::AesGcmSiv),
    ] {
        our_device_against_the_python_server(&python, version, cipher).await?;
    }
    Ok(())
}
