//! A CA and its certificates.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    CertificateParams, CertifiedIssuer, CustomExtension, ExtendedKeyUsagePurpose, KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use testkit::pki::{Authority, authority_params};

pub(crate) struct Pki(Authority);

/// Peculiarity of a server certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    OtherName,
    Expired,
    /// Six large intermediate CAs: more than 16 KiB, so more than one TLS record.
    LongChain,
}

impl Pki {
    pub(crate) fn new() -> Self {
        Self::named("test CA")
    }

    pub(crate) fn named(name: &str) -> Self {
        Self(Authority::new(name))
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
        let pair = self.0.sign(&params);
        (pair.chain(), pair.private_key())
    }

    fn long_chain(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let mut chain = Vec::new();
        let mut issuer: Option<CertifiedIssuer<'static, KeyPair>> = None;
        for depth in 0..6 {
            let mut params = authority_params(&format!("intermediate {depth}"));
            // Unknown extensions that are not critical are ignored.
            params.custom_extensions = vec![CustomExtension::from_oid_content(
                &[1, 3, 6, 1, 4, 1, 99_999, 1],
                vec![4; 3000],
            )];
            let parent = issuer.as_ref().unwrap_or(self.0.issuer());
            let next =
                CertifiedIssuer::signed_by(params, KeyPair::generate().unwrap(), parent).unwrap();
            chain.insert(0, next.der().clone());
            issuer = Some(next);
        }
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, issuer.as_ref().unwrap()).unwrap();
        chain.insert(0, leaf.der().clone());
        assert!(chain.iter().map(|c| c.len()).sum::<usize>() > 16 << 10);
        (chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    /// A server for `localhost` that requires a certificate of this CA.
    pub(crate) fn server(&self, flaw: Flaw) -> Arc<ServerConfig> {
        self.server_with(flaw, rustls::ALL_VERSIONS)
    }

    /// A server with one version of TLS only.
    pub(crate) fn server_of_version(
        &self,
        flaw: Flaw,
        version: &'static SupportedProtocolVersion,
    ) -> Arc<ServerConfig> {
        self.server_with(flaw, &[version])
    }

    fn server_with(
        &self,
        flaw: Flaw,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ServerConfig> {
        let name = if flaw == Flaw::OtherName {
            "other.example"
        } else {
            "localhost"
        };
        let (chain, key) = match flaw {
            Flaw::LongChain => self.long_chain(name),
            _ => self.sign(
                name,
                ExtendedKeyUsagePurpose::ServerAuth,
                flaw == Flaw::Expired,
            ),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(self.0.root()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
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

    /// Writes the files of a device of this CA to a directory, for [`read_device`] in another
    /// process.
    pub(crate) fn write_device(&self, directory: &Path) {
        let (chain, key) = self.sign("device", ExtendedKeyUsagePurpose::ClientAuth, false);
        let write = |name: &str, der: &[u8]| fs::write(directory.join(name), der).unwrap();
        write("root", &self.0.root());
        write("certificate", &chain[0]);
        write("key", key.secret_der());
    }

    /// A device of this CA that trusts another one.
    pub(crate) fn device_trusting(&self, other: &Self) -> Arc<ClientConfig> {
        let (chain, key) = self.sign("device", ExtendedKeyUsagePurpose::ClientAuth, false);
        cloud_iot::tls::client_config([other.0.root()], chain, key).unwrap()
    }
}

/// A device from the files of [`Pki::write_device`].
pub(crate) fn read_device(directory: &Path) -> Arc<ClientConfig> {
    let read = |name: &str| fs::read(directory.join(name)).unwrap();
    let key = PrivateKeyDer::try_from(read("key")).unwrap();
    let certificate = read("certificate").into();
    cloud_iot::tls::client_config([read("root").into()], vec![certificate], key).unwrap()
}
