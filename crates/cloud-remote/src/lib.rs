//! Remote access to a device's web application.
//!
//! A device is usually behind a router with NAT. This crate makes it reachable at a public URL such
//! as `https://sn0001.ui.example.com/`: it keeps a tunnel to a public relay (protocol SniTun, crate
//! [`snitun`]) and serves the connections that arrive through it. The relay routes public
//! connections by host name (SNI) and cannot read them: TLS terminates **on the device**, with the
//! device's own certificate.
//!
//! Features:
//!
//! - requests the tunnel's token from the platform ahead of its expiry, and retries with back-off;
//! - connects the tunnel, detects a dead link, and reconnects; hands over to a new tunnel before
//!   the relay would end the old one for its expired token, if possible while no connection is
//!   open;
//! - serves HTTP/1.1, HTTP/2 and WebSockets from a [`tower::Service`] (such as an axum router), or
//!   forwards to a local address: as a reverse proxy, as plain TCP with the PROXY protocol, or with
//!   TLS passed through. See [`Application`];
//! - rotates its certificate when the platform desires another one: the new certificate is
//!   verified, stored, and then served to new connections; open connections continue. If
//!   verification fails, the old certificate stays;
//! - checks dates by the platform's clock, and reports when its certificate expires soon;
//! - optionally probes its own reachability through the public access point ([`Probe`]);
//! - asks callers for passwords or client certificates before a request reaches the application:
//!   [`auth`];
//! - limits untrusted callers: access rules by address range, connection and request limits,
//!   timeouts, checks of each request's host, length and headers.
//!
//! The crate has no session to the platform and no files. It uses three small traits instead,
//! [`TokenSource`], [`CertificateSource`] and [`CertificateStore`].
//! [`RemoteAccess::set_messaging_online`] reports when the platform can be reached, and
//! [`RemoteAccess::set_desired_serial`] sets the certificate that the platform desires.
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
//! # Features
//!
//! | to do this | use |
//! |---|---|
//! | serve a router or another service of this process | [`Application::service`] |
//! | forward to a local web server | [`Application::forward`], [`Application::forward_with`] |
//! | distribute requests among several applications, by host and path | [`Application::routes`] |
//! | forward bytes, with or without TLS | [`Application::forward_tcp`], [`Application::passthrough`] |
//! | serve another application without a restart | [`RemoteAccess::set_application`] |
//! | admit some callers only | [`RemoteAccessBuilder::access`], [`RemoteAccess::set_access`] |
//! | ask callers for a password or a client certificate | [`auth`] |
//! | serve other host names, pass on headers of a trusted proxy | [`RemoteAccessBuilder::http`], [`HttpOptions`], [`RemoteAccess::set_http`] |
//! | change limits and timeouts | [`Limits`], [`RemoteAccess::set_limits`], [`Timeouts`] |
//! | reach the relay through a proxy | [`RemoteAccessBuilder::proxy`], [`RemoteAccess::set_proxy`] |
//! | learn the state | [`RemoteAccess::status`] for the latest, [`RemoteAccess::events`] for each change |
//! | see who is connected, and how much is transferred | [`RemoteAccess::visitors`], [`RemoteAccess::traffic`], [`RemoteAccess::tunnel_stats`] |
//! | log or count each request, connection and refusal | [`RemoteAccessBuilder::on_access`] |
//! | learn why the tunnel was connected again | [`RemoteAccess::reconnects`] |
//! | learn whether a local application answers | [`RemoteAccess::upstream_health`], [`RemoteAccess::upstream_health_of`], [`RemoteAccess::upstream_changes`] |
//! | check certificates as this crate does | [`verify_server_certificate`], [`verify_client_certificate`] |
//! | rotate another certificate likewise | [`rotation`] |
//!
//! The crate has no Cargo features. The API has types of [`http`], [`rustls`] and
//! [`tower`]; [`rustls`] is re-exported, because a program needs its version for [`UpstreamTls`].
//!
//! # Errors
//!
//! | error | of | again later? |
//! |---|---|---|
//! | [`StartError`] | [`RemoteAccessBuilder::start`], [`RemoteAccess::set_application`] | no: change the configuration or the stored certificate |
//! | [`StopError`] | [`RemoteAccess::stop`] | the application holds connections that it has not closed |
//! | [`SourceError`] | a [`TokenSource`] or [`CertificateSource`] | this crate tries again; reported as an event |
//! | [`StoreError`] | a [`CertificateStore`] | the same |
//! | [`ResponseError`] | parsing a response of the platform | the same |
//! | [`RotationError`], [`CertificateError`] | a new certificate | the same; the old one stays in use |
//! | [`AllowedHostError`], [`PassedHeaderError`], [`SerialError`], [`UpstreamTlsError`], [`CertificatePinError`], [`SentHostError`], [`RouteHostError`], [`PathPrefixError`], [`RoutesError`], [`InvalidProxy`], [`auth::PasswordFileError`], [`auth::ClientRootsError`] | a value of the configuration | no: change it |
//!
//! Failures of the tunnel are no errors of a call: it is connected again, and status and events
//! have the reason. A caller whose request fails gets a page that says so.
//!
//! # Structure
//!
//! The core (pure, tested on virtual time) makes the decisions, and the driver executes them. The
//! protocol is described in `docs/protocol.md`: "Remote access" (token, certificate rotation),
//! "SniTun", "IoT messaging" (client certificate) and "On disk".

