//! A small cloud for one test: a relay, a CA, a platform with faults, and public clients.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use cloud_remote::{
    Application, CertificatePem, CertificateRequest, CertificateResponse, CertificateSource,
    CertificateStore, RemoteAccess, RemoteAccessBuilder, RemoteConfig, RemoteEvent, SourceError,
    StoreError, TokenRequest, TokenResponse, TokenSource,
};
use rcgen::{CertificateParams, SerialNumber};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use snitun::server::{FernetKeys, Server, ServerConfig, ServerHandle, TokenContent};
use snitun::{Cipher, ProtocolVersion, SessionKey};
use testkit::pki::Authority;
use testkit::wait;
pub(crate) use testkit::wait::LIMIT;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;

/// The device's public host name.
pub(crate) const NAME: &str = "sn0001.ui.example.com";

/// Waits for a future with a timeout.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    wait::timeout("a step of the test", future).await
}

/// Waits until a condition holds.
pub(crate) async fn eventually(mut condition: impl FnMut() -> bool) {
    wait::eventually("a condition of the test", async || {
        condition().then_some(())
    })
    .await;
}

/// The contents of a certificate; the defaults are valid.
pub(crate) struct Issue {
    pub(crate) serial: u64,
    pub(crate) name: &'static str,
    /// Days until its expiry.
    pub(crate) days: i64,
}

impl Issue {
    pub(crate) fn serial(serial: u64) -> Self {
        Self {
            serial,
            name: NAME,
            days: 90,
        }
    }
}

/// The authority that public clients trust.
pub(crate) struct Ca(Authority);

impl Ca {
    pub(crate) fn new() -> Self {
        Self(Authority::new("Test CA"))
    }

    pub(crate) fn issue(&self, issue: &Issue) -> CertificatePem {
        let mut params = CertificateParams::new([issue.name.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(issue.serial));
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::days(30);
        params.not_after = now + time::Duration::days(issue.days);
        let pair = self.0.sign(&params);
        CertificatePem::new(pair.certificate, pair.key)
    }
}

/// A fault of the platform's next token response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenFault {
    Silent,
    Malformed,
    Panic,
    /// The token contains other keys than the request, as a late response would.
    ForeignKeys,
}

/// The platform and the device's store, shared by the test and the device.
pub(crate) struct Platform {
    keys: FernetKeys,
    pub(crate) ca: Ca,
    pub(crate) version: ProtocolVersion,
    pub(crate) cipher: Cipher,
    /// Lifetimes in seconds: in the response to the device, and in the token.
    pub(crate) valid_for: Mutex<(i64, i64)>,
    pub(crate) token_faults: Mutex<VecDeque<TokenFault>>,
    /// The keys of each token request.
    pub(crate) requested_keys: Mutex<Vec<String>>,
    pub(crate) issued_tokens: Mutex<Vec<String>>,
    /// Responses to certificate requests, in order; then none.
    pub(crate) certificates: Mutex<VecDeque<CertificatePem>>,
    pub(crate) requested_serials: Mutex<Vec<String>>,
    pub(crate) stored: Mutex<CertificatePem>,
    pub(crate) store_fails: Mutex<bool>,
    /// The store waits while a test holds the lock.
    pub(crate) storing: tokio::sync::Mutex<()>,
    /// The number of stored certificates.
    pub(crate) to_store: AtomicUsize,
}

fn unix_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
        .try_into()
        .unwrap()
}

