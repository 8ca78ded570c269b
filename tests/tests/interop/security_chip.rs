//! A device whose private key for the broker is in a PKCS#11 token, which never shows it: SoftHSM
//! stands for a security chip, and mosquitto for the broker.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use cloud_facade::iot::rustls::sign::{CertifiedKey, Signer, SigningKey};
use cloud_facade::iot::rustls::{Error, SignatureAlgorithm, SignatureScheme};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use rcgen::{CertificateParams, DnType, PublicKeyData};
use rustls::pki_types::{SubjectPublicKeyInfoDer, alg_id};
use rustls::sign::public_key_to_spki;
use sha2::{Digest, Sha256};
use testkit::wait::timeout;
use tokio::process::Command;

use crate::mosquitto::Scene;
use crate::peers;

/// Set for the process with the token: SoftHSM reads the path of its configuration from the
/// environment.
const CONFIGURATION: &str = "SOFTHSM2_CONF";

/// The object identifier of P-256 in DER.
const P256: [u8; 10] = [0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];

/// A key of a token. Its sessions may be used by one thread at a time.
#[derive(Clone)]
struct TokenKey {
    session: Arc<Mutex<Session>>,
    private: ObjectHandle,
    /// The uncompressed point.
    public: Vec<u8>,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").finish_non_exhaustive()
    }
}

impl TokenKey {
    /// Initializes a token and generates a key in it that cannot leave it.
    fn generate(module: &Path) -> anyhow::Result<Self> {
        let token = Pkcs11::new(module)?;
        token.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
        let slot = *token.get_slots_with_token()?.first().context("no slot")?;
        let (officer, user) = (AuthPin::new("12345678".into()), AuthPin::new("1234".into()));
        token.init_token(slot, &officer, "device")?;
        let session = token.open_rw_session(slot)?;
        session.login(UserType::So, Some(&officer))?;
        session.init_pin(&user)?;
        session.logout()?;
        session.login(UserType::User, Some(&user))?;
        let public = [
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Verify(true),
            Attribute::EcParams(P256.to_vec()),
        ];
        let private = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
        ];
        let (public, private) =
            session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
        let point = session.get_attributes(public, &[AttributeType::EcPoint])?;
        let Some(Attribute::EcPoint(point)) = point.into_iter().next() else {
            anyhow::bail!("the token shows no public key")
        };
        // An octet string in DER: tag, length of one byte, point.
        let public = point.get(2..).context("no point")?.to_vec();
        assert!(
            session
                .get_attributes(private, &[AttributeType::Value])?
                .is_empty(),
            "the private key is secret"
        );
        Ok(Self {
            session: Arc::new(Mutex::new(session)),
            private,
            public,
        })
    }
}

impl SigningKey for TokenKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ECDSA_NISTP256_SHA256)
            .then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(public_key_to_spki(&alg_id::ECDSA_P256, &self.public))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for TokenKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let digest = Sha256::digest(message);
        let session = self.session.lock().unwrap();
        let signature = session
            .sign(&Mechanism::Ecdsa, self.private, &digest)
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(der_signature(&signature))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

/// Encodes the two numbers of an ECDSA signature, which PKCS#11 writes at fixed length, as TLS
/// wants them.
fn der_signature(signature: &[u8]) -> Vec<u8> {
    let (r, s) = signature.split_at(signature.len() / 2);
    let numbers: Vec<u8> = [r, s].into_iter().flat_map(der_integer).collect();
    [&[0x30, u8::try_from(numbers.len()).unwrap()], &numbers[..]].concat()
}

fn der_integer(number: &[u8]) -> Vec<u8> {
    let start = number
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or(number.len() - 1);
    let digits = &number[start..];
    // A number is not negative.
    let sign: &[u8] = if digits[0] >= 0x80 { &[0] } else { &[] };
    let length = u8::try_from(sign.len() + digits.len()).unwrap();
    [&[0x02, length], sign, digits].concat()
}

impl PublicKeyData for TokenKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

#[test]
fn signature_is_encoded_as_der() {
    let mut signature = [0; 64];
    (signature[31], signature[32]) = (7, 0x80);
    let encoded = der_signature(&signature);
    assert_eq!(encoded[..7], [0x30, 38, 0x02, 1, 7, 0x02, 33]);
    assert_eq!(encoded[7..9], [0, 0x80]);
    assert_eq!(encoded.len(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn device_connects_with_key_in_token() -> anyhow::Result<()> {
    if std::env::var_os(CONFIGURATION).is_some() {
        return connect_with_key_in_token().await;
    }
    let directory = tempfile::tempdir()?;
    let configuration = directory.path().join("softhsm2.conf");
    let tokens = format!("directories.tokendir = {}\n", directory.path().display());
    std::fs::write(&configuration, tokens)?;
    let mut child = Command::new(std::env::current_exe()?)
        .args([
            "--exact",
            "security_chip::device_connects_with_key_in_token",
        ])
        .env(CONFIGURATION, configuration)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let status = timeout("the process with the token", child.wait()).await?;
    assert!(status.success(), "{status}");
    Ok(())
}

async fn connect_with_key_in_token() -> anyhow::Result<()> {
    let key = TokenKey::generate(&peers::softhsm()?)?;
    let (scene, mut messages) = Scene::with("c/d/SN-MOSQ/status", |builder, devices| {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "SN-MOSQ");
        let certificate = params.signed_by(&key, devices.issuer()).unwrap();
        let chain = vec![certificate.der().clone()];
        builder.iot_identity(CertifiedKey::new(chain, Arc::new(key)))
    })
    .await?;
    scene.cloud.initialize().await?;
    let online = timeout("ONLINE", messages.recv())
        .await
        .context("stopped")??;
    assert_eq!(online.payload, r#"{"state":"ONLINE"}"#);
    assert_eq!(scene.cloud.status().iot_certificate_serial, None);
    scene.end().await;
    Ok(())
}
