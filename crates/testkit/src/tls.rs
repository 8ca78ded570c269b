//! TLS configurations for both ends, with the provider of the workspace.

use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::crypto::ring;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig};

use crate::pki::{Pair, certificates};

/// Returns a client that trusts these roots only, offers these protocols (ALPN) and has no
/// certificate.
pub fn client(roots_pem: &str, protocols: &[&str]) -> ClientConfig {
    let mut config = client_builder(roots_pem).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|&name| name.into()).collect();
    config
}

/// Returns the builder of a client that trusts these roots only.
pub fn client_builder(roots_pem: &str) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    for root in certificates(roots_pem) {
        roots.add(root).unwrap();
    }
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
}

/// Returns a server that asks for no client certificate.
pub fn server(pair: &Pair) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(pair.chain(), pair.private_key())
        .unwrap()
}

/// Returns a ClientHello that asks for `name`, as small as can be, in one record.
pub fn client_hello(name: &str) -> Vec<u8> {
    fn block(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
    }
    let host = [&[0][..], &block(name.as_bytes())].concat();
    let server_name = [&[0, 0][..], &block(&block(&host))].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &block(&[0x13, 0x01]),
        &[1, 0],
        &block(&server_name),
    ]
    .concat();
    let message = [&[1, 0][..], &block(&body)].concat();
    [&[0x16, 3, 1][..], &block(&message)].concat()
}