impl TokenSource for Platform {
    async fn request_token(&self, request: TokenRequest) -> Result<TokenResponse, SourceError> {
        self.requested_keys
            .lock()
            .unwrap()
            .push(request.key_hex().to_owned());
        let fault = self.token_faults.lock().unwrap().pop_front();
        let (lifetime, sealed) = *self.valid_for.lock().unwrap();
        let key = match fault {
            Some(TokenFault::Panic) => panic!("injected fault"),
            Some(TokenFault::Silent) => std::future::pending().await,
            Some(TokenFault::Malformed) => return Ok(TokenResponse::from_json(b"{\"valid\": 12")?),
            Some(TokenFault::ForeignKeys) => SessionKey::generate().unwrap(),
            None => SessionKey::from_hex(request.key_hex(), request.iv_hex()).unwrap(),
        };
        let mut content = TokenContent::new(NAME, key, (unix_now() + sealed).try_into().unwrap());
        content.protocol_version = self.version;
        content.cipher = self.cipher;
        let token = self.keys.issue(&content).unwrap();
        self.issued_tokens.lock().unwrap().push(token.clone());
        let json = serde_json::json!({
            "valid": unix_now() + lifetime,
            "throttling": null,
            "token": token,
            "protocol_version": u8::from(self.version),
            "cipher": self.cipher.to_string(),
        });
        Ok(TokenResponse::from_json(json.to_string().as_bytes())?)
    }
}

impl CertificateSource for Platform {
    async fn request_certificate(
        &self,
        request: CertificateRequest,
    ) -> Result<CertificateResponse, SourceError> {
        self.requested_serials
            .lock()
            .unwrap()
            .push(request.serial().to_string());
        let response = self.certificates.lock().unwrap().pop_front();
        let Some(pem) = response else {
            return std::future::pending().await;
        };
        let json = serde_json::json!({"cert": pem.chain(), "pkey": pem.key()});
        Ok(CertificateResponse::from_json(json.to_string().as_bytes())?)
    }
}

impl CertificateStore for Platform {
    async fn load(&self) -> Result<CertificatePem, StoreError> {
        Ok(self.stored.lock().unwrap().clone())
    }

    async fn store(&self, certificate: &CertificatePem) -> Result<(), StoreError> {
        self.to_store.fetch_add(1, Ordering::Relaxed);
        let _turn = self.storing.lock().await;
        if *self.store_fails.lock().unwrap() {
            return Err(StoreError::new("the disk is full"));
        }
        *self.stored.lock().unwrap() = certificate.clone();
        Ok(())
    }
}

