//! What a public connection has shown of its caller: the client certificate of its TLS handshake,
//! and the password that was checked last.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::time::Instant;

use super::client_roots::ClientRoots;
use super::password_file::{CredentialTag, PasswordFile};

/// A certificate that expires on an open connection is refused after this time at the latest.
const VERIFIED_FOR: Duration = Duration::from_secs(60);

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct ConnectionIdentity {
    /// The client's certificate and its intermediate authorities, or none. TLS has checked that the
    /// client has the private key, in this handshake or in the one that this session resumes.
    certificates: Vec<CertificateDer<'static>>,
    verified: Mutex<Option<Verified>>,
    /// Locked during a check, so that a connection has one check at a time, and the requests of a
    /// page share one result.
    pub(super) password: tokio::sync::Mutex<Option<CheckedPassword>>,
}

/// The result of verifying the certificate.
#[derive(Debug)]
struct Verified {
    roots: ClientRoots,
    at: Instant,
    result: Result<(), rustls::Error>,
}

/// The result of checking a password.
pub(super) struct CheckedPassword {
    pub(super) file: PasswordFile,
    pub(super) tag: CredentialTag,
    /// The user's place in the file if the password is right.
    pub(super) user: Option<usize>,
}

impl std::fmt::Debug for CheckedPassword {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("CheckedPassword")
    }
}

impl ConnectionIdentity {
    pub(crate) fn new(certificates: Option<&[CertificateDer<'_>]>) -> Self {
        let owned = |certificate: &CertificateDer<'_>| certificate.clone().into_owned();
        Self {
            certificates: certificates.unwrap_or_default().iter().map(owned).collect(),
            ..Self::default()
        }
    }

    /// Returns the client's certificate if these roots vouch for it; `None` if there is none.
    ///
    /// TLS has verified it too, but an open or resumed session may be older than the roots, and
    /// than the end of the certificate.
    pub(super) fn verify(
        &self,
        roots: &ClientRoots,
        now: UnixTime,
    ) -> Option<Result<&CertificateDer<'static>, rustls::Error>> {
        let (certificate, intermediates) = self.certificates.split_first()?;
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        let known = verified
            .as_ref()
            .filter(|verified| verified.roots.is(roots) && verified.at.elapsed() < VERIFIED_FOR);
        let result = match known {
            Some(verified) => verified.result.clone(),
            None => {
                let result = roots.verify(certificate, intermediates, now);
                *verified = Some(Verified {
                    roots: roots.clone(),
                    at: Instant::now(),
                    result: result.clone(),
                });
                result
            }
        };
        Some(result.map(|()| certificate))
    }
}
