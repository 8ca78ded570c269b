//! TLS failures, by the certificate or clock at fault.

use rustls::{AlertDescription, CertificateError, InvalidMessage};
use thiserror::Error;

/// Why TLS failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TlsCause {
    /// The server's certificate comes from a CA that is not trusted here.
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
    /// The server's certificate is invalid in another way.
    #[error("the server's certificate is not acceptable: {0}")]
    BadCertificate(String),
    /// The server refused this device's certificate.
    #[error("the server refused this device's certificate: {0}")]
    ClientCertificateRejected(String),
    /// The two sides have no TLS version, cipher suite or ALPN name in common.
    #[error("server and device have no TLS parameters in common: {0}")]
    NoCommonParameters(String),
    /// The connection ended during the handshake without a reason. Firewalls that inspect traffic
    /// do this, as do some servers that do not know this device's certificate.
    #[error(
        "the connection ended during the handshake; a firewall may abort TLS on this port, or the server does not know this device"
    )]
    HandshakeAborted,
    /// The peer does not speak TLS.
    #[error("the peer does not speak TLS; check the host, the port and firewalls")]
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
            // These alerts are about the client certificate.
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
            ) => Self::NoCommonParameters(format!("{alert:?}")),
            rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => {
                Self::NoCommonParameters(error.to_string())
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
    use crate::error::cause::Cause;

    #[test]
    fn certificate_errors_have_distinct_causes() {
        let cause = |error: rustls::Error| {
            // As tokio-rustls passes it on.
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
