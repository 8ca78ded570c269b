//! What remote access asks of its surroundings: somewhere to get tokens and certificates from, somewhere to keep the
//! certificate.
//!
//! The traits are owned here, by their consumer; whoever composes a device implements them, usually over request and
//! response topics of the device's IoT session and over the device's directory. Calls are made by one task, one at a
//! time for each trait, and are given up by dropping the future.
//!
//! Protocol: `docs/protocol.md`, "Remote access".

use std::sync::Arc;

use crate::BoxError;
use crate::certificate::{CertificatePem, CertificateRequest, CertificateResponse};
use crate::response::ResponseError;
use crate::token::{TokenRequest, TokenResponse};

/// Why the platform could not be asked, or what was wrong with its answer. Trying again later can help in every case,
/// and is done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The request could not be sent, for instance because the session to the platform is down.
    #[error("the platform could not be asked: {0}")]
    Unavailable(#[source] BoxError),
    /// The platform's answer could not be used.
    #[error(transparent)]
    Answer(#[from] ResponseError),
    /// No answer came in time.
    #[error("the platform did not answer in time")]
    TimedOut,
}

impl SourceError {
    /// Wraps an error of the way to the platform.
    pub fn unavailable(error: impl Into<BoxError>) -> Self {
        Self::Unavailable(error.into())
    }
}

/// Why the certificate could not be loaded or stored.
#[derive(Debug, thiserror::Error)]
#[error("the certificate store failed: {0}")]
pub struct StoreError(#[source] BoxError);

impl StoreError {
    /// Wraps the store's own error.
    pub fn new(error: impl Into<BoxError>) -> Self {
        Self(error.into())
    }
}

/// Gets a token for the tunnel from the platform.
///
/// # Cancel safety
/// The future is dropped when no answer came within the time limit, when the session to the platform is reported as
/// lost, and when remote access stops. An answer that arrives after that must not be handed to a later call: its token
/// belongs to keys that are gone. (If it happens all the same, the relay refuses that token, and a new one is asked
/// for.)
pub trait TokenSource: Send + Sync + 'static {
    /// Sends the request and waits for its answer.
    fn request_token(
        &self,
        request: TokenRequest,
    ) -> impl Future<Output = Result<TokenResponse, SourceError>> + Send;
}

/// Gets the certificate with a given serial number from the platform.
///
/// # Cancel safety
/// As for [`TokenSource`].
pub trait CertificateSource: Send + Sync + 'static {
    /// Sends the request and waits for its answer.
    fn request_certificate(
        &self,
        request: CertificateRequest,
    ) -> impl Future<Output = Result<CertificateResponse, SourceError>> + Send;
}

/// Keeps the certificate of the remote UI and its key.
pub trait CertificateStore: Send + Sync + 'static {
    /// The certificate to serve from the start.
    fn load(&self) -> impl Future<Output = Result<CertificatePem, StoreError>> + Send;

    /// Replaces the certificate and key, both or none. Only called with a pair that was checked.
    ///
    /// # Cancel safety
    /// If the future is dropped, either pair may be in the store, but always a whole one.
    fn store(
        &self,
        certificate: &CertificatePem,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

impl<T: TokenSource> TokenSource for Arc<T> {
    fn request_token(
        &self,
        request: TokenRequest,
    ) -> impl Future<Output = Result<TokenResponse, SourceError>> + Send {
        T::request_token(self, request)
    }
}

impl<T: CertificateSource> CertificateSource for Arc<T> {
    fn request_certificate(
        &self,
        request: CertificateRequest,
    ) -> impl Future<Output = Result<CertificateResponse, SourceError>> + Send {
        T::request_certificate(self, request)
    }
}

impl<T: CertificateStore> CertificateStore for Arc<T> {
    fn load(&self) -> impl Future<Output = Result<CertificatePem, StoreError>> + Send {
        T::load(self)
    }

    fn store(
        &self,
        certificate: &CertificatePem,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        T::store(self, certificate)
    }
}
