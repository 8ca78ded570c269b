//! Starts all the parts of the simulated cloud, and stops them.
//!
//! Every listener is bound before its address is reported, so that a [`Simulator`] in hand is one
//! that answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::authority::{Authority, AuthorityError};
use crate::broker::Broker;
use crate::config::{BrokerCertificate, Listener, Ready, SimConfig, SimError};
use crate::control::Control;
use crate::device::DeviceTable;
use crate::faults::FaultInjector;
use crate::platform::{Platform, Settings};
use crate::relay::{Relay, TokenSettings};
use crate::request_guard::{ControlToken, RequestGuard};
use crate::responses::PLATFORM_FILTERS;
use crate::store::{DirectoryLock, SavedPorts, SavedState, Store};
use crate::{api, control_api, http, relay};

/// The host name of the broker and the relay in the endpoints that devices get. Each is bound to
/// 127.0.0.1 alone.
const HOST: &str = "localhost";

/// The ALPN names that the broker takes: the one that AWS wants on port 443, and the registered
/// one.
const ALPN: [&[u8]; 2] = [b"x-amzn-mqtt-ca", b"mqtt"];

/// Longest validity of a token. Beyond, it would not be a date any more.
const MAX_TOKEN_VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Bytes of randomness in the provisioning key.
const KEY_BYTES: usize = 16;

/// How long the parts may take to stop; each has a shorter limit of its own.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A running cloud on 127.0.0.1.
///
/// Dropping it stops everything soon; [`stop`](Self::stop) waits until it has. A data directory is
/// one simulator's at a time.
pub struct Simulator {
    api: SocketAddr,
    mqtt: SocketAddr,
    relay: SocketAddr,
    control_addr: SocketAddr,
    provisioning_key: String,
    ca_pem: String,
    ca_file: PathBuf,
    public_root_file: PathBuf,
    control_token: ControlToken,
    control_token_file: PathBuf,
    control: Control,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
    _lock: DirectoryLock,
    /// Holds the file of roots where there is no data directory; removed with the simulator.
    _scratch: Option<tempfile::TempDir>,
}

impl Simulator {
    /// Starts a cloud; it is ready when this returns.
    ///
    /// # Errors
    /// If a port cannot be had, the data directory cannot be used, or a setting is out of its
    /// range.
    pub async fn start(config: SimConfig) -> Result<Self, SimError> {
        if config.token_valid.is_zero() || config.token_valid > MAX_TOKEN_VALID {
            return Err(SimError::Invalid(
                "a token's validity must be 1 second to 10 years".to_owned(),
            ));
        }
        let (scratch, directory) = directory(config.data_dir.as_deref())?;
        let unusable = |source| SimError::DataDir {
            directory: directory.clone(),
            source,
        };
        let store = Store::open(&directory).map_err(unusable)?;
        let lock = store.lock().map_err(unusable)?;
        let state = store.load().map_err(unusable)?;
        let InitialState {
            authority,
            provisioning_key,
            fernet_key,
            devices,
            ports: kept,
        } = InitialState::from(state)?;
        let (api_listener, api) = listen(Listener::Api, config.api_port, kept.api).await?;
        let (mqtt_listener, mqtt) = listen(Listener::Mqtt, config.mqtt_port, kept.mqtt).await?;
        let (relay_listener, relay_addr) =
            listen(Listener::Relay, config.relay_port, kept.relay).await?;
        let (control_listener, control_addr) =
            listen(Listener::Control, config.control_port, kept.control).await?;
        let ca_pem = authority.bundle_pem();
        let ca_file = store.write_roots(&ca_pem).map_err(unusable)?;
        let public_root_file = store
            .write_public_root(authority.public_root_pem())
            .map_err(unusable)?;
        // A new one each time: what an earlier simulator's users were given ends with it.
        let control_token = ControlToken::random();
        let control_token_file = store
            .write_control_token(control_token.as_str())
            .map_err(unusable)?;
        let tls = broker_tls(&authority, config.broker_certificate)?;

        let faults = Arc::new(FaultInjector::new());
        let broker = Arc::new(Broker::new(config.delta_form, Arc::clone(&faults)));
        let session = broker
            .platform_session(&PLATFORM_FILTERS)
            .await
            .map_err(|error| SimError::Broker(error.to_string()))?;
        let (relay, relay_server) = Relay::new(fernet_key, config.callers_per_address)
            .map_err(|error| SimError::Relay(error.to_string()))?;
        let settings = Settings {
            provisioning_key: provisioning_key.clone(),
            mqtt_endpoint: endpoint(config.bare_endpoints, mqtt),
            relay_endpoint: endpoint(config.bare_endpoints, relay_addr),
            tokens: TokenSettings {
                version: config.protocol_version,
                cipher: config.cipher,
                throttling: config.throttling,
            },
            token_valid: config.token_valid,
            ports: SavedPorts {
                api: api.port(),
                mqtt: mqtt.port(),
                relay: relay_addr.port(),
                control: control_addr.port(),
            },
        };
        let kept = config.data_dir.is_some().then_some(store);
        let platform = Arc::new(Platform::new(
            settings,
            authority,
            devices,
            faults,
            Arc::clone(&broker),
            relay,
            kept,
        ));
        platform.save();
        let control = Control::new(Arc::clone(&platform));

        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let identify = {
            let platform = Arc::clone(&platform);
            move |thing: &str, serial: &str| platform.identify(thing, serial)
        };
        tasks.spawn(http::serve(
            api_listener,
            api::router(Arc::clone(&platform)),
            shutdown.clone(),
        ));
        tasks.spawn(http::serve(
            control_listener,
            control_api::router(
                control.clone(),
                RequestGuard::new(control_addr.port(), control_token.clone()),
            ),
            shutdown.clone(),
        ));
        tasks.spawn(broker.serve(mqtt_listener, tls, identify, shutdown.clone()));
        tasks.spawn(relay::serve(relay_server, relay_listener, shutdown.clone()));
        tasks.spawn(platform.run(session, shutdown.clone()));
        tracing::info!(%api, %mqtt, relay = %relay_addr, control = %control_addr, "simulator is ready");

        Ok(Self {
            api,
            mqtt,
            relay: relay_addr,
            control_addr,
            provisioning_key,
            ca_pem,
            ca_file,
            public_root_file,
            control_token,
            control_token_file,
            control,
            shutdown,
            tasks,
            _lock: lock,
            _scratch: scratch,
        })
    }

