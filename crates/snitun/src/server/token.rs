//! Tokens: who may connect, under which host name, with which key.
//!
//! A token is a Fernet token over a JSON object (docs/protocol.md, "SniTun"). The server and whoever issues tokens share
//! the Fernet keys; several can be in use, so that a key can be replaced while tokens under the old one still run.

use std::fmt;
use std::pin::Pin;
use std::time::{SystemTime, UNIX_EPOCH};

use fernet::Fernet;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::cipher::Cipher;
use crate::handshake::MAX_TOKEN_LEN;
use crate::key::{KeyError, SessionKey};
use crate::version::ProtocolVersion;

/// Names that a token may claim beside its own; more would only be a way to fill the table.
const MAX_ALIASES: usize = 64;

/// What a token says. Not `Clone`, because its key is not: who issues a token to itself takes the key out of it afterwards.
#[derive(Debug)]
pub struct TokenContent {
    /// Until when the token is good, in seconds since 1970.
    pub valid: u64,
    /// The host name under which the public reaches the device.
    pub hostname: String,
    /// The session's key and initial vector (`aes_key` and `aes_iv` in the token).
    pub key: SessionKey,
    /// The protocol version. Default 0.
    pub protocol_version: ProtocolVersion,
    /// The session cipher. Default `aes-cbc`.
    pub cipher: Cipher,
    /// More host names for the same device. Default none.
    pub alias: Vec<String>,
}

impl TokenContent {
    /// A token for `hostname`, good until `valid` seconds after 1970, with defaults for the rest.
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

