//! Remote access to a device's web application.
//!
//! A device sits behind somebody's router. This crate lets its owner open `https://<access point>/` anywhere: it keeps
//! a tunnel to a public relay (protocol SniTun, crate [`snitun`]), and serves what comes through it. The relay sorts the
//! public's connections by host name and never sees inside: TLS ends **on the device**, with the device's own
//! certificate.
//!
//! What it does by itself, for years:
//!
//! - asks the platform for the tunnel's token, ahead of time, and again with growing delays when no good answer comes;
//! - connects the tunnel, notices when it is dead, connects again; moves to a new one before the relay would
//!   end it for its token, at a moment at which nothing is open if there is one;
//! - serves HTTP/1.1, HTTP/2 and WebSockets from a [`tower::Service`] (such as an axum router), or passes on to a local
//!   address: as a reverse proxy, as plain bytes with the PROXY protocol, or TLS and all. See [`Application`];
//! - replaces its certificate when the platform wishes: the new one is checked, stored, then served to new connections,
//!   while open ones go on. If anything is wrong with it, the old one stays;
//! - judges dates by the platform's clock, and tells when its certificate comes near its end;
//! - looks from outside, if asked to, whether the public really gets through ([`Probe`]);
//! - keeps strangers within bounds: access rules by address range, limits on connections, time limits, checks of each
//!   request's host, length and headers.
//!
//! What it does not do: it has no session to the platform and no files of its own. It asks for both through three small
//! traits, [`TokenSource`], [`CertificateSource`] and [`CertificateStore`], and is told by
//! [`RemoteHandle::set_messaging_online`] when asking makes sense and by [`RemoteHandle::set_desired_serial`] which
//! certificate is wished for.
//!
//! ```
//! use cloud_remote::{
//!     Application, CertificateResponse, CertificatePem, CertificateRequest, CertificateSource, CertificateStore,
//!     RemoteAccess, RemoteConfig, SourceError, StoreError, TokenResponse, TokenRequest, TokenSource,
//! };
//!
//! /// Requests from the platform. A real one publishes `request.to_json()` and awaits the response.
//! struct Platform;
//!
//! impl TokenSource for Platform {
//!     async fn request_token(&self, request: TokenRequest) -> Result<TokenResponse, SourceError> {
//!         let _to_be_sent = request.to_json();
//!         Ok(TokenResponse::from_json(br#"{"valid": 1893456000, "throttling": 0, "token": "gAAAAA"}"#)?)
//!     }
//! }
//!
//! impl CertificateSource for Platform {
//!     async fn request_certificate(&self, _: CertificateRequest) -> Result<CertificateResponse, SourceError> {
//!         Err(SourceError::TimedOut)
//!     }
//! }
//!
//! /// Stores the certificate. A real one writes files.
//! struct MemoryStore(std::sync::Mutex<CertificatePem>);
//!
//! impl CertificateStore for MemoryStore {
//!     async fn load(&self) -> Result<CertificatePem, StoreError> {
//!         Ok(self.0.lock().unwrap().clone())
//!     }
//!     async fn store(&self, certificate: &CertificatePem) -> Result<(), StoreError> {
//!         *self.0.lock().unwrap() = certificate.clone();
//!         Ok(())
//!     }
//! }
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! # let name = "sn0001.ui.example.com";
//! # let own = rcgen::generate_simple_self_signed([name.to_owned()])?;
//! # let store = MemoryStore(CertificatePem::new(own.cert.pem(), own.signing_key.serialize_pem()).into());
//! let web = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
//! let remote = RemoteAccess::builder(RemoteConfig::new("127.0.0.1", 443, "sn0001.ui.example.com"))
//!     .application(Application::service(web))
//!     .start(Platform, Platform, store)
//!     .await?;
//! // The owner of the session to the platform reports that it is up:
//! remote.set_messaging_online(true);
//! remote.stop(std::time::Duration::from_secs(5)).await?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Decisions are made by a planner that is pure and tested on virtual time; a manager carries them out. The protocol is
//! described in `docs/protocol.md`, "Remote access".

mod application;
mod backoff;
mod builder;
mod catch_panic;
mod certificate;
mod clock;
mod config;
mod core;
mod driver;
mod error;
mod handle;
mod limits;
mod request_policy;
mod response;
mod reverse_proxy;
pub mod rotation;
mod server;
mod status;
mod task_group;
mod timeouts;
mod token;
mod traits;
mod tunnel;
mod upstream;

pub use application::{Application, ClientAddr, WebService};
pub use builder::{RemoteAccess, RemoteAccessBuilder};
pub use certificate::expiry::ExpiryWatch;
pub use certificate::serial::{CertificateSerial, SerialError};
pub use certificate::verify::{
    CertificateError, verify_client_certificate, verify_server_certificate,
};
pub use certificate::{CertificatePem, CertificateRequest, CertificateResponse, CertificateStatus};
pub use clock::PlatformClock;
pub use config::RemoteConfig;
pub use error::{StartError, StopError};
pub use handle::RemoteHandle;
pub use limits::Limits;
pub use request_policy::options::{
    AllowedHost, AllowedHostError, HttpOptions, PassedHeader, PassedHeaderError,
};
pub use response::{MAX_RESPONSE_SIZE, ResponseError};
pub use rotation::{RotationError, RotationStatus};
pub use server::access::{AccessRules, MAX_RULES, UnknownCallers};
pub use server::request::RequestBody;
pub use status::{RemoteEvent, RemoteStatus, TunnelStatus};
pub use timeouts::Timeouts;
pub use token::{TokenRequest, TokenResponse};
pub use traits::{CertificateSource, CertificateStore, SourceError, StoreError, TokenSource};
pub use tunnel::probe::Probe;
pub use upstream::proxy_protocol::ProxyProtocol;
pub use upstream::{CachedHost, Upstream};

/// Any error of somebody else's.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
