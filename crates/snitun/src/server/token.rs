//! Tokens: authentication of devices.
//!
//! A token is a Fernet token that contains a JSON object. The server and the issuer share the
//! Fernet keys; several can be active, so that a key can be rotated while tokens of the old one are
//! still valid.

use std::fmt;
use std::pin::Pin;
use std::time::{SystemTime, UNIX_EPOCH};

use fernet::Fernet;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::crypto::cipher::Cipher;
use crate::crypto::key::{KeyError, SessionKey};
use crate::handshake::MAX_TOKEN_LEN;
use crate::version::ProtocolVersion;

/// Maximum aliases in a token; more would only fill the table.
const MAX_ALIASES: usize = 64;

/// The content of a token. Not `Clone`, because its key is not: an issuer that also connects takes
/// the key out of it afterwards.
#[derive(Debug)]
pub struct TokenContent {
    /// Expiry, in seconds since 1970-01-01T00:00:00Z (Unix time), as the token's JSON has it.
    pub valid: u64,
    /// The public host name of the device.
    pub hostname: String,
    /// The session's key and initialization vector (`aes_key` and `aes_iv` in the token).
    pub key: SessionKey,
    /// The protocol version. Default 0.
    pub protocol_version: ProtocolVersion,
    /// The session cipher. Default `aes-cbc`.
    pub cipher: Cipher,
    /// Additional host names of the device. Default none.
    pub alias: Vec<String>,
}

impl TokenContent {
    /// Creates the content of a token for `hostname` that expires at `valid`, in seconds since
    /// 1970-01-01T00:00:00Z (Unix time), with defaults for the rest.
    pub fn new(hostname: impl Into<String>, key: SessionKey, valid: u64) -> Self {
        Self {
            valid,
            hostname: hostname.into(),
            key,
            protocol_version: ProtocolVersion::default(),
            cipher: Cipher::default(),
            alias: Vec::new(),
        }
    }

    /// Parses a token's JSON.
    ///
    /// # Errors
    /// [`TokenError::Malformed`], [`TokenError::Unsupported`].
    pub fn from_json(json: &[u8]) -> Result<Self, TokenError> {
        let wire: TokenJson = serde_json::from_slice(json).map_err(|_| TokenError::Malformed)?;
        if wire.hostname.is_empty() || wire.alias.len() > MAX_ALIASES {
            return Err(TokenError::Malformed);
        }
        if !wire.valid.is_finite() {
            return Err(TokenError::Malformed);
        }
        Ok(Self {
            // A fraction of a second does not matter, and a negative time is in the past.
            valid: wire.valid.max(0.0) as u64,
            hostname: wire.hostname,
            key: SessionKey::from_hex(&wire.aes_key, &wire.aes_iv)?,
            protocol_version: wire
                .protocol_version
                .try_into()
                .map_err(|_| TokenError::Unsupported)?,
            cipher: wire.cipher.parse().map_err(|_| TokenError::Unsupported)?,
            alias: wire.alias,
        })
    }

    /// Serializes the token's JSON.
    pub fn to_json(&self) -> Zeroizing<Vec<u8>> {
        let wire = TokenJson {
            valid: self.valid as f64,
            hostname: self.hostname.clone(),
            aes_key: self.key.key_hex(),
            aes_iv: self.key.iv_hex(),
            protocol_version: self.protocol_version.into(),
            cipher: self.cipher.to_string(),
            alias: self.alias.clone(),
        };
        // Plain strings and numbers always serialize.
        Zeroizing::new(serde_json::to_vec(&wire).unwrap_or_default())
    }

    /// Returns whether the token has expired.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        is_expired(self.valid, now)
    }
}

/// Returns whether a token with this expiry has expired.
pub(super) fn is_expired(valid: u64, now: SystemTime) -> bool {
    valid < unix_seconds(now)
}

pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The JSON representation of a token.
#[derive(Serialize, Deserialize)]
struct TokenJson {
    valid: f64,
    hostname: String,
    #[serde(with = "secret")]
    aes_key: Zeroizing<String>,
    #[serde(with = "secret")]
    aes_iv: Zeroizing<String>,
    #[serde(default)]
    protocol_version: u8,
    #[serde(default = "default_cipher")]
    cipher: String,
    #[serde(default)]
    alias: Vec<String>,
}

fn default_cipher() -> String {
    Cipher::default().to_string()
}