    /// Reads a token's JSON.
    ///
    /// # Errors
    /// [`TokenError::Malformed`] and what follows from the fields.
    pub fn from_json(json: &[u8]) -> Result<Self, TokenError> {
        let wire: Wire = serde_json::from_slice(json).map_err(|_| TokenError::Malformed)?;
        if wire.hostname.is_empty() || wire.alias.len() > MAX_ALIASES {
            return Err(TokenError::Malformed);
        }
        if !wire.valid.is_finite() {
            return Err(TokenError::Malformed);
        }
        Ok(Self {
            // A fraction of a second does not matter, a negative time is long past.
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

    /// Writes a token's JSON.
    pub fn to_json(&self) -> Zeroizing<Vec<u8>> {
        let wire = Wire {
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

    /// Whether the token has run out.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        is_expired(self.valid, now)
    }
}

/// Whether a token that was good until `valid` has run out.
pub(super) fn is_expired(valid: u64, now: SystemTime) -> bool {
    valid < unix_seconds(now)
}

pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The token as JSON has it.
#[derive(Serialize, Deserialize)]
struct Wire {
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

/// Why a token does not let its bearer in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Not a token under any of our keys.
    #[error("the token is not one of ours")]
    Invalid,
    /// One of ours, but its content cannot be used.
    #[error("the token's content is malformed")]
    Malformed,
    /// It was good once.
    #[error("the token has expired")]
    Expired,
    /// It asks for a protocol version or cipher that we do not have.
    #[error("the token asks for a protocol version or cipher that is not supported")]
    Unsupported,
    /// Whoever decides about tokens cannot be asked now. The protocol has no way to say so: the device sees a refusal.
    #[error("the token cannot be checked at the moment; see what the authenticator depends on")]
    Unavailable,
    /// The text of a Fernet key is not 32 bytes in URL-safe base64.
    #[error("a Fernet key must be 32 bytes in URL-safe base64")]
    BadFernetKey,
    /// There has to be at least one Fernet key.
    #[error("at least one Fernet key is needed")]
    NoFernetKey,
    /// The token would be too long to be sent.
    #[error("the token would be longer than {MAX_TOKEN_LEN} bytes; use fewer or shorter aliases")]
    TooLong,
}

impl From<KeyError> for TokenError {
    fn from(_: KeyError) -> Self {
        Self::Malformed
    }
}

/// Decides who may connect.
///
/// Tokens are up to 2,048 bytes of printable text. On a port for devices and callers alike ([`PortRole::Any`]) they have to
/// begin with `gA`, as those of Fernet do, since callers are told apart by that; on a port for devices alone they need not.
/// A token has no end mark: one that came in several TCP segments is looked at after each of them, so a decision has to be
/// about the whole text. The device waits meanwhile, for [`Timeouts::handshake`](crate::Timeouts::handshake) at most.
///
/// [`PortRole::Any`]: super::PortRole::Any
///
/// ```
/// use snitun::server::{Authenticator, TokenContent, TokenError};
/// # use std::time::SystemTime;
/// /// Lets nobody in.
/// struct Closed;
///
/// impl Authenticator for Closed {
///     async fn authenticate(&self, _token: &str, _now: SystemTime) -> Result<TokenContent, TokenError> {
///         Err(TokenError::Invalid)
///     }
/// }
/// ```
pub trait Authenticator: Send + Sync + 'static {
    /// What `token` entitles to at the time `now`.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] for what is no token (it may yet be the beginning of one), [`TokenError::Expired`] for one
    /// that was, [`TokenError::Unavailable`] where that cannot be found out now.
    fn authenticate(
        &self,
        token: &str,
        now: SystemTime,
    ) -> impl Future<Output = Result<TokenContent, TokenError>> + Send;
}

type Authenticating<'a> =
    Pin<Box<dyn Future<Output = Result<TokenContent, TokenError>> + Send + 'a>>;

/// [`Authenticator`] as a trait object.
pub(super) trait DynAuthenticator: Send + Sync {
    fn authenticate<'a>(&'a self, token: &'a str, now: SystemTime) -> Authenticating<'a>;
}

impl<A: Authenticator> DynAuthenticator for A {
    fn authenticate<'a>(&'a self, token: &'a str, now: SystemTime) -> Authenticating<'a> {
        Box::pin(Authenticator::authenticate(self, token, now))
    }
}

/// The Fernet keys of a server: the first one issues tokens, all of them open tokens. Never printed.
#[derive(Clone)]
pub struct FernetKeys(Vec<Fernet>);

/// The time at which a token's date of issue is looked at: late enough for any. Its content says until when it is good, and an
/// issuer whose clock is ahead of ours means no harm; the reference does not look either.
const ANY_TIME: u64 = u64::MAX / 2;

impl FernetKeys {
    /// One fresh key.
    pub fn generate() -> Self {
        Self(Fernet::new(&Self::generate_key()).into_iter().collect())
    }

    /// The text of a fresh key, for [`from_keys`](Self::from_keys) here and at whoever issues tokens.
    pub fn generate_key() -> Zeroizing<String> {
        Zeroizing::new(Fernet::generate_key())
    }

    /// Keys from their text, 32 bytes in URL-safe base64 each.
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

    /// Issues a token under the first key.
    ///
    /// # Errors
    /// [`TokenError::TooLong`] when a server could not take it in one read.
    pub fn issue(&self, content: &TokenContent) -> Result<String, TokenError> {
        let fernet = self.0.first().ok_or(TokenError::NoFernetKey)?;
        let token = fernet.encrypt(&content.to_json());
        if token.len() > MAX_TOKEN_LEN {
            return Err(TokenError::TooLong);
        }
        Ok(token)
    }

    /// Opens a token under any of the keys and checks that it is still good at `now`.
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
    fn a_token_from_a_clock_ahead_of_ours_opens() {
        let key = FernetKeys::generate_key();
        let soon = SystemTime::now() + Duration::from_secs(3600);
        let issued = soon.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let fernet = Fernet::new(&key).unwrap();
        let token = fernet.encrypt_at_time(&content().to_json(), issued);
        let keys = FernetKeys::from_keys(&[&*key]).unwrap();
        assert!(keys.open(&token, SystemTime::now()).is_ok());
    }

    #[test]
    fn an_issued_token_opens_under_any_key_until_it_expires() {
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
    fn what_is_missing_means_the_defaults_and_what_is_wrong_is_refused() {
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
