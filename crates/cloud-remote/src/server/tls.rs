//! TLS on the device, which the relay cannot read.
//!
//! The certificate is resolved for each handshake, so it can be replaced between handshakes; open
//! connections are unaffected. So can the authorities of client certificates.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, ResolvesServerCert, ServerSessionMemoryCache, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::auth::{AuthLayer, ClientCertificates, ClientRoots};

/// TLS 1.2 sessions stored for resumption: some kilobytes; the browsers of a household need far
/// fewer.
const SESSIONS: usize = 128;

/// Resolves each handshake to the current certificate.
#[derive(Debug)]
pub(crate) struct CurrentCertificate(RwLock<Arc<CertifiedKey>>);

impl CurrentCertificate {
    pub(crate) fn new(key: Arc<CertifiedKey>) -> Arc<Self> {
        Arc::new(Self(RwLock::new(key)))
    }

    /// Replaces the certificate for new handshakes.
    pub(crate) fn swap(&self, key: Arc<CertifiedKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = key;
    }

    pub(crate) fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

/// The TLS configuration of a backend, which follows the rules for client certificates.
#[derive(Debug)]
pub(crate) struct TlsEndpoint {
    certificate: Arc<CurrentCertificate>,
    protocols: Vec<Vec<u8>>,
    clients: ClientCertificates,
    auth: AuthLayer,
    current: Mutex<Current>,
}

/// The acceptor for the authorities that hold.
#[derive(Clone)]
struct Current {
    roots: Option<ClientRoots>,
    acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Current").field(&self.roots).finish()
    }
}

impl TlsEndpoint {
    /// Creates a configuration that offers `protocols` by ALPN in order of preference; without any,
    /// none is negotiated.
    pub(crate) fn new(
        certificate: Arc<CurrentCertificate>,
        protocols: impl IntoIterator<Item = Vec<u8>>,
        clients: ClientCertificates,
        auth: AuthLayer,
    ) -> Result<Self, rustls::Error> {
        let protocols: Vec<_> = protocols.into_iter().collect();
        let roots = auth.roots();
        let verifier = verifier(roots.as_ref(), clients, &auth);
        let config = server_config(Arc::clone(&certificate), &protocols, verifier)?;
        let acceptor = TlsAcceptor::from(config);
        Ok(Self {
            certificate,
            protocols,
            clients,
            auth,
            current: Mutex::new(Current { roots, acceptor }),
        })
    }

    /// Returns the acceptor for a handshake. Sessions from before a change of the authorities are
    /// not resumed.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, rustls::Error> {
        let roots = self.auth.roots();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let is_current = match (&current.roots, &roots) {
            (None, None) => true,
            (Some(one), Some(other)) => one.is(other),
            _ => false,
        };
        if !is_current {
            let verifier = verifier(roots.as_ref(), self.clients, &self.auth);
            let config = server_config(Arc::clone(&self.certificate), &self.protocols, verifier)?;
            *current = Current {
                roots,
                acceptor: TlsAcceptor::from(config),
            };
        }
        Ok(current.acceptor.clone())
    }
}

fn verifier(
    roots: Option<&ClientRoots>,
    clients: ClientCertificates,
    auth: &AuthLayer,
) -> Arc<dyn ClientCertVerifier> {
    match roots {
        Some(roots) => roots.tls_verifier(clients, auth.clock().clone()),
        None => WebPkiClientVerifier::no_client_auth(),
    }
}

/// Creates a configuration for TLS 1.2 and 1.3 with session resumption by tickets, and from memory.
fn server_config(
    certificate: Arc<CurrentCertificate>,
    protocols: &[Vec<u8>],
    clients: Arc<dyn ClientCertVerifier>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(certificate);
    config.alpn_protocols = protocols.to_vec();
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(Arc::new(config))
}