/// A relay on the loopback interface with its platform. Stops on drop.
pub(crate) struct Cloud {
    pub(crate) platform: Arc<Platform>,
    pub(crate) relay: ServerHandle,
    pub(crate) address: SocketAddr,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Cloud {
    pub(crate) async fn start() -> Self {
        Self::speaking(ProtocolVersion::V0, Cipher::AesCbc).await
    }

    pub(crate) async fn speaking(version: ProtocolVersion, cipher: Cipher) -> Self {
        Self::with_relay(version, cipher, ServerConfig::default()).await
    }

    pub(crate) async fn with_relay(
        version: ProtocolVersion,
        cipher: Cipher,
        config: ServerConfig,
    ) -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into(), version, cipher, config).await
    }

    /// Starts a relay whose callers use IPv6.
    pub(crate) async fn over_ipv6(version: ProtocolVersion, cipher: Cipher) -> Self {
        let config = ServerConfig::default();
        Self::at(Ipv6Addr::LOCALHOST.into(), version, cipher, config).await
    }

    async fn at(
        ip: IpAddr,
        version: ProtocolVersion,
        cipher: Cipher,
        config: ServerConfig,
    ) -> Self {
        let key = FernetKeys::generate_key();
        let server = Server::new(FernetKeys::from_keys(&[key.as_str()]).unwrap(), config);
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let relay = server.handle();
        let serving =
            tokio::spawn(async move { server.serve(listener, std::future::pending()).await });
        let ca = Ca::new();
        let platform = Platform {
            keys: FernetKeys::from_keys(&[key.as_str()]).unwrap(),
            version,
            cipher,
            valid_for: Mutex::new((86_400, 86_400)),
            token_faults: Mutex::default(),
            requested_keys: Mutex::default(),
            issued_tokens: Mutex::default(),
            certificates: Mutex::default(),
            requested_serials: Mutex::default(),
            stored: Mutex::new(ca.issue(&Issue::serial(1))),
            store_fails: Mutex::new(false),
            storing: tokio::sync::Mutex::default(),
            to_store: AtomicUsize::default(),
            ca,
        };
        Self {
            platform: Arc::new(platform),
            relay,
            address,
            serving,
        }
    }

    pub(crate) fn builder(&self) -> RemoteAccessBuilder {
        let relay = self.address.ip().to_string();
        RemoteAccess::builder(RemoteConfig::new(relay, self.address.port(), NAME))
    }

    /// Starts a device that is not online yet.
    pub(crate) async fn device_from(&self, builder: RemoteAccessBuilder) -> RemoteAccess {
        let platform = || Arc::clone(&self.platform);
        builder
            .start(platform(), platform(), platform())
            .await
            .unwrap()
    }

    /// Starts a device and waits until it is connected.
    pub(crate) async fn device(&self, application: Application) -> RemoteAccess {
        self.connected_device(self.builder().application(application))
            .await
    }

    /// Starts a device with other settings and waits until it is connected.
    pub(crate) async fn connected_device(&self, builder: RemoteAccessBuilder) -> RemoteAccess {
        let remote = self.device_from(builder).await;
        remote.set_messaging_online(true);
        connected(&remote).await;
        remote
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.platform.ca.0.root()).unwrap();
        roots
    }

    /// Returns the TLS configuration of a public client with these protocols.
    pub(crate) fn client_config(&self, protocols: &[&str]) -> ClientConfig {
        testkit::tls::client(&self.platform.ca.0.pem(), protocols)
    }

    /// Opens a public client's connection, which has verified the device's certificate.
    pub(crate) async fn open(&self, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        self.open_with(self.client_config(protocols)).await
    }

    pub(crate) async fn open_with(
        &self,
        config: ClientConfig,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from(NAME).unwrap();
        within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
    }

    /// Opens a WebSocket over HTTP/1.1.
    pub(crate) async fn websocket(&self) -> WebSocketStream<TlsStream<TcpStream>> {
        let stream = self.open(&["http/1.1"]).await.unwrap();
        let url = format!("wss://{NAME}/ws");
        let connected = within(tokio_tungstenite::client_async(url, stream)).await;
        connected.unwrap().0
    }

    /// Returns a client without a connection pool.
    pub(crate) fn browser(&self, protocols: &[&str]) -> reqwest::Client {
        reqwest::Client::builder()
            .tls_backend_preconfigured(self.client_config(protocols))
            .resolve(NAME, self.address)
            .no_proxy()
            .pool_max_idle_per_host(0)
            .timeout(LIMIT)
            .build()
            .unwrap()
    }

    /// Gets the start page over this protocol, on a connection of its own.
    pub(crate) async fn page(&self, protocol: &str) -> String {
        let request = self.browser(&[protocol]).get(self.url("/"));
        request.send().await.unwrap().text().await.unwrap()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{NAME}:{}{path}", self.address.port())
    }
}

/// Waits until the tunnel is up.
pub(crate) async fn connected(remote: &RemoteAccess) {
    within(remote.status().wait_for(|status| status.is_connected()))
        .await
        .unwrap();
}

/// Returns the next event that matches.
pub(crate) async fn event<T>(
    events: &mut broadcast::Receiver<RemoteEvent>,
    mut pick: impl FnMut(RemoteEvent) -> Option<T>,
) -> T {
    within(async {
        loop {
            if let Some(found) = pick(events.recv().await.unwrap()) {
                return found;
            }
        }
    })
    .await
}

/// Returns the serial number of the peer's certificate.
pub(crate) fn shown_serial(stream: &TlsStream<TcpStream>) -> String {
    let (_, connection) = stream.get_ref();
    serial_of(&connection.peer_certificates().unwrap()[0])
}

pub(crate) fn serial_of(certificate: &CertificateDer<'_>) -> String {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).unwrap();
    parsed.tbs_certificate.serial.to_string()
}

/// Returns the serial number of a certificate in PEM.
pub(crate) fn serial_of_pem(pem: &CertificatePem) -> String {
    serial_of(&CertificateDer::from_pem_slice(pem.chain().as_bytes()).unwrap())
}
