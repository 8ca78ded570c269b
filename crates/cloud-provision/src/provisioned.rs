//! The result of a registration and its validation.
//!
//! Validated: certificates parse, each key belongs to its certificate, endpoints are host names.
//! Not validated: whether a chain leads to a root. The device certificate need not chain to the
//! root in the same response, and the clients of the remote certificate choose their own roots.

use std::borrow::Cow;

use cloud_pki::key::{self, PairError};
use cloud_pki::pem;
use rustls::RootCertStore;
use rustls_pki_types::ServerName;

use crate::clock_skew::ClockSkew;
use crate::error::MalformedResponse;
use crate::keys::{DeviceKey, DeviceKeys, KeyOrigin};
use crate::response::Thing;
use crate::secret::PrivateKeyPem;
use crate::serial;

/// The credentials and names of a registered device. PEM that other programs could not read is
/// rewritten, see [`cloud_pki::pem::canonical`]; other strings are unchanged from the response.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Provisioned {
    /// For messaging.
    pub iot: IotIdentity,
    /// For remote access.
    pub remote: RemoteIdentity,
    /// Deviation of this device's clock from the platform's. `None` if the response has no `Date`.
    pub clock_skew: Option<ClockSkew>,
}

/// The device's identity for the MQTT broker, and the broker's endpoint.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct IotIdentity {
    /// The broker: host with an optional port.
    pub endpoint: String,
    /// The AWS IoT thing name.
    pub thing_name: String,
    /// The device's client certificate, PEM.
    pub device_certificate: String,
    /// Trusted roots for the broker, PEM.
    pub root_ca: String,
    /// The key of the client certificate.
    pub private_key: PrivateKeyPem,
    /// Where the key was generated.
    pub key_origin: KeyOrigin,
}

/// The device's public identity, and the tunnel's endpoint.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RemoteIdentity {
    /// The tunnel's relay: host with an optional port.
    pub endpoint: String,
    /// The device's public host name.
    pub access_point: String,
    /// The public certificate chain, leaf first, PEM.
    pub certificate_chain: String,
    /// The key of the public certificate.
    pub private_key: PrivateKeyPem,
    /// Where the key was generated.
    pub key_origin: KeyOrigin,
}

