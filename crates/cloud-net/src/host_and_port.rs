//! A host and a port as text.

use std::fmt;

/// Formats a host and a port, with an IPv6 address in brackets.
pub(crate) struct HostAndPort<'a>(pub(crate) &'a str, pub(crate) u16);

impl fmt::Display for HostAndPort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(host, port) = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}
