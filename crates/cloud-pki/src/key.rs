//! Private keys that TLS can use, and their certificates.
//!
//! Supported: RSA of 2,048 to 4,096 bits, ECDSA on P-256 and P-384, and Ed25519. RFC 5915 makes the
//! public part of an EC key optional, OpenSSL can leave it out, and the provider wants it; so it is
//! taken from the certificate.

use std::fmt;
use std::sync::Arc;

use rustls::InconsistentKeys;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::asn1_rs::{Any, Class, FromDer, Oid};
use x509_parser::parse_x509_certificate;
use zeroize::{Zeroize, Zeroizing};

/// Reason that a private key cannot be used. Reads as the continuation of "the private key …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// TLS cannot use keys of this type.
    #[error(
        "is {0}, which TLS cannot use; RSA of 2048 to 4096 bits, ECDSA P-256 or P-384, or Ed25519 is needed"
    )]
    Unsupported(KeyType),
    /// Not a private key, or a damaged one.
    #[error("is damaged")]
    Damaged,
}

/// Reason that a certificate and a private key cannot be used together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PairError {
    /// The key cannot be used.
    #[error("the private key {0}")]
    Key(#[source] KeyError),
    /// Both are valid but do not belong together.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// The first certificate is missing or not X.509.
    #[error("the certificate is not valid X.509")]
    NotX509,
}

/// The type of a private key, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyType {
    /// RSA with a modulus of so many bits.
    Rsa(usize),
    /// RSA restricted to PSS signatures (OID 1.2.840.113549.1.1.10).
    RsaPss,
    /// An EC key on this curve.
    Ec(&'static str),
    /// An EC key whose curve is not named but written out.
    EcExplicitParameters,
    /// Another type by its name.
    Named(&'static str),
    /// Another type by its object identifier.
    Oid(String),
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "an RSA key of {bits} bits"),
            Self::RsaPss => f.write_str("an RSASSA-PSS key"),
            Self::Ec(curve) => write!(f, "an EC key on {curve}"),
            Self::EcExplicitParameters => f.write_str("an EC key with explicit parameters"),
            Self::Named(name) => write!(f, "a key of type {name}"),
            Self::Oid(oid) => write!(f, "a key of type {oid}"),
        }
    }
}

/// Combines a chain, leaf first, with its private key. The key is wiped; the copy inside the signer
/// stays.
///
/// # Errors
/// [`PairError`], which says what is wrong with which of the two.
pub fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, PairError> {
    let key = complete(key, chain.first().ok_or(PairError::NotX509)?)?;
    let certified = CertifiedKey::new(chain, signer(key)?);
    check_identity(&certified).map(|()| certified)
}

/// Checks that a key belongs to the first certificate of its chain. A key that does not reveal its
/// public part passes.
///
/// # Errors
/// [`PairError::Mismatch`] or [`PairError::NotX509`].
pub fn check_identity(identity: &CertifiedKey) -> Result<(), PairError> {
    match identity.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(PairError::Mismatch),
        Err(_) => Err(PairError::NotX509),
    }
}

/// Checks that TLS can use a private key, and that it belongs to a public key: a
/// SubjectPublicKeyInfo in DER, as a certificate signing request holds it. The key is wiped.
///
/// # Errors
/// [`PairError`], but for [`PairError::NotX509`].
pub fn check(key: PrivateKeyDer<'static>, public_key: &[u8]) -> Result<(), PairError> {
    let signer = signer(complete_with(key, public_key)?)?;
    match signer.public_key() {
        Some(own) if own.as_ref() == public_key => Ok(()),
        _ => Err(PairError::Mismatch),
    }
}

fn signer(mut key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, PairError> {
    let signer = any_supported_type(&key).map_err(|_| PairError::Key(unusable(&key)));
    key.zeroize();
    signer
}

/// Returns the key with its public part, taken from the certificate if it is an EC key without one.
/// Other keys are returned unchanged.
///
/// # Errors
/// [`PairError::Mismatch`] if the certificate is for another type of key, [`PairError::NotX509`] if
/// it cannot be read.
pub fn complete(
    key: PrivateKeyDer<'static>,
    certificate: &CertificateDer<'_>,
) -> Result<PrivateKeyDer<'static>, PairError> {
    let (_, certificate) = parse_x509_certificate(certificate).map_err(|_| PairError::NotX509)?;
    complete_with(key, certificate.public_key().raw)
}

