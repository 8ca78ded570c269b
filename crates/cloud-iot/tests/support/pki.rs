//! A CA and what it signs.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub(crate) struct Pki {
    ca: CertifiedIssuer<'static, KeyPair>,
}

/// What is unusual about a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    OtherName,
    Expired,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { ca }
    }

    fn sign(
        &self,
        name: &str,
        usage: ExtendedKeyUsagePurpose,
        expired: bool,
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        if expired {
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (vec![certificate.der().clone()], key)
    }

    fn root(&self) -> CertificateDer<'static> {
        self.ca.der().clone()
    }

    /// A server for `localhost` that demands a certificate of this CA.
    pub(crate) fn server(&self, flaw: Flaw) -> Arc<ServerConfig> {
        let name = if flaw == Flaw::OtherName {
            "other.example"
        } else {
            "localhost"
        };
        let (chain, key) = self.sign(
            name,
            ExtendedKeyUsagePurpose::ServerAuth,
            flaw == Flaw::Expired,
        );
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.root()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }

    /// A device of this CA that trusts this CA.
    pub(crate) fn device(&self) -> Arc<ClientConfig> {
        self.device_trusting(self)
    }

    /// A device of this CA that trusts another one.
    pub(crate) fn device_trusting(&self, other: &Self) -> Arc<ClientConfig> {
        let (chain, key) = self.sign("device", ExtendedKeyUsagePurpose::ClientAuth, false);
        cloud_iot::tls::client_config([other.root()], chain, key).unwrap()
    }
}
