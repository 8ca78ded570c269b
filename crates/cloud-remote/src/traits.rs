//! The traits through which remote access obtains tokens and certificates and stores the
//! certificate.
//!
//! The consumer owns the traits. The host implements them, usually over request and response topics
//! of the device's IoT session and over the device's directory. One task calls them, one call at a
//! time for each trait, and cancels a call by dropping its future.

use std::sync::Arc;

use crate::BoxError;
use crate::certificate::{CertificatePem, CertificateRequest, CertificateResponse};
use crate::response::ResponseError;
use crate::token::{TokenRequest, TokenResponse};

/// An error of a request to the platform, or of its response. Each one is retried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The request could not be sent, for example because the session to the platform is down.
    #[error("the request to the platform failed: {0}")]
    Unavailable(#[source] BoxError),
    /// The platform's response is invalid.
    #[error(transparent)]
    Answer(#[from] ResponseError),
    /// No response arrived in time.
    #[error("the platform did not respond in time")]
    TimedOut,
}

impl SourceError {
    /// Wraps a transport error.
    pub fn unavailable(error: impl Into<BoxError>) -> Self {
        Self::Unavailable(error.into())
    }
}

/// An error of loading or storing the certificate.
#[derive(Debug, thiserror::Error)]
#[error("the certificate store failed: {0}")]
pub struct StoreError(#[source] BoxError);

impl StoreError {
    /// Wraps the error of a store.
    pub fn new(error: impl Into<BoxError>) -> Self {
        Self(error.into())
    }
}

/// Requests a token for the tunnel from the platform.
///
/// # Cancel safety
/// The future is dropped at the timeout, when the session to the platform is reported as lost, and
/// when remote access stops. A late response must not be returned by a later call: its token
/// belongs to discarded keys. (If that happens, the relay refuses the token, and a new one is
/// requested.)
pub trait TokenSource: Send + Sync + 'static {
    /// Sends the request and waits for the response.
    fn request_token(
        &self,
        request: TokenRequest,
    ) -> impl Future<Output = Result<TokenResponse, SourceError>> + Send;
}

/// Requests the certificate with a given serial number from the platform.
///
/// # Cancel safety
/// Same as [`TokenSource`].
pub trait CertificateSource: Send + Sync + 'static {
    /// Sends the request and waits for the response.
    fn request_certificate(
        &self,
        request: CertificateRequest,
    ) -> impl Future<Output = Result<CertificateResponse, SourceError>> + Send;
}

/// Stores the certificate of the remote UI and its key.
pub trait CertificateStore: Send + Sync + 'static {
    /// Loads the certificate to serve from the start.
    fn load(&self) -> impl Future<Output = Result<CertificatePem, StoreError>> + Send;

    /// Replaces the certificate and key atomically. Called only with a verified pair.
    ///
    /// # Cancel safety
    /// If the future is dropped, the store holds either the old or the new pair, complete.
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