/// Like [`complete`], with the public key as a SubjectPublicKeyInfo.
fn complete_with(
    mut key: PrivateKeyDer<'static>,
    public_key: &[u8],
) -> Result<PrivateKeyDer<'static>, PairError> {
    let Some(bare) = EcKey::read(&key).filter(|key| !key.has_public_part) else {
        return Ok(key);
    };
    let (curve, point) = ec_public_key(public_key).ok_or(PairError::Mismatch)?;
    if bare.curve.is_some_and(|named| named != curve.oid) {
        return Err(PairError::Mismatch);
    }
    let scalar = bare.scalar;
    let leading_zeros = curve.scalar_len.checked_sub(scalar.len());
    let padding = vec![0; leading_zeros.ok_or(PairError::Key(KeyError::Damaged))?];
    let inner = tlv(
        SEQUENCE,
        &[
            &[INTEGER, 1, 1],
            &tlv(OCTET_STRING, &[&padding, scalar]),
            &tlv(CONTEXT_1, &[&tlv(BIT_STRING, &[&[0], point])]),
        ],
    );
    let mut whole = tlv(
        SEQUENCE,
        &[
            &[INTEGER, 1, 0],
            &tlv(
                SEQUENCE,
                &[&tlv(OID, &[EC_PUBLIC_KEY]), &tlv(OID, &[curve.oid])],
            ),
            &tlv(OCTET_STRING, &[&inner]),
        ],
    );
    let completed = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(std::mem::take(&mut *whole)));
    key.zeroize();
    // The provider compares both parts. If it rejects them, the public part is another key's.
    match any_supported_type(&completed) {
        Ok(_) => Ok(completed),
        Err(_) => Err(PairError::Mismatch),
    }
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const CONTEXT_1: u8 = 0xa1;

const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const RSASSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];

/// A curve that TLS can use.
struct Curve {
    oid: &'static [u8],
    scalar_len: usize,
}

const CURVES: [Curve; 2] = [
    Curve {
        oid: &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        scalar_len: 32,
    },
    Curve {
        oid: &[0x2b, 0x81, 0x04, 0x00, 0x22],
        scalar_len: 48,
    },
];

/// Names of curves and key types, for messages.
const NAMES: [(&[u8], &str); 14] = [
    (CURVES[0].oid, "P-256"),
    (CURVES[1].oid, "P-384"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x23], "P-521"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x21], "P-224"),
    (&[0x2b, 0x81, 0x04, 0x00, 0x0a], "secp256k1"),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x01], "P-192"),
    (
        &[0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x07],
        "brainpoolP256r1",
    ),
    (
        &[0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x0b],
        "brainpoolP384r1",
    ),
    (
        &[0x2b, 0x24, 0x03, 0x03, 0x02, 0x08, 0x01, 0x01, 0x0d],
        "brainpoolP512r1",
    ),
    (&[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x01], "DSA"),
    (&[0x2b, 0x65, 0x6e], "X25519"),
    (&[0x2b, 0x65, 0x6f], "X448"),
    (&[0x2b, 0x65, 0x70], "Ed25519"),
    (&[0x2b, 0x65, 0x71], "Ed448"),
];

fn name(oid: &[u8]) -> Option<&'static str> {
    let known = NAMES.iter().find(|(known, _)| *known == oid);
    known.map(|(_, name)| *name)
}

/// An EC private key (RFC 5915), in SEC1 or inside PKCS#8.
struct EcKey<'a> {
    /// The object identifier of the curve. `None` in SEC1 without parameters.
    curve: Option<&'a [u8]>,
    scalar: &'a [u8],
    has_public_part: bool,
}

impl<'a> EcKey<'a> {
    fn read(key: &'a PrivateKeyDer<'_>) -> Option<Self> {
        match key {
            PrivateKeyDer::Sec1(sec1) => Self::read_sec1(sec1.secret_sec1_der(), None),
            PrivateKeyDer::Pkcs8(pkcs8) => {
                let key = Pkcs8::read(pkcs8.secret_pkcs8_der())?;
                let curve = key.parameters.filter(|parameters| is(parameters, OID))?;
                (key.algorithm == EC_PUBLIC_KEY)
                    .then(|| Self::read_sec1(key.key, Some(curve.data)))?
            }
            _ => None,
        }
    }

    fn read_sec1(der: &'a [u8], curve: Option<&'a [u8]>) -> Option<Self> {
        let mut fields = sequence(der)?;
        next(&mut fields).filter(|version| version.data == [1])?;
        let scalar = next(&mut fields).filter(|scalar| is(scalar, OCTET_STRING))?;
        let (mut curve, mut has_public_part) = (curve, false);
        while let Some(field) = next(&mut fields) {
            match (field.header.class(), field.header.tag().0) {
                (Class::ContextSpecific, 0) => {
                    let mut inner = field.data;
                    let named = next(&mut inner).filter(|named| is(named, OID))?;
                    curve = Some(named.data);
                }
                (Class::ContextSpecific, 1) => has_public_part = true,
                _ => return None,
            }
        }
        Some(Self {
            curve,
            scalar: strip_zeros(scalar.data),
            has_public_part,
        })
    }
}

/// The fields of a PKCS#8 key (RFC 5958) that are needed here.
struct Pkcs8<'a> {
    algorithm: &'a [u8],
    parameters: Option<Any<'a>>,
    key: &'a [u8],
}

