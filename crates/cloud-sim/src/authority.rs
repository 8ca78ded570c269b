//! The certificate authorities of the simulated cloud, and what they issue.
//!
//! There are three, as on the real platform (docs/protocol.md, "Provisioning"): one for the servers
//! that devices talk to, whose root is the `root_ca` that a device gets; another one for the
//! devices' own certificates, which does not chain to that root; and a "public" one with an
//! intermediate for the certificates of the remote UI. None of it is of any worth outside of this
//! simulator: the keys are ordinary text in the data directory.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKey, PublicKeyData,
    SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::config::BrokerCertificate;
use crate::faults::Service;

/// Certificates begin a little in the past, for devices whose clock is slow.
const CLOCK_TOLERANCE: Duration = Duration::hours(1);

/// How long an authority is good for; a data directory may be kept for long.
const AUTHORITY_LIFE: Duration = Duration::days(3650);

/// How long a device's certificate is good for, as long as on AWS or so.
const DEVICE_LIFE: Duration = Duration::days(3650);

/// How long a server's certificate is good for; each start makes a new one.
const SERVER_LIFE: Duration = Duration::days(365);

/// How long a certificate of the remote UI is good for, as usual on the public web.
const REMOTE_LIFE: Duration = Duration::days(90);

/// Bytes of a serial number. X.509 allows 20; 16 random ones never repeat.
const SERIAL_BYTES: usize = 16;

/// Names under which servers are reached on this machine.
const SERVER_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A name that no server on this machine has.
const OTHER_NAME: &str = "broker.example.com";

/// Why a certificate or an authority could not be made or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("cannot read a certificate or key of the authority: {0}")]
    Read(String),
}

/// A certificate (leaf first, then its chain) with its private key.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) chain_pem: String,
    /// `None` where the device has made the key: then nobody else has it.
    pub(crate) key_pem: Option<Zeroizing<String>>,
    /// Serial number of the leaf, in decimal text.
    pub(crate) serial: String,
}

impl Issued {
    /// The parsed form, for a TLS server or client.
    pub(crate) fn to_der(
        &self,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), AuthorityError> {
        let chain = CertificateDer::pem_slice_iter(self.chain_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| AuthorityError::Read(error.to_string()))?;
        let key = self.key_pem.as_ref().map_or("", |key| key);
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|error| AuthorityError::Read(error.to_string()))?;
        Ok((chain, key))
    }
}

/// A device's request for a certificate for a key of its own. Only the public key of it counts;
/// whether who asks has the private one was found out by reading it.
pub(crate) struct SigningRequest(PublicKey);

impl SigningRequest {
    /// `None` if it is damaged, or not signed with its own key.
    pub(crate) fn from_pem(pem: &str) -> Option<Self> {
        let request = CertificateSigningRequestParams::from_pem(pem).ok()?;
        Some(Self(request.public_key))
    }
}

/// One issuing certificate and its key, as they are kept in the data directory.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct SavedIssuer {
    certificate: String,
    key: String,
}

/// All authorities, as they are kept in the data directory.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct SavedAuthority {
    server_root: SavedIssuer,
    device_issuer: SavedIssuer,
    public_root: SavedIssuer,
    public_issuer: SavedIssuer,
}

struct IssuingAuthority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// The authorities of one simulated cloud.
pub(crate) struct Authority {
    saved: SavedAuthority,
    server_root: IssuingAuthority,
    device_issuer: IssuingAuthority,
    public_issuer: IssuingAuthority,
}

impl Authority {
    /// Makes new authorities.
    pub(crate) fn generate() -> Result<Self, AuthorityError> {
        let (public_root, public_root_issuer) = new_root("Clesyde Simulator Public Root")?;
        Self::restore(SavedAuthority {
            server_root: new_root("Clesyde Simulator IoT Root")?.0,
            device_issuer: new_root("Clesyde Simulator Device Issuer")?.0,
            public_issuer: new_intermediate(
                "Clesyde Simulator Public Issuer",
                &public_root_issuer,
            )?,
            public_root,
        })
    }

