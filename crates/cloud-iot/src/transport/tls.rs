//! TLS settings of a device: trusted roots and client certificate.
//!
//! The server's certificate and name are always verified.

use std::sync::Arc;

use cloud_pki::key;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CipherSuite, ClientConfig, RootCertStore, SignatureScheme};
use thiserror::Error;

pub use cloud_pki::key::PairError;

/// ALPN name that AWS IoT Core requires for MQTT with client certificates on port 443.
pub const ALPN_AWS_MQTT: &[u8] = b"x-amzn-mqtt-ca";

/// Why no TLS configuration can be created. Retrying does not help.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// There is no root certificate, or one of them is not usable.
    #[error("the root certificates cannot be used: {0}")]
    Roots(String),
    /// The client's certificate or key is not usable, or they do not match.
    #[error("the device's certificate and key cannot be used: {0}")]
    Identity(#[source] PairError),
    /// The cryptography provider lacks a feature; a defect of the build.
    #[error("TLS is not usable: {0}")]
    Provider(rustls::Error),
}

/// Creates a configuration that trusts `roots` and authenticates the device with `chain` and `key`.
///
/// Supports TLS 1.2 and 1.3 on ring; for TLS 1.2 only the suites with AES-GCM, because AWS's
/// policies allow no others.
///
/// `key` is wiped from memory. The copy that ring uses is not: see [`cloud_iot`](crate), "Private
/// keys in memory".
///
/// # Errors
///
/// [`TlsConfigError`] if there is no usable root, or if the key does not belong to the first
/// certificate of the chain.
pub fn client_config(
    roots: impl IntoIterator<Item = CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ClientConfig>, TlsConfigError> {
    let identity = key::certified(chain, key).map_err(TlsConfigError::Identity)?;
    client_config_with_identity(roots, identity)
}

/// Like [`client_config`], for a private key that is not available as bytes: the
/// [`SigningKey`](rustls::sign::SigningKey) of `identity` signs, for example in a security chip.
/// TLS uses one of its signature schemes that ring has too.
///
/// # Errors
///
/// [`TlsConfigError`] if there is no usable root, or if the key says that it does not belong to the
/// first certificate of the chain.
pub fn client_config_with_identity(
    roots: impl IntoIterator<Item = CertificateDer<'static>>,
    identity: CertifiedKey,
) -> Result<Arc<ClientConfig>, TlsConfigError> {
    key::check_identity(&identity).map_err(TlsConfigError::Identity)?;
    let mut store = RootCertStore::empty();
    for root in roots {
        store
            .add(root)
            .map_err(|error| TlsConfigError::Roots(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(TlsConfigError::Roots("none is given".into()));
    }
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|suite| {
        !matches!(
            suite.suite(),
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
        )
    });
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsConfigError::Provider)?
        .with_root_certificates(store)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    Ok(Arc::new(config))
}

/// Copies the configuration without the client's certificate and key, for places that would keep a
/// key in memory after its replacement.
#[must_use]
pub fn without_identity(tls: &ClientConfig) -> Arc<ClientConfig> {
    let mut tls = tls.clone();
    tls.client_auth_cert_resolver = Arc::new(NoIdentity);
    tls.resumption = Resumption::disabled();
    Arc::new(tls)
}

#[derive(Debug)]
struct NoIdentity;

impl ResolvesClientCert for NoIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// Adds the ALPN name that port 443 needs, unless there is one.
pub(crate) fn for_port(tls: Arc<ClientConfig>, port: u16) -> Arc<ClientConfig> {
    if port == 443 { with_alpn(tls) } else { tls }
}

/// Adds AWS's ALPN name for MQTT, unless there is one.
pub(crate) fn with_alpn(tls: Arc<ClientConfig>) -> Arc<ClientConfig> {
    if !tls.alpn_protocols.is_empty() {
        return tls;
    }
    let mut tls = ClientConfig::clone(&tls);
    tls.alpn_protocols = vec![ALPN_AWS_MQTT.to_vec()];
    Arc::new(tls)
}