impl<'a> Pkcs8<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let mut fields = sequence(der)?;
        next(&mut fields).filter(|version| is(version, INTEGER))?;
        let mut identifier = next(&mut fields).filter(|it| is(it, SEQUENCE))?.data;
        let algorithm = next(&mut identifier).filter(|it| is(it, OID))?;
        Some(Self {
            algorithm: algorithm.data,
            parameters: next(&mut identifier),
            key: next(&mut fields).filter(|key| is(key, OCTET_STRING))?.data,
        })
    }
}

/// Reads a SubjectPublicKeyInfo with an EC point on a curve that TLS can use.
fn ec_public_key(der: &[u8]) -> Option<(&'static Curve, &[u8])> {
    let mut fields = sequence(der)?;
    let mut identifier = next(&mut fields).filter(|it| is(it, SEQUENCE))?.data;
    next(&mut identifier).filter(|algorithm| algorithm.data == EC_PUBLIC_KEY)?;
    let named = next(&mut identifier)?;
    let curve = CURVES.iter().find(|curve| curve.oid == named.data)?;
    let point = next(&mut fields).filter(|point| is(point, BIT_STRING))?;
    Some((curve, point.data.strip_prefix(&[0])?))
}

/// Says why the provider does not take a key.
fn unusable(key: &PrivateKeyDer<'_>) -> KeyError {
    match key_type(key) {
        // The provider takes keys of these types, so this one is damaged.
        Some(KeyType::Rsa(2048..=4096)) | Some(KeyType::Ec("P-256" | "P-384")) => KeyError::Damaged,
        Some(KeyType::Named("Ed25519")) | None => KeyError::Damaged,
        Some(key_type) => KeyError::Unsupported(key_type),
    }
}

fn key_type(key: &PrivateKeyDer<'_>) -> Option<KeyType> {
    match key {
        PrivateKeyDer::Pkcs1(pkcs1) => rsa_type(pkcs1.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(sec1) => {
            let mut fields = sequence(sec1.secret_sec1_der())?;
            let is_parameters = |field: &Any<'_>| {
                field.header.class() == Class::ContextSpecific && field.header.tag().0 == 0
            };
            let found = std::iter::from_fn(|| next(&mut fields)).find(is_parameters)?;
            let mut inner = found.data;
            Some(ec_type(next(&mut inner)?))
        }
        PrivateKeyDer::Pkcs8(pkcs8) => {
            let key = Pkcs8::read(pkcs8.secret_pkcs8_der())?;
            Some(match key.algorithm {
                EC_PUBLIC_KEY => ec_type(key.parameters?),
                RSA_ENCRYPTION => rsa_type(key.key)?,
                RSASSA_PSS => KeyType::RsaPss,
                other => match name(other) {
                    Some(name) => KeyType::Named(name),
                    None => KeyType::Oid(Oid::new(other.into()).to_id_string()),
                },
            })
        }
        _ => None,
    }
}

fn ec_type(parameters: Any<'_>) -> KeyType {
    if !is(&parameters, OID) {
        return KeyType::EcExplicitParameters;
    }
    match name(parameters.data) {
        Some(name) => KeyType::Ec(name),
        None => KeyType::Oid(Oid::new(parameters.data.into()).to_id_string()),
    }
}

fn rsa_type(pkcs1: &[u8]) -> Option<KeyType> {
    let mut fields = sequence(pkcs1)?;
    next(&mut fields)?;
    let modulus = next(&mut fields).filter(|modulus| is(modulus, INTEGER))?;
    let modulus = strip_zeros(modulus.data);
    let unused = modulus.first()?.leading_zeros() as usize;
    Some(KeyType::Rsa(modulus.len() * 8 - unused))
}

fn strip_zeros(mut number: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = number {
        number = rest;
    }
    number
}

fn is(element: &Any<'_>, tag: u8) -> bool {
    element.header.class() == Class::Universal && element.header.tag().0 == u32::from(tag & 0x1f)
}

/// Returns the content of a SEQUENCE that is the whole of `der`.
fn sequence(mut der: &[u8]) -> Option<&[u8]> {
    let outer = next(&mut der).filter(|outer| is(outer, SEQUENCE))?;
    der.is_empty().then_some(outer.data)
}

/// Takes the next element.
fn next<'a>(input: &mut &'a [u8]) -> Option<Any<'a>> {
    let (rest, element) = Any::from_der(input).ok()?;
    *input = rest;
    Some(element)
}

/// Encodes one element. Its content has less than 64 KiB: a key of a few hundred bytes at most.
fn tlv(tag: u8, content: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length: usize = content.iter().map(|part| part.len()).sum();
    let mut encoded = Zeroizing::new(Vec::with_capacity(length + 4));
    encoded.push(tag);
    let [.., high, low] = length.to_be_bytes();
    match length {
        0..0x80 => encoded.push(low),
        0x80..0x100 => encoded.extend([0x81, low]),
        _ => encoded.extend([0x82, high, low]),
    }
    for part in content {
        encoded.extend_from_slice(part);
    }
    encoded
}
