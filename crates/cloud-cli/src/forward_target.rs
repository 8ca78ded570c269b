//! The value of `--forward`: where the web server is, and what it speaks.

use std::fmt;
use std::str::FromStr;

use cloud_facade::remote::{CertificatePin, ForwardOptions, UpstreamProtocol, UpstreamTls};

use crate::error::{CliError, Result};
use crate::public_client;
use crate::value_parsers::{Address, AddressError, LocalApplication};

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ForwardTarget {
    /// HTTP/1.1 without TLS.
    Http1(LocalApplication),
    /// HTTP/2 without TLS.
    H2c(Address),
    /// HTTP/2 or HTTP/1.1 with TLS.
    Https(Address),
}

/// The error of an invalid target.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ForwardTargetError {
    #[error(
        "names a protocol that is not forwarded; write HOST:PORT, h2c://HOST:PORT, https://HOST:PORT or unix:PATH"
    )]
    Scheme,
    #[error("has a path, a query or a user name; write HOST:PORT: requests keep their own path")]
    MoreThanAddress,
    #[error(transparent)]
    Address(#[from] AddressError),
}

impl FromStr for ForwardTarget {
    type Err = ForwardTargetError;

    fn from_str(text: &str) -> Result<Self, ForwardTargetError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::Http1(text.parse()?));
        };
        let variant: fn(Address) -> Self = match scheme.to_ascii_lowercase().as_str() {
            "http" => |address| Self::Http1(LocalApplication::Tcp(address)),
            "h2c" => Self::H2c,
            "https" => Self::Https,
            _ => return Err(ForwardTargetError::Scheme),
        };
        let address = rest.strip_suffix('/').unwrap_or(rest);
        if address.contains(['/', '?', '#', '@']) {
            return Err(ForwardTargetError::MoreThanAddress);
        }
        Ok(variant(address.parse()?))
    }
}

impl ForwardTarget {
    pub(crate) fn application(&self) -> LocalApplication {
        match self {
            Self::Http1(application) => application.clone(),
            Self::H2c(address) | Self::Https(address) => LocalApplication::Tcp(address.clone()),
        }
    }

    /// Returns the options with the target's protocol. A certificate is verified by `pins`,
    /// otherwise with the system's roots and those in `roots` (PEM).
    pub(crate) fn options(
        &self,
        options: ForwardOptions,
        roots: Option<&[u8]>,
        pins: &[CertificatePin],
    ) -> Result<ForwardOptions> {
        Ok(options.protocol(match self {
            Self::Http1(_) => UpstreamProtocol::Http1,
            Self::H2c(_) => UpstreamProtocol::Http2,
            Self::Https(address) => {
                let tls = match pins {
                    [] => UpstreamTls::new(&address.host, public_client::roots(roots)?),
                    pins => UpstreamTls::pinned(&address.host, pins.iter().copied()),
                };
                UpstreamProtocol::Tls(tls.map_err(|error| {
                    CliError::with_cause("cannot use --forward https://", &error)
                })?)
            }
        }))
    }
}

impl fmt::Display for ForwardTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http1(application) => application.fmt(f),
            Self::H2c(address) => write!(f, "h2c://{address}"),
            Self::Https(address) => write!(f, "https://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_selects_the_protocol() {
        for (text, shown) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://localhost:8080/", "localhost:8080"),
            ("http://[::1]:80", "[::1]:80"),
            ("h2c://[::1]:50051", "h2c://[::1]:50051"),
            ("HTTPS://box.local:443", "https://box.local:443"),
            ("unix:/run/ui.sock", "unix:/run/ui.sock"),
        ] {
            let target: ForwardTarget = text.parse().unwrap();
            assert_eq!(target.to_string(), shown);
        }
    }

    #[test]
    fn errors_say_what_to_write() {
        let address = |error| ForwardTargetError::Address(error);
        for (text, reason) in [
            ("8080", address(AddressError::NoHost)),
            (":8080", address(AddressError::NoHost)),
            ("localhost", address(AddressError::NoPort)),
            ("http://localhost", address(AddressError::NoPort)),
            ("https://a", address(AddressError::NoPort)),
            ("http://:8080", address(AddressError::NoHost)),
            ("ftp://a:1", ForwardTargetError::Scheme),
            ("://a:1", ForwardTargetError::Scheme),
            ("https://a:1/path", ForwardTargetError::MoreThanAddress),
            (
                "http://me:pass@localhost:1",
                ForwardTargetError::MoreThanAddress,
            ),
            ("unix:", address(AddressError::NoPath)),
            ("unix:app.sock", address(AddressError::NoPath)),
        ] {
            let error = text.parse::<ForwardTarget>().unwrap_err();
            assert!(error.to_string().contains("write HOST:PORT"), "{error}");
            assert_eq!(error, reason, "{text}");
        }
    }
}
