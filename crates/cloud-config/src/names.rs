//! Validated names in a configuration: serial number, thing name, host, endpoint.
//!
//! Validation prevents a stray `/`, `+`, or `#` from altering a topic, URL, or TLS server name
//! built from a name. It uses no network and no DNS.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use rustls_pki_types::ServerName;

/// Maximum length of serial numbers and thing names: the limit of AWS IoT for thing names and MQTT
/// client IDs.
const MAX_IDENTIFIER: usize = 128;

/// Reason that a name is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name is empty.
    #[error("is empty")]
    Empty,
    /// More than 128 characters.
    #[error("has {0} characters, at most {MAX_IDENTIFIER} are allowed")]
    TooLong(usize),
    /// A character that would change the meaning of a topic or a URL.
    #[error("contains {0:?}; allowed are ASCII letters and digits and _ - . :")]
    Character(char),
    /// Not a DNS name and not an IP address.
    #[error("is not a host name")]
    Host,
    /// No port between 1 and 65535 after the colon.
    #[error("has no port between 1 and 65535 after its colon")]
    Port,
}

fn check_identifier(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
    if let Some(other) = text.chars().find(|c| !allowed(*c)) {
        return Err(NameError::Character(other));
    }
    if text.len() > MAX_IDENTIFIER {
        return Err(NameError::TooLong(text.len()));
    }
    Ok(())
}

fn check_host(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    // A trailing dot is valid in DNS but not in a TLS server name.
    match ServerName::try_from(text) {
        Ok(_) if !text.ends_with('.') => Ok(()),
        _ => Err(NameError::Host),
    }
}

macro_rules! checked_string {
    ($(#[$doc:meta])* $name:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Returns the unchanged text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                $check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

checked_string! {
    /// A device's serial number: 1 to 128 of `A-Z a-z 0-9 _ - . :`.
    ///
    /// It becomes an MQTT topic level and a value in a request.
    ///
    /// ```
    /// use cloud_config::SerialNumber;
    ///
    /// assert!("SN-0001".parse::<SerialNumber>().is_ok());
    /// assert!("a/b#".parse::<SerialNumber>().is_err());
    /// ```
    SerialNumber, check_identifier
}

checked_string! {
    /// The device's AWS IoT thing name and MQTT client ID. Same characters as [`SerialNumber`].
    ThingName, check_identifier
}

checked_string! {
    /// A DNS name (without a trailing dot) or an IP address, without a port.
    HostName, check_host
}

/// A host with an optional port: `host`, `host:port`, `[v6]` or `[v6]:port`.
///
/// ```
/// use cloud_config::Endpoint;
///
/// let endpoint: Endpoint = "broker.example.com".parse()?;
/// assert_eq!(endpoint.port_or(8883), 8883);
/// let endpoint: Endpoint = "[::1]:1883".parse()?;
/// assert_eq!((endpoint.host.as_str(), endpoint.port), ("::1", Some(1883)));
/// # Ok::<(), cloud_config::NameError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A DNS name or an IP address. An IPv6 address has no brackets here.
    pub host: HostName,
    /// The port, if any.
    pub port: Option<u16>,
}

impl Endpoint {
    /// Returns the port, or `default` if there is none.
    #[must_use]
    pub fn port_or(&self, default: u16) -> u16 {
        self.port.unwrap_or(default)
    }
}

impl FromStr for Endpoint {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or(NameError::Host)?;
            host.parse::<Ipv6Addr>().map_err(|_| NameError::Host)?;
            let port = match rest {
                "" => None,
                rest => Some(rest.strip_prefix(':').ok_or(NameError::Host)?),
            };
            (host, port)
        } else if text.parse::<Ipv6Addr>().is_ok() {
            (text, None)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let port = port.map(parse_port).transpose()?;
        Ok(Self {
            host: host.parse()?,
            port,
        })
    }
}

/// Parses digits only: `u16::from_str` would accept a sign.
fn parse_port(text: &str) -> Result<u16, NameError> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NameError::Port);
    }
    match text.parse() {
        Ok(0) | Err(_) => Err(NameError::Port),
        Ok(port) => Ok(port),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.as_str();
        if host.contains(':') {
            write!(f, "[{host}]")?
        } else {
            f.write_str(host)?
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_number_accepts_only_allowed_characters() {
        for good in ["0", "SN0001", "a_b-c.d:e", &"x".repeat(128)] {
            assert_eq!(good.parse::<SerialNumber>().unwrap().as_str(), good);
        }
        assert_eq!("".parse::<SerialNumber>(), Err(NameError::Empty));
        assert_eq!(
            "x".repeat(129).parse::<SerialNumber>(),
            Err(NameError::TooLong(129))
        );
        for bad in ['/', '+', '#', '$', ' ', '\n', '\0', 'é', '%', '"'] {
            assert_eq!(
                format!("a{bad}b").parse::<SerialNumber>(),
                Err(NameError::Character(bad))
            );
        }
    }

    #[test]
    fn endpoint_round_trips_in_each_form() {
        for (text, host, port) in [
            ("a.example.com", "a.example.com", None),
            ("a.example.com:8883", "a.example.com", Some(8883)),
            ("127.0.0.1:1", "127.0.0.1", Some(1)),
            ("[fe80::1]:65535", "fe80::1", Some(65535)),
            ("[::1]", "::1", None),
            ("localhost", "localhost", None),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(
                (endpoint.host.as_str(), endpoint.port),
                (host, port),
                "{text}"
            );
            assert_eq!(endpoint.to_string(), text);
        }
        assert_eq!("::1".parse::<Endpoint>().unwrap().to_string(), "[::1]");
        for bad in [
            "",
            ":443",
            "a b",
            "a/b",
            "https://a",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:1:2",
            "[::1",
            "[a]:1",
            "[::1]1",
            "a.",
            "user@host",
            "-a",
            "é.example",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }
}