mod secret {
    use serde::{Deserialize, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(
        text: &Zeroizing<String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Zeroizing<String>, D::Error> {
        String::deserialize(deserializer).map(Zeroizing::new)
    }
}

/// The reason why a token was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Not encrypted with any of our keys.
    #[error("the token is not one of ours")]
    Invalid,
    /// One of ours, but its content is invalid.
    #[error("the token's content is malformed")]
    Malformed,
    /// The token has expired.
    #[error("the token has expired")]
    Expired,
    /// It names an unsupported protocol version or cipher.
    #[error("the token names an unsupported protocol version or cipher")]
    Unsupported,
    /// The authenticator's backend is unavailable. The protocol cannot express this: the device
    /// sees a refusal.
    #[error("the token cannot be checked now; check the backend of the authenticator")]
    Unavailable,
    /// The text of a Fernet key is not 32 bytes in URL-safe base64.
    #[error("a Fernet key must be 32 bytes in URL-safe base64")]
    BadFernetKey,
    /// No Fernet key was given.
    #[error("at least one Fernet key is needed")]
    NoFernetKey,
    /// The token is too long to be sent.
    #[error("the token would be longer than {MAX_TOKEN_LEN} bytes; use fewer or shorter aliases")]
    TooLong,
}

impl From<KeyError> for TokenError {
    fn from(_: KeyError) -> Self {
        Self::Malformed
    }
}

/// Authenticates devices.
///
/// Tokens are up to 2,048 bytes of printable text. On a listener for devices and callers
/// ([`ListenerRole::Any`]) they must begin with `gA`, as Fernet tokens do, to distinguish them from
/// callers; on a listener for devices only, they need not. A token has no end mark: one that
/// arrives in several TCP segments is checked after each of them, so a decision must concern the
/// whole text. The device waits meanwhile, for [`Timeouts::handshake`](crate::Timeouts::handshake)
/// at most.
///
/// [`ListenerRole::Any`]: super::ListenerRole::Any
///
/// ```
/// use snitun::server::{Authenticator, TokenContent, TokenError};
/// # use std::time::SystemTime;
/// /// Rejects every device.
/// struct RejectAll;
///
/// impl Authenticator for RejectAll {
///     async fn authenticate(&self, _token: &str, _now: SystemTime) -> Result<TokenContent, TokenError> {
///         Err(TokenError::Invalid)
///     }
/// }
/// ```
pub trait Authenticator: Send + Sync + 'static {
    /// Authenticates `token` at the time `now`.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] for text that is no token (it may be the beginning of one),
    /// [`TokenError::Expired`] for an expired one, [`TokenError::Unavailable`] if it cannot be
    /// checked now.
    fn authenticate(
        &self,
        token: &str,
        now: SystemTime,
    ) -> impl Future<Output = Result<TokenContent, TokenError>> + Send;
}

type AuthenticateFuture<'a> =
    Pin<Box<dyn Future<Output = Result<TokenContent, TokenError>> + Send + 'a>>;

/// [`Authenticator`] as a trait object.
pub(super) trait DynAuthenticator: Send + Sync {
    fn authenticate<'a>(&'a self, token: &'a str, now: SystemTime) -> AuthenticateFuture<'a>;
}

impl<A: Authenticator> DynAuthenticator for A {
    fn authenticate<'a>(&'a self, token: &'a str, now: SystemTime) -> AuthenticateFuture<'a> {
        Box::pin(Authenticator::authenticate(self, token, now))
    }
}

/// The Fernet keys of a server: the first one issues tokens, all of them decrypt tokens. Never
/// printed.
#[derive(Clone)]
pub struct FernetKeys(Vec<Fernet>);

/// The time against which a token's issue date is checked: late enough for any. The content
/// contains the expiry, and an issuer whose clock is ahead of ours is no threat; the reference does
/// not check either.
const ANY_TIME: u64 = u64::MAX / 2;

impl FernetKeys {
    /// Generates one fresh key.
    pub fn generate() -> Self {
        Self(Fernet::new(&Self::generate_key()).into_iter().collect())
    }

    /// Generates the text of a fresh key, for [`from_keys`](Self::from_keys) here and for the token
    /// issuer.
    pub fn generate_key() -> Zeroizing<String> {
        Zeroizing::new(Fernet::generate_key())
    }