    /// Base URL of the provisioning API: plain HTTP, on loopback.
    #[must_use]
    pub fn api_url(&self) -> String {
        format!("http://{}", self.api)
    }

    /// The provisioning key. It works for any serial number, once for each.
    #[must_use]
    pub fn provisioning_key(&self) -> &str {
        &self.provisioning_key
    }

    /// Address of the broker. Devices know it as `localhost`, with the port unless endpoints are
    /// bare.
    #[must_use]
    pub fn mqtt_addr(&self) -> SocketAddr {
        self.mqtt
    }

    /// Address of the relay, for tunnels as well as for the public.
    #[must_use]
    pub fn relay_addr(&self) -> SocketAddr {
        self.relay
    }

    /// Base URL of the control API.
    #[must_use]
    pub fn control_url(&self) -> String {
        format!("http://{}", self.control_addr)
    }

    /// The token that a request to the control API carries as `Authorization: Bearer <token>`.
    /// Secret.
    #[must_use]
    pub fn control_token(&self) -> &str {
        self.control_token.as_str()
    }

    /// A file with [`control_token`](Self::control_token) that its owner alone can read: in the
    /// data directory, or else a temporary one that goes with the simulator.
    #[must_use]
    pub fn control_token_file(&self) -> &Path {
        &self.control_token_file
    }

    /// The roots to trust for the broker and for the devices' pages, in PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// A file with [`ca_pem`](Self::ca_pem): in the data directory, or else a temporary one that
    /// goes with the simulator.
    #[must_use]
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// A file with the root to trust for the devices' pages alone, in PEM, beside
    /// [`ca_file`](Self::ca_file).
    #[must_use]
    pub fn public_root_file(&self) -> &Path {
        &self.public_root_file
    }

    /// The same as the control API, without HTTP.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// What to tell a script that waits for the simulator.
    #[must_use]
    pub fn ready(&self) -> Ready {
        Ready {
            event: "ready".to_owned(),
            api_url: self.api_url(),
            provisioning_key: self.provisioning_key.clone(),
            mqtt: format!("{HOST}:{}", self.mqtt.port()),
            relay: format!("{HOST}:{}", self.relay.port()),
            control_url: self.control_url(),
            control_token_file: self.control_token_file.clone(),
            ca_file: self.ca_file.clone(),
            public_root_file: self.public_root_file.clone(),
        }
    }

