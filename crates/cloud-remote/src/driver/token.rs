//! Requests tokens and stores them with their keys.

use std::sync::Arc;

use cloud_net::{info_throttled, warn_throttled};
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
            let answer = source.request_token(TokenRequest::new(&key)).await?;
            let keys = SessionKeys::new(key.with_cipher(answer.cipher()));
            Ok(TokenWithKeys { keys, answer })
        };
        self.token_request = Some((
            id,
            Box::pin(catch_panic(request, || {
                SourceError::unavailable("the token source panicked")
            })),
        ));
    }

    pub(super) fn token(&mut self, id: Id, result: Result<TokenWithKeys, SourceError>) {
        let result = match result {
            Ok(held) => {
                if let Some(issued) = held.answer.issued() {
                    self.context.clock.set(issued);
                }
                let facts = TokenFacts {
                    valid: held.answer.valid(),
                    single_use: held.answer.cipher() == Cipher::AesGcm,
                };
                self.token_arrived = Some(held);
                Ok(facts)
            }
            Err(error) => {
                self.token_failed(error);
                Err(())
            }
        };
        self.step(Event::Token { id, result });
    }

    pub(super) fn token_failed(&mut self, error: SourceError) {
        warn_throttled!(self.throttles.token_failed, %error, "the token request for remote access failed; it is retried");
        self.cause = Some(error.to_string());
        self.emit(RemoteEvent::TokenFailed {
            error: Arc::new(error),
        });
    }

    pub(super) fn keep_token(&mut self) {
        let Some(held) = self.token_arrived.take() else {
            return;
        };
        let valid = held.answer.valid();
        info_throttled!(
            self.throttles.token_received,
            valid,
            "received a token for remote access"
        );
        self.held = Some(held);
        self.emit(RemoteEvent::TokenReceived { valid });
    }
}
