//! What can go wrong in TLS, told apart by whose certificate or clock it is.

use rustls::{AlertDescription, CertificateError, InvalidMessage};
use thiserror::Error;

/// What went wrong in TLS.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TlsCause {
    /// The server's certificate comes from no CA that is trusted here.
    #[error("the server's certificate is from an unknown CA")]
    UnknownIssuer,
    /// The server's certificate is for other names.
    #[error("the server's certificate is for another name")]
    WrongName,
    /// The server's certificate has expired.
    #[error("the server's certificate has expired, or this device's clock is wrong")]
    Expired,
    /// The server's certificate is not valid yet.
    #[error("the server's certificate is not valid yet; this device's clock is probably wrong")]
    NotYetValid,
    /// The server's certificate is bad in another way.
    #[error("the server's certificate is not acceptable: {0}")]
    BadCertificate(String),
    /// The server refused this device's certificate.
    #[error("the server refused this device's certificate: {0}")]
    ClientCertificateRejected(String),
    /// Both sides have no version, cipher suite or ALPN name in common.
    #[error("server and device have no TLS parameters in common: {0}")]
    NothingInCommon(String),
    /// The connection ended before the handshake was complete, and nobody said why. So does a firewall that looks
    /// into what it lets through, and so do some servers that do not know this device's certificate.
    #[error(
        "the connection ended during the handshake; a firewall may break off TLS on this port, or the server does not know this device"
    )]
    BrokenOff,
    /// What answered does not speak TLS.
    #[error("what answers does not speak TLS; check the host, the port and what is on the way")]
    NotTls,
    /// Another failure.
    #[error("{0}")]
    Other(String),
}

impl From<&rustls::Error> for TlsCause {
    fn from(error: &rustls::Error) -> Self {
        use AlertDescription as Alert;
        match error {
            rustls::Error::InvalidCertificate(bad) => match bad {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    Self::UnknownIssuer
                }
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => Self::WrongName,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    Self::Expired
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Self::NotYetValid
                }
                other => Self::BadCertificate(other.to_string()),
            },
            // These alerts speak about the certificate that we sent.
            rustls::Error::AlertReceived(
                alert @ (Alert::BadCertificate
                | Alert::NoCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::CertificateRequired
                | Alert::DecryptError),
            ) => Self::ClientCertificateRejected(format!("{alert:?}")),
            rustls::Error::AlertReceived(
                alert @ (Alert::HandshakeFailure
                | Alert::ProtocolVersion
                | Alert::InsufficientSecurity
                | Alert::NoApplicationProtocol),
            ) => Self::NothingInCommon(format!("{alert:?}")),
            rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => {
                Self::NothingInCommon(error.to_string())
            }
            rustls::Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => Self::NotTls,
            other => Self::Other(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::cause::Cause;

    #[test]
    fn tells_certificate_errors_apart() {
        let cause = |error: rustls::Error| {
            // As tokio-rustls hands it on.
            Cause::from(&io::Error::new(io::ErrorKind::InvalidData, error))
        };
        let bad = |e| cause(rustls::Error::InvalidCertificate(e));
        assert_eq!(
            bad(CertificateError::Expired),
            Cause::Tls(TlsCause::Expired)
        );
        assert_eq!(
            bad(CertificateError::NotValidYet),
            Cause::Tls(TlsCause::NotYetValid)
        );
        assert_eq!(
            bad(CertificateError::UnknownIssuer),
            Cause::Tls(TlsCause::UnknownIssuer)
        );
        let alert = cause(rustls::Error::AlertReceived(
            AlertDescription::CertificateUnknown,
        ));
        assert!(matches!(
            alert,
            Cause::Tls(TlsCause::ClientCertificateRejected(_))
        ));
        assert!(!alert.is_retryable());
    }
}
