//! The relay's side of the platform: makes tokens that the relay takes, and looks at who is
//! connected.
//!
//! The relay itself is the `snitun` crate's server (docs/protocol.md, "SniTun"). The platform and
//! the relay share the Fernet keys, and nothing else.

use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::{Value, json};
use snitun::server::{FernetKeys, Server, ServerConfig, ServerHandle, TokenContent, TokenError};
use snitun::{Cipher, ProtocolVersion, SessionKey};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What all tokens of one simulator have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenSettings {
    pub(crate) version: ProtocolVersion,
    pub(crate) cipher: Cipher,
    pub(crate) throttling: Option<NonZeroU32>,
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayError {
    #[error(transparent)]
    Key(#[from] snitun::KeyError),
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl TokenSettings {
    /// The answer to a token request. Version and cipher are left out where they are the default,
    /// since the platform of today does not know the two fields.
    pub(crate) fn answer(&self, valid: u64, token: &str) -> Value {
        let mut answer = json!({ "valid": valid, "throttling": self.throttling, "token": token });
        if self.version != ProtocolVersion::default() {
            answer["protocol_version"] = Value::from(u8::from(self.version));
        }
        if self.cipher != Cipher::default() {
            answer["cipher"] = Value::from(self.cipher.to_string());
        }
        answer
    }

    /// A token that no relay of ours can decrypt.
    pub(crate) fn issue_foreign(
        &self,
        host: &str,
        key: &str,
        iv: &str,
        valid: u64,
    ) -> Result<String, RelayError> {
        self.issue(
            &FernetKeys::generate(),
            host,
            SessionKey::from_hex(key, iv)?,
            valid,
        )
    }

    fn issue(
        &self,
        keys: &FernetKeys,
        host: &str,
        key: SessionKey,
        valid: u64,
    ) -> Result<String, RelayError> {
        let mut content = TokenContent::new(host, key, valid);
        content.protocol_version = self.version;
        content.cipher = self.cipher;
        Ok(keys.issue(&content)?)
    }
}

/// The keys that platform and relay share, and a handle on the relay.
pub(crate) struct Relay {
    keys: FernetKeys,
    secret: String,
    handle: ServerHandle,
}

impl Relay {
    /// The relay's server, and the platform's view of it. `secret` is the Fernet key that was kept,
    /// if one was; `callers` is the maximum of callers at a time from one address.
    pub(crate) fn new(
        secret: Option<String>,
        callers: usize,
    ) -> Result<(Self, Server), RelayError> {
        let secret = secret.unwrap_or_else(|| FernetKeys::generate_key().to_string());
        let keys = FernetKeys::from_keys(&[&secret])?;
        // When a simulator stops, its callers' answers do not matter.
        let mut config = ServerConfig {
            stop_grace: Duration::ZERO,
            ..ServerConfig::default()
        };
        config.set_callers_per_address(callers);
        let server = Server::new(keys.clone(), config);
        let handle = server.handle();
        Ok((
            Self {
                keys,
                secret,
                handle,
            },
            server,
        ))
    }

    /// The Fernet key, to be kept.
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    /// A token for a tunnel of `host` with the key that the device chose.
    pub(crate) fn issue(
        &self,
        settings: &TokenSettings,
        host: &str,
        key: &str,
        iv: &str,
        valid: u64,
    ) -> Result<String, RelayError> {
        settings.issue(&self.keys, host, SessionKey::from_hex(key, iv)?, valid)
    }

    /// A token for a key that nobody has.
    pub(crate) fn issue_with_other_key(
        &self,
        settings: &TokenSettings,
        host: &str,
        valid: u64,
    ) -> Result<String, RelayError> {
        settings.issue(&self.keys, host, SessionKey::generate()?, valid)
    }

    pub(crate) fn is_connected(&self, host: &str) -> bool {
        self.handle.is_connected(host)
    }

    /// Whether there was a tunnel to cut.
    pub(crate) fn disconnect(&self, host: &str) -> bool {
        self.handle.disconnect(host)
    }

    /// Cuts all tunnels and returns how many there were.
    pub(crate) fn disconnect_all(&self) -> usize {
        self.handle
            .hostnames()
            .iter()
            .filter(|host| self.handle.disconnect(host))
            .count()
    }
}

/// Runs the relay until `shutdown`.
pub(crate) async fn serve(server: Server, listener: TcpListener, shutdown: CancellationToken) {
    server.serve(listener, shutdown.cancelled_owned()).await;
}