    /// Parses keys, each 32 bytes in URL-safe base64.
    ///
    /// # Errors
    /// [`TokenError::BadFernetKey`], or [`TokenError::NoFernetKey`] for an empty list.
    pub fn from_keys<K: AsRef<str>>(keys: &[K]) -> Result<Self, TokenError> {
        if keys.is_empty() {
            return Err(TokenError::NoFernetKey);
        }
        keys.iter()
            .map(|key| Fernet::new(key.as_ref()).ok_or(TokenError::BadFernetKey))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Issues a token with the first key.
    ///
    /// # Errors
    /// [`TokenError::TooLong`] if a server could not receive it in one read.
    pub fn issue(&self, content: &TokenContent) -> Result<String, TokenError> {
        let fernet = self.0.first().ok_or(TokenError::NoFernetKey)?;
        let token = fernet.encrypt(&content.to_json());
        if token.len() > MAX_TOKEN_LEN {
            return Err(TokenError::TooLong);
        }
        Ok(token)
    }

    /// Decrypts a token with any of the keys and checks that it has not expired at `now`.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn open(&self, token: &str, now: SystemTime) -> Result<TokenContent, TokenError> {
        let json = self
            .0
            .iter()
            .find_map(|fernet| fernet.decrypt_at_time(token, None, ANY_TIME).ok())
            .map(Zeroizing::new)
            .ok_or(TokenError::Invalid)?;
        let content = TokenContent::from_json(&json)?;
        if content.is_expired(now) {
            return Err(TokenError::Expired);
        }
        Ok(content)
    }
}

impl Authenticator for FernetKeys {
    async fn authenticate(&self, token: &str, now: SystemTime) -> Result<TokenContent, TokenError> {
        self.open(token, now)
    }
}

impl fmt::Debug for FernetKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FernetKeys({} keys, [redacted])", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn content() -> TokenContent {
        let key = SessionKey::new([0xa1; 32], [0xb2; 16]);
        let mut content = TokenContent::new("device.example.com", key, 2_000_000_000);
        content.alias = vec!["other.example.com".into()];
        content.cipher = Cipher::AesGcmSiv;
        content.protocol_version = ProtocolVersion::V2;
        content
    }

    #[test]
    fn token_issued_by_a_faster_clock_opens() {
        let key = FernetKeys::generate_key();
        let soon = SystemTime::now() + Duration::from_secs(3600);
        let issued = soon.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let fernet = Fernet::new(&key).unwrap();
        let token = fernet.encrypt_at_time(&content().to_json(), issued);
        let keys = FernetKeys::from_keys(&[&*key]).unwrap();
        assert!(keys.open(&token, SystemTime::now()).is_ok());
    }

    #[test]
    fn issued_token_opens_under_any_key_until_expiry() {
        let (old, new) = (FernetKeys::generate_key(), FernetKeys::generate_key());
        let token = FernetKeys::from_keys(&[&*old])
            .unwrap()
            .issue(&content())
            .unwrap();
        assert!(token.starts_with("gA"));
        let keys = FernetKeys::from_keys(&[&*new, &*old]).unwrap();
        let valid = UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let opened = keys.open(&token, valid).unwrap();
        assert_eq!(opened.hostname, "device.example.com");
        assert_eq!(opened.alias, ["other.example.com"]);
        assert_eq!(opened.cipher, Cipher::AesGcmSiv);
        assert_eq!(opened.protocol_version, ProtocolVersion::V2);
        assert_eq!(*opened.key.key_hex(), "a1".repeat(32));
        let later = valid + Duration::from_secs(1);
        assert_eq!(keys.open(&token, later).unwrap_err(), TokenError::Expired);
        let foreign = FernetKeys::generate();
        assert_eq!(
            foreign.open(&token, valid).unwrap_err(),
            TokenError::Invalid
        );
        assert!(!format!("{keys:?} {opened:?}").contains("a1a1"));
    }

    #[test]
    fn token_json_defaults_and_rejections() {
        let json = |more: &str| {
            let (key, iv) = ("00".repeat(32), "00".repeat(16));
            format!(r#"{{"valid":1.5,"hostname":"h","aes_key":"{key}","aes_iv":"{iv}"{more}}}"#)
        };
        let read = |more: &str| TokenContent::from_json(json(more).as_bytes());
        let content = read("").unwrap();
        assert_eq!(content.protocol_version, ProtocolVersion::V0);
        assert_eq!(content.cipher, Cipher::AesCbc);
        assert_eq!(content.valid, 1);
        assert_eq!(
            read(r#","cipher":"rot13""#).unwrap_err(),
            TokenError::Unsupported
        );
        assert_eq!(
            read(r#","protocol_version":3"#).unwrap_err(),
            TokenError::Unsupported
        );
        assert_eq!(read(r#","alias":3"#).unwrap_err(), TokenError::Malformed);
        assert_eq!(
            TokenContent::from_json(b"{}").unwrap_err(),
            TokenError::Malformed
        );
    }
}
