//! What a registration yields, and what it takes to believe it.
//!
//! Checked before anyone gets to see it: certificates are certificates, each key belongs to its certificate, endpoints
//! are host names. Not checked: whether a chain leads to a root. The device certificate need not chain to the root that
//! comes with it, and the remote one's root is its visitors' affair.
//!
//! Protocol: `docs/protocol.md`, "Provisioning".

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer};

use crate::answer::Thing;
use crate::clock::ClockSkew;
use crate::error::Malformed;
use crate::keys::{KeyOrigin, OwnKey, OwnKeys};
use crate::secret::PrivateKeyPem;
use crate::serial;

/// Everything that a device gets when it is registered. Texts are as the platform sent them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Provisioned {
    /// For messaging.
    pub iot: IotIdentity,
    /// For remote access.
    pub remote: RemoteIdentity,
    /// How far this device's clock is from the platform's. `None` if the answer had no date.
    pub clock_skew: Option<ClockSkew>,
}

/// Who the device is for the MQTT broker, and where that is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct IotIdentity {
    /// The broker: host, perhaps with a port.
    pub endpoint: String,
    /// The device's name there.
    pub thing_name: String,
    /// The device's client certificate, PEM.
    pub device_certificate: String,
    /// Roots to trust for the broker, PEM.
    pub root_ca: String,
    /// The key of the client certificate.
    pub private_key: PrivateKeyPem,
    /// Where that key was made.
    pub key_origin: KeyOrigin,
}

/// Who the device is for the public, and where the tunnel leads.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RemoteIdentity {
    /// The tunnel's relay: host, perhaps with a port.
    pub endpoint: String,
    /// The host name under which the public reaches the device.
    pub access_point: String,
    /// The public certificate, leaf first, then its chain, PEM.
    pub certificate_chain: String,
    /// The key of the public certificate.
    pub private_key: PrivateKeyPem,
    /// Where that key was made.
    pub key_origin: KeyOrigin,
}

/// Why an answer is not believed.
pub(crate) enum Doubt {
    Malformed(Malformed),
    /// The key at this place does not belong to its certificate.
    Mismatched(&'static str),
    /// The certificate at this place does not belong to the key that we made.
    Foreign(&'static str),
}

impl From<Malformed> for Doubt {
    fn from(what: Malformed) -> Self {
        Self::Malformed(what)
    }
}

impl Provisioned {
    /// Believes an answer, or not. Keys of our own fill in for those that are not in it.
    pub(crate) fn check(
        thing: Thing,
        keys: Option<&OwnKeys>,
        clock_skew: Option<ClockSkew>,
    ) -> Result<Self, Doubt> {
        let iot = required(thing.iot, "registration.thing.iot")?;
        let certificates = required(iot.certificates, "registration.thing.iot.certificates")?;
        let iot_key = match (iot.key_pair, keys) {
            (Some(pair), keys) => chosen(pair.private_key, keys.map(|keys| &keys.iot), IOT_KEY)?,
            (None, Some(keys)) => chosen(None, Some(&keys.iot), IOT_KEY)?,
            (None, None) => return Err(Malformed::Missing("registration.thing.iot.keyPair").into()),
        };
        let remote = required(thing.remote, "registration.thing.remote")?;
        let remote_key = chosen(remote.pkey, keys.map(|keys| &keys.remote), REMOTE_KEY)?;
        let provisioned = Self {
            iot: IotIdentity {
                endpoint: required(iot.endpoint, IOT_ENDPOINT)?,
                thing_name: required(iot.thing_name, THING_NAME)?,
                device_certificate: required(certificates.device_certificate, DEVICE_CERTIFICATE)?,
                root_ca: required(certificates.root_ca, ROOT_CA)?,
                private_key: iot_key.0,
                key_origin: iot_key.1,
            },
            remote: RemoteIdentity {
                endpoint: required(remote.endpoint, REMOTE_ENDPOINT)?,
                access_point: required(remote.access_point, ACCESS_POINT)?,
                certificate_chain: required(remote.cert, REMOTE_CERT)?,
                private_key: remote_key.0,
                key_origin: remote_key.1,
            },
            clock_skew,
        };
        let Self { iot, remote, .. } = &provisioned;
        valid(
            serial::check(&iot.thing_name).is_ok(),
            THING_NAME,
            "is not a thing name",
        )?;
        valid(
            is_endpoint(&iot.endpoint),
            IOT_ENDPOINT,
            "is not a host name",
        )?;
        valid(
            is_endpoint(&remote.endpoint),
            REMOTE_ENDPOINT,
            "is not a host name",
        )?;
        valid(
            is_host(&remote.access_point),
            ACCESS_POINT,
            "is not a host name",
        )?;
        valid(
            are_roots(&iot.root_ca),
            ROOT_CA,
            "holds no usable root certificate",
        )?;
        check_pair(
            &iot.device_certificate,
            DEVICE_CERTIFICATE,
            &iot.private_key,
            IOT_KEY,
            iot.key_origin,
        )?;
        check_pair(
            &remote.certificate_chain,
            REMOTE_CERT,
            &remote.private_key,
            REMOTE_KEY,
            remote.key_origin,
        )?;
        Ok(provisioned)
    }
}

const IOT_ENDPOINT: &str = "registration.thing.iot.endpoint";
const THING_NAME: &str = "registration.thing.iot.thing_name";
const DEVICE_CERTIFICATE: &str = "registration.thing.iot.certificates.device_certificate";
const ROOT_CA: &str = "registration.thing.iot.certificates.root_ca";
const IOT_KEY: &str = "registration.thing.iot.keyPair.privateKey";
const REMOTE_ENDPOINT: &str = "registration.thing.remote.endpoint";
const ACCESS_POINT: &str = "registration.thing.remote.access_point";
const REMOTE_CERT: &str = "registration.thing.remote.cert";
const REMOTE_KEY: &str = "registration.thing.remote.pkey";

fn required<T>(value: Option<T>, field: &'static str) -> Result<T, Malformed> {
    value.ok_or(Malformed::Missing(field))
}

/// The platform's key where it sent one, be it that we had asked for none: its certificate is for that key.
fn chosen(
    sent: Option<PrivateKeyPem>,
    own: Option<&OwnKey>,
    field: &'static str,
) -> Result<(PrivateKeyPem, KeyOrigin), Malformed> {
    match (sent, own) {
        (Some(sent), own) => {
            if own.is_some() {
                tracing::warn!(
                    field,
                    "the platform made a key although this device has its own"
                );
            }
            Ok((sent, KeyOrigin::Platform))
        }
        (None, Some(own)) => Ok((own.private_key.clone(), KeyOrigin::Device)),
        (None, None) => Err(Malformed::Missing(field)),
    }
}

fn valid(is_valid: bool, field: &'static str, problem: &'static str) -> Result<(), Malformed> {
    if is_valid {
        Ok(())
    } else {
        Err(Malformed::Invalid { field, problem })
    }
}

fn is_host(text: &str) -> bool {
    ServerName::try_from(text).is_ok() && !text.ends_with('.')
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn is_endpoint(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, "")) => return v6.parse::<std::net::Ipv6Addr>().is_ok(),
        Some((v6, rest)) if v6.parse::<std::net::Ipv6Addr>().is_ok() => {
            (v6, rest.strip_prefix(':'))
        }
        Some(_) => return false,
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => return is_host(text),
        },
    };
    let is_port = |port: &str| {
        port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse().is_ok_and(|port: u16| port > 0)
    };
    is_host(host) && port.is_some_and(is_port)
}

fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .ok()?;
    // A block that is opened and never closed ends the iterator without an error.
    (!found.is_empty() && found.len() == pem.matches("-----BEGIN CERTIFICATE-----").count())
        .then_some(found)
}

fn are_roots(pem: &str) -> bool {
    let mut store = RootCertStore::empty();
    certificates(pem).is_some_and(|roots| roots.into_iter().all(|root| store.add(root).is_ok()))
}

fn check_pair(
    chain: &str,
    chain_field: &'static str,
    key: &PrivateKeyPem,
    key_field: &'static str,
    origin: KeyOrigin,
) -> Result<(), Doubt> {
    let bad_chain = || Malformed::Invalid {
        field: chain_field,
        problem: "is not a certificate",
    };
    let chain = certificates(chain).ok_or_else(bad_chain)?;
    for certificate in &chain {
        match x509_parser::parse_x509_certificate(certificate) {
            Ok(([], _)) => {}
            _ => return Err(bad_chain().into()),
        }
    }
    let signer = signer(key).ok_or(Malformed::Invalid {
        field: key_field,
        problem: "is not a private key that can be used",
    })?;
    match (CertifiedKey::new(chain, signer).keys_match(), origin) {
        (Ok(()), _) => Ok(()),
        (Err(rustls::Error::InconsistentKeys(_)), KeyOrigin::Platform) => {
            Err(Doubt::Mismatched(key_field))
        }
        (Err(rustls::Error::InconsistentKeys(_)), KeyOrigin::Device) => {
            Err(Doubt::Foreign(chain_field))
        }
        (Err(_), _) => Err(bad_chain().into()),
    }
}

/// The key as TLS uses it, if it can.
fn signer(key: &PrivateKeyPem) -> Option<Arc<dyn SigningKey>> {
    let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes()).ok()?;
    let signer = any_supported_type(&key).ok();
    // The DER outlives this function in the signer's own, encoded form only.
    wipe(key);
    signer
}

/// The public key that belongs to a private one, if TLS can use it.
pub(crate) fn public_key_of(key: &PrivateKeyPem) -> Option<SubjectPublicKeyInfoDer<'static>> {
    Some(signer(key)?.public_key()?.into_owned())
}

fn wipe(mut key: PrivateKeyDer<'static>) {
    zeroize::Zeroize::zeroize(&mut key);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_perhaps_a_port() {
        for good in [
            "a",
            "a.example.com",
            "a.example.com:8883",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:443",
        ] {
            assert!(is_endpoint(good), "{good}");
        }
        for bad in [
            "",
            "https://a",
            "a b",
            "a/b",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:1:1",
            "[::1",
            "[a]:1",
            "[::1]1",
            "::1",
            "a.",
        ] {
            assert!(!is_endpoint(bad), "{bad}");
        }
    }
}