    /// Takes up authorities that were kept.
    pub(crate) fn restore(saved: SavedAuthority) -> Result<Self, AuthorityError> {
        Ok(Self {
            server_root: saved.server_root.open()?,
            device_issuer: saved.device_issuer.open()?,
            public_issuer: saved.public_issuer.open()?,
            saved,
        })
    }

    /// What to keep, so that devices provisioned before a restart stay valid.
    pub(crate) fn saved(&self) -> &SavedAuthority {
        &self.saved
    }

    /// The root that devices get for the message broker.
    pub(crate) fn iot_root_pem(&self) -> &str {
        &self.server_root.certificate_pem
    }

    /// The issuer of the devices' certificates, which the broker trusts.
    pub(crate) fn device_issuer_pem(&self) -> &str {
        &self.device_issuer.certificate_pem
    }

    /// All that a client has to trust for the broker and for the devices' pages.
    pub(crate) fn bundle_pem(&self) -> String {
        format!(
            "{}{}",
            self.server_root.certificate_pem,
            self.public_root_pem()
        )
    }

    /// The root of the devices' pages, which a browser has to trust.
    pub(crate) fn public_root_pem(&self) -> &str {
        &self.saved.public_root.certificate
    }

    /// A certificate for a server on this machine, or one that is wrong as asked for.
    pub(crate) fn issue_server(&self, kind: BrokerCertificate) -> Result<Issued, AuthorityError> {
        let mut params = match kind {
            BrokerCertificate::OtherName => leaf(&[OTHER_NAME], OTHER_NAME, SERVER_LIFE)?,
            _ => leaf(&SERVER_NAMES, "localhost", SERVER_LIFE)?,
        };
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if kind == BrokerCertificate::Expired {
            params.not_after = params.not_before;
            params.not_before -= SERVER_LIFE;
        }
        if kind == BrokerCertificate::ForeignIssuer {
            let foreign = new_root("Clesyde Simulator IoT Root")?.0.open()?;
            return issue(params, &foreign, false);
        }
        issue(params, &self.server_root, false)
    }

    /// A client certificate whose common name is the thing, for the key asked for or a new one.
    pub(crate) fn issue_device(
        &self,
        thing: &str,
        request: Option<&SigningRequest>,
    ) -> Result<Issued, AuthorityError> {
        issue_for(request, device_leaf(thing)?, &self.device_issuer, false)
    }

    /// A certificate for a device's page, for the key asked for or a new one.
    pub(crate) fn issue_remote(
        &self,
        access_point: &str,
        request: Option<&SigningRequest>,
    ) -> Result<Issued, AuthorityError> {
        issue_for(
            request,
            remote_leaf(access_point)?,
            &self.public_issuer,
            true,
        )
    }

    /// One with the serial number of `like`, but whose time is over or yet to come. `name` is the
    /// thing or access point.
    pub(crate) fn issue_untimely(
        &self,
        service: Service,
        name: &str,
        like: &Issued,
        over: bool,
    ) -> Result<Issued, AuthorityError> {
        let (mut params, by) = match service {
            Service::Iot => (device_leaf(name)?, &self.device_issuer),
            Service::Remote => (remote_leaf(name)?, &self.public_issuer),
        };
        if over {
            params.not_after = params.not_before;
            params.not_before -= REMOTE_LIFE;
        } else {
            params.not_before += REMOTE_LIFE;
            params.not_after += REMOTE_LIFE;
        }
        let leaf = CertificateDer::from_pem_slice(like.chain_pem.as_bytes())
            .map_err(|error| AuthorityError::Read(error.to_string()))?;
        let (_, parsed) = X509Certificate::from_der(&leaf)
            .map_err(|error| AuthorityError::Read(error.to_string()))?;
        params.serial_number = Some(SerialNumber::from_slice(parsed.raw_serial()));
        issue(params, by, service == Service::Remote)
    }
}

