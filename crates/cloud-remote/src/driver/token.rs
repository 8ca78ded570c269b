//! Requests tokens and stores them with their keys.

use std::sync::Arc;

use cloud_net::{info_throttled, unix_seconds, warn_throttled};
use snitun::{Cipher, SessionKey};

use super::{Driver, Id, TokenWithKeys};
use crate::catch_panic::catch_panic;
use crate::core::{Event, TokenFacts};
use crate::status::RemoteEvent;
use crate::token::TokenRequest;
use crate::traits::{CertificateSource, CertificateStore, SourceError, TokenSource};
use crate::tunnel::SessionKeys;

impl<T, C, S> Driver<T, C, S>
where
    T: TokenSource,
    C: CertificateSource,
    S: CertificateStore,
{
    pub(super) fn request_token(&mut self, id: Id) {
        let source = Arc::clone(&self.context.tokens);
        tracing::debug!("requesting a token");
        let request = async move {
            let key = SessionKey::generate().map_err(SourceError::unavailable)?;
            let response = source.request_token(TokenRequest::new(&key)).await?;
            let keys = SessionKeys::new(key.with_cipher(response.cipher()));
            Ok(TokenWithKeys { keys, response })
        };
        self.token_request = Some((
            id,
            Box::pin(catch_panic(request, || {
                SourceError::unavailable("the token source panicked")
            })),
        ));
    }

    /// Stores the token, then reports it to the core, which accepts each token: the result of a
    /// cancelled request does not arrive, because cancelling drops its future.
    pub(super) fn token_received(&mut self, id: Id, result: Result<TokenWithKeys, SourceError>) {
        let result = match result {
            Ok(token) => Ok(self.keep_token(token)),
            Err(error) => {
                self.token_failed(error);
                Err(())
            }
        };
        self.step(Event::Token { id, result });
    }

    fn keep_token(&mut self, token: TokenWithKeys) -> TokenFacts {
        if let Some(issued) = token.response.issued() {
            self.context.clock.set(issued);
        }
        let valid = token.response.valid();
        let facts = TokenFacts {
            valid: unix_seconds(valid),
            single_use: token.response.cipher() == Cipher::AesGcm,
        };
        info_throttled!(
            self.throttles.token_received,
            valid = facts.valid,
            "received a token for remote access"
        );
        self.token = Some(token);
        self.emit(RemoteEvent::TokenReceived { valid });
        facts
    }

    pub(super) fn token_failed(&mut self, error: SourceError) {
        warn_throttled!(self.throttles.token_failed, %error, "the token request for remote access failed; it is retried");
        self.cause = Some(error.to_string());
        self.emit(RemoteEvent::TokenFailed {
            error: Arc::new(error),
        });
    }
}