/// Reasons to reject a response.
pub(crate) enum InvalidResponse {
    Malformed(MalformedResponse),
    /// The key in this field does not belong to its certificate.
    KeyMismatch(&'static str),
    /// The certificate in this field does not belong to the key generated on the device.
    CertificateMismatch(&'static str),
}

impl From<MalformedResponse> for InvalidResponse {
    fn from(what: MalformedResponse) -> Self {
        Self::Malformed(what)
    }
}

impl Provisioned {
    /// Validates a response. `keys` replace those that the response does not contain.
    pub(crate) fn check(
        thing: Thing,
        keys: Option<&DeviceKeys>,
        clock_skew: Option<ClockSkew>,
    ) -> Result<Self, InvalidResponse> {
        let iot = required(thing.iot, "registration.thing.iot")?;
        let certificates = required(iot.certificates, "registration.thing.iot.certificates")?;
        let iot_key = match (iot.key_pair, keys) {
            (Some(pair), keys) => chosen(pair.private_key, keys.map(|keys| &keys.iot), IOT_KEY)?,
            (None, Some(keys)) => chosen(None, Some(&keys.iot), IOT_KEY)?,
            (None, None) => {
                return Err(MalformedResponse::Missing("registration.thing.iot.keyPair").into());
            }
        };
        let remote = required(thing.remote, "registration.thing.remote")?;
        let remote_key = chosen(remote.pkey, keys.map(|keys| &keys.remote), REMOTE_KEY)?;
        let provisioned = Self {
            iot: IotIdentity {
                endpoint: required(iot.endpoint, IOT_ENDPOINT)?,
                thing_name: required(iot.thing_name, THING_NAME)?,
                device_certificate: canonical(required(
                    certificates.device_certificate,
                    DEVICE_CERTIFICATE,
                )?),
                root_ca: canonical(required(certificates.root_ca, ROOT_CA)?),
                private_key: iot_key.0,
                key_origin: iot_key.1,
            },
            remote: RemoteIdentity {
                endpoint: required(remote.endpoint, REMOTE_ENDPOINT)?,
                access_point: required(remote.access_point, ACCESS_POINT)?,
                certificate_chain: canonical(required(remote.cert, REMOTE_CERT)?),
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

fn required<T>(value: Option<T>, field: &'static str) -> Result<T, MalformedResponse> {
    value.ok_or(MalformedResponse::Missing(field))
}

/// Selects the platform's key if there is one, even if the device sent a signing request: the
/// certificate is then for the platform's key.
fn chosen(
    sent: Option<PrivateKeyPem>,
    own: Option<&DeviceKey>,
    field: &'static str,
) -> Result<(PrivateKeyPem, KeyOrigin), MalformedResponse> {
    match (sent, own) {
        (Some(mut sent), own) => {
            if own.is_some() {
                tracing::warn!(
                    field,
                    "the platform generated a key although this device sent a signing request"
                );
            }
            if let Cow::Owned(rewritten) = pem::canonical(sent.expose_secret()) {
                sent = PrivateKeyPem::new(rewritten);
            }
            Ok((sent, KeyOrigin::Platform))
        }
        (None, Some(own)) => Ok((own.private_key.clone(), KeyOrigin::Device)),
        (None, None) => Err(MalformedResponse::Missing(field)),
    }
}

fn canonical(text: String) -> String {
    match pem::canonical(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(rewritten) => rewritten,
    }
}

fn valid(
    is_valid: bool,
    field: &'static str,
    problem: &'static str,
) -> Result<(), MalformedResponse> {
    if is_valid {
        Ok(())
    } else {
        Err(MalformedResponse::Invalid { field, problem })
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

/// Maximum number of certificates in one text: a full set of public roots has about 150.
const MAX_CERTIFICATES: usize = 512;

/// Reports whether every certificate in the text can serve as a trust anchor.
fn are_roots(text: &str) -> bool {
    let mut store = RootCertStore::empty();
    pem::certificates(text, MAX_CERTIFICATES)
        .is_ok_and(|roots| roots.into_iter().all(|root| store.add(root).is_ok()))
}

fn check_pair(
    chain: &str,
    chain_field: &'static str,
    key: &PrivateKeyPem,
    key_field: &'static str,
    origin: KeyOrigin,
) -> Result<(), InvalidResponse> {
    let damaged = |field, error| MalformedResponse::DamagedPem { field, error };
    let bad_chain = || MalformedResponse::Invalid {
        field: chain_field,
        problem: "is not a certificate",
    };
    let chain =
        pem::certificates(chain, MAX_CERTIFICATES).map_err(|error| damaged(chain_field, error))?;
    for certificate in &chain {
        match x509_parser::parse_x509_certificate(certificate) {
            Ok(([], _)) => {}
            _ => return Err(bad_chain().into()),
        }
    }
    let key = pem::private_key(key.expose_secret()).map_err(|error| damaged(key_field, error))?;
    match (key::certified(chain, key), origin) {
        (Ok(_), _) => Ok(()),
        (Err(PairError::Mismatch), KeyOrigin::Platform) => {
            Err(InvalidResponse::KeyMismatch(key_field))
        }
        (Err(PairError::Mismatch), KeyOrigin::Device) => {
            Err(InvalidResponse::CertificateMismatch(chain_field))
        }
        (Err(PairError::Key(error)), _) => Err(MalformedResponse::UnusableKey {
            field: key_field,
            error,
        }
        .into()),
        (Err(_), _) => Err(bad_chain().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoint_is_host_with_optional_port() {
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