mod access_record;
mod application;
pub mod auth;
mod backoff;
mod builder;
mod catch_panic;
mod certificate;
mod certificate_pin;
mod clock;
mod config;
mod core;
mod driver;
mod error;
mod limits;
mod path_prefix;
mod remote_access;
mod request_policy;
mod response;
mod reverse_proxy;
pub mod rotation;
mod server;
mod shared_setting;
mod status;
mod task_group;
mod timeouts;
mod token;
mod traffic;
mod traits;
mod tunnel;
mod upstream;

pub use cloud_net::{InvalidProxy, Proxy};
pub use rustls;
pub use snitun::client::Token;
pub use snitun::{Cipher, ProtocolVersion, TunnelStats};

pub use access_record::{AccessRecord, ConnectionRecord, Refusal, RefusedRecord, RequestRecord};
pub use application::routes::{
    MAX_ROUTES, RouteHost, RouteHostError, RouteMatch, Routes, RoutesError,
};
pub use application::{Application, ClientAddr, WebService};
pub use builder::RemoteAccessBuilder;
pub use certificate::expiry::ExpiryWatch;
pub use certificate::serial::{CertificateSerial, SerialError};
pub use certificate::verify::{
    CertificateError, verify_client_certificate, verify_server_certificate,
};
pub use certificate::{CertificatePem, CertificateRequest, CertificateResponse, CertificateStatus};
pub use certificate_pin::{CertificatePin, CertificatePinError};
pub use clock::PlatformClock;
pub use config::RemoteConfig;
pub use error::{StartError, StopError};
pub use limits::Limits;
pub use path_prefix::{PathPrefix, PathPrefixError};
pub use remote_access::{MIN_STOP_DEADLINE, RemoteAccess};
pub use request_policy::options::{
    AllowedHost, AllowedHostError, HttpOptions, PassedHeader, PassedHeaderError,
};
pub use response::{MAX_RESPONSE_SIZE, ResponseError};
pub use reverse_proxy::options::{
    ForwardOptions, SentHost, SentHostError, UpstreamProtocol, UpstreamTls, UpstreamTlsError,
};
pub use rotation::{RotationError, RotationStatus};
pub use server::access::{AccessRules, MAX_RULES, UnknownCallers};
pub use server::request::RequestBody;
pub use status::{RemoteEvent, RemoteStatus, TunnelStatus};
pub use timeouts::Timeouts;
pub use token::{TokenRequest, TokenResponse};
pub use traffic::{Traffic, Visitor};
pub use traits::{CertificateSource, CertificateStore, SourceError, StoreError, TokenSource};
pub use tunnel::probe::Probe;
pub use tunnel::reconnect_cause::ReconnectCause;
pub use upstream::health::{UpstreamFailure, UpstreamHealth};
pub use upstream::proxy_protocol::ProxyProtocol;
pub use upstream::{Upstream, UpstreamHost};

/// An error of an application or a trait implementation.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