impl SavedIssuer {
    fn open(&self) -> Result<IssuingAuthority, AuthorityError> {
        let key = KeyPair::from_pem(&self.key)?;
        Ok(IssuingAuthority {
            issuer: Issuer::from_ca_cert_pem(&self.certificate, key)?,
            certificate_pem: self.certificate.clone(),
        })
    }
}

/// The common name in a client's certificate, which is the thing that it belongs to, and its serial
/// number in decimal.
pub(crate) fn thing_of(certificate: &CertificateDer<'_>) -> Option<(String, String)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    Some((name.to_owned(), parsed.tbs_certificate.serial.to_string()))
}

fn new_root(name: &str) -> Result<(SavedIssuer, Issuer<'static, KeyPair>), AuthorityError> {
    let key = KeyPair::generate()?;
    let params = authority_params(name, BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key)?.pem();
    let saved = SavedIssuer {
        certificate,
        key: key.serialize_pem(),
    };
    Ok((saved, Issuer::new(params, key)))
}

fn new_intermediate(
    name: &str,
    root: &Issuer<'static, KeyPair>,
) -> Result<SavedIssuer, AuthorityError> {
    let key = KeyPair::generate()?;
    let mut params = authority_params(name, BasicConstraints::Constrained(0));
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, root)?.pem();
    Ok(SavedIssuer {
        certificate,
        key: key.serialize_pem(),
    })
}

fn authority_params(name: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    date(&mut params, AUTHORITY_LIFE);
    params
}

fn leaf(
    names: &[&str],
    common_name: &str,
    life: Duration,
) -> Result<CertificateParams, AuthorityError> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    date(&mut params, life);
    Ok(params)
}

fn device_leaf(thing: &str) -> Result<CertificateParams, AuthorityError> {
    let mut params = leaf(&[], thing, DEVICE_LIFE)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn remote_leaf(access_point: &str) -> Result<CertificateParams, AuthorityError> {
    let mut params = leaf(&[access_point], access_point, REMOTE_LIFE)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

fn date(params: &mut CertificateParams, life: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_TOLERANCE;
    params.not_after = now + life;
    params.serial_number = Some(new_serial());
}

/// A fresh positive serial number that always takes the same number of bytes.
fn new_serial() -> SerialNumber {
    let mut bytes: [u8; SERIAL_BYTES] = rand::random();
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    SerialNumber::from_slice(&bytes)
}

fn issue_for(
    request: Option<&SigningRequest>,
    params: CertificateParams,
    by: &IssuingAuthority,
    with_chain: bool,
) -> Result<Issued, AuthorityError> {
    match request {
        Some(SigningRequest(key)) => sign(params, key, by, with_chain),
        None => issue(params, by, with_chain),
    }
}

fn issue(
    params: CertificateParams,
    by: &IssuingAuthority,
    with_chain: bool,
) -> Result<Issued, AuthorityError> {
    let key = KeyPair::generate()?;
    let issued = sign(params, &key, by, with_chain)?;
    Ok(Issued {
        key_pem: Some(Zeroizing::new(key.serialize_pem())),
        ..issued
    })
}

fn sign(
    params: CertificateParams,
    key: &impl PublicKeyData,
    by: &IssuingAuthority,
    with_chain: bool,
) -> Result<Issued, AuthorityError> {
    let certificate = params.signed_by(key, &by.issuer)?;
    let (_, parsed) = X509Certificate::from_der(certificate.der())
        .map_err(|error| AuthorityError::Read(error.to_string()))?;
    let serial = parsed.tbs_certificate.serial.to_string();
    let mut chain_pem = certificate.pem();
    if with_chain {
        chain_pem.push_str(&by.certificate_pem);
    }
    Ok(Issued {
        chain_pem,
        key_pem: None,
        serial,
    })
}

#[cfg(test)]
mod tests;
