//! TLS configuration: the system's roots plus additional ones. Verification cannot be disabled.

use std::sync::Arc;

use cloud_pki::pem::{self, PemError};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;

use crate::error::BuildError;

/// Creates a configuration that offers HTTP/2 and HTTP/1.1 and verifies the server against `extra`
/// and the system's roots.
pub(crate) fn client_config(extra: &[CertificateDer<'static>]) -> Result<ClientConfig, BuildError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!(%error, "cannot read a root certificate of the system");
    }
    // Some systems ship individual roots that the verifier rejects; use the others.
    roots.add_parsable_certificates(system.certs);
    for root in extra {
        roots
            .add(root.clone())
            .map_err(|_| BuildError::UnusableRoot)?;
    }
    if roots.is_empty() {
        return Err(BuildError::NoRoots);
    }
    configuration(roots)
}

/// Creates a configuration without trusted roots, for a client that uses no TLS.
pub(crate) fn without_roots() -> Result<ClientConfig, BuildError> {
    configuration(RootCertStore::empty())
}

/// Maximum number of additional roots: a full set of public ones has about 150.
const MAX_ROOTS: usize = 512;

pub(crate) fn roots_from_pem(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, BuildError> {
    let text = str::from_utf8(text).map_err(|_| BuildError::Root(PemError::Syntax))?;
    pem::certificates(text, MAX_ROOTS).map_err(BuildError::Root)
}

fn configuration(roots: RootCertStore) -> Result<ClientConfig, BuildError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| BuildError::Http(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