    /// Stops everything: devices get a DISCONNECT, tunnels are closed, no task is left when this
    /// returns. At most 10 seconds.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        let stopped = tokio::time::timeout(STOP_LIMIT, async {
            while self.tasks.join_next().await.is_some() {}
        });
        if stopped.await.is_err() {
            tracing::warn!("a part of the simulator did not stop in time and is dropped");
            self.tasks.shutdown().await;
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.shutdown.cancel();
        // The tasks end by themselves then; aborting them would cut what they still have to say.
        self.tasks.detach_all();
    }
}

/// What a simulator starts from: what was kept, or else something new.
struct InitialState {
    authority: Authority,
    provisioning_key: String,
    fernet_key: Option<String>,
    devices: DeviceTable,
    ports: SavedPorts,
}

impl InitialState {
    fn from(state: Option<SavedState>) -> Result<Self, SimError> {
        let failed = |error: AuthorityError| SimError::Authority(error.to_string());
        Ok(match state {
            Some(state) => Self {
                authority: Authority::restore(state.authority).map_err(failed)?,
                provisioning_key: state.provisioning_key,
                fernet_key: Some(state.fernet_key),
                devices: DeviceTable::restore(state.devices),
                ports: state.ports,
            },
            None => Self {
                authority: Authority::generate().map_err(failed)?,
                provisioning_key: random_key(),
                fernet_key: None,
                devices: DeviceTable::default(),
                ports: SavedPorts::default(),
            },
        })
    }
}

fn random_key() -> String {
    let bytes: [u8; KEY_BYTES] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Listens on the port that was given, or else on the one that was kept; 0 is any free one.
async fn listen(
    listener: Listener,
    given: u16,
    kept: u16,
) -> Result<(TcpListener, SocketAddr), SimError> {
    let port = if given == 0 { kept } else { given };
    let failed = |source| {
        if given == port {
            SimError::Listen {
                listener,
                port,
                source,
            }
        } else {
            SimError::KeptPort {
                listener,
                port,
                source,
            }
        }
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// The data directory, or a temporary one.
fn directory(data_dir: Option<&Path>) -> Result<(Option<tempfile::TempDir>, PathBuf), SimError> {
    match data_dir {
        Some(directory) => Ok((None, directory.to_owned())),
        None => {
            let failed = |source| SimError::DataDir {
                directory: std::env::temp_dir(),
                source,
            };
            let scratch = tempfile::Builder::new()
                .prefix("clesyde-sim-")
                .tempdir()
                .map_err(failed)?;
            let path = scratch.path().to_owned();
            Ok((Some(scratch), path))
        }
    }
}

fn endpoint(bare: bool, address: SocketAddr) -> String {
    if bare {
        HOST.to_owned()
    } else {
        format!("{HOST}:{}", address.port())
    }
}

/// TLS of the broker: a client certificate is demanded, and has to come from the device authority.
fn broker_tls(
    authority: &Authority,
    certificate: BrokerCertificate,
) -> Result<TlsAcceptor, SimError> {
    let failed = |error: &dyn std::fmt::Display| SimError::Authority(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let issuer = CertificateDer::from_pem_slice(authority.device_issuer_pem().as_bytes())
        .map_err(|error| failed(&error))?;
    let mut trusted = RootCertStore::empty();
    trusted.add(issuer).map_err(|error| failed(&error))?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(trusted), Arc::clone(&provider))
            .build()
            .map_err(|error| failed(&error))?;
    let (chain, key) = authority
        .issue_server(certificate)
        .and_then(|issued| issued.to_der())
        .map_err(|error| failed(&error))?;
    let certified =
        CertifiedKey::from_der(chain, key, &provider).map_err(|error| failed(&error))?;
    let certified = Arc::new(certified);
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(NamedCertificate(certified)));
    tls.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
    Ok(TlsAcceptor::from(Arc::new(tls)))
}

/// The certificate for clients that name the endpoint in the TLS handshake. AWS IoT Core refuses
/// all others.
#[derive(Debug)]
struct NamedCertificate(Arc<CertifiedKey>);

impl ResolvesServerCert for NamedCertificate {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        (hello.server_name()? == HOST).then(|| Arc::clone(&self.0))
    }
}
