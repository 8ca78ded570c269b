//! The PROXY protocol: sends the client's address to an application behind a plain TCP connection.
//!
//! Encoding only. The relay sends the client's address without its port, which is encoded as 0; the
//! destination is the unspecified address of the same family, port 443.
//!
//! Specification: HAProxy's "The PROXY protocol", versions 1 and 2.

use std::net::IpAddr;

/// The public port of a device.
const PORT: u16 = 443;

const SIGNATURE_V2: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// The version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxyProtocol {
    /// Version 1, a line of text.
    V1,
    /// Version 2, binary.
    V2,
}

impl ProxyProtocol {
    /// Returns the header to send first. An unknown client is encoded as such (`UNKNOWN`, or the
    /// command `LOCAL`).
    #[must_use]
    pub fn header(self, caller: Option<IpAddr>) -> Vec<u8> {
        let caller = caller.map(|address| address.to_canonical());
        match self {
            Self::V1 => text(caller).into_bytes(),
            Self::V2 => binary(caller),
        }
    }
}

fn text(caller: Option<IpAddr>) -> String {
    match caller {
        Some(IpAddr::V4(address)) => format!("PROXY TCP4 {address} 0.0.0.0 0 {PORT}\r\n"),
        Some(IpAddr::V6(address)) => format!("PROXY TCP6 {address} :: 0 {PORT}\r\n"),
        None => "PROXY UNKNOWN\r\n".to_owned(),
    }
}

fn binary(caller: Option<IpAddr>) -> Vec<u8> {
    let mut header = SIGNATURE_V2.to_vec();
    let mut addresses = |family: u8, length: u8, source: &[u8], destination: &[u8]| {
        header.extend([PROXY, family, 0, length]);
        header.extend(source);
        header.extend(destination);
        header.extend(0_u16.to_be_bytes());
        header.extend(PORT.to_be_bytes());
    };
    match caller {
        Some(IpAddr::V4(address)) => addresses(TCP_OVER_IPV4, 12, &address.octets(), &[0; 4]),
        Some(IpAddr::V6(address)) => addresses(TCP_OVER_IPV6, 36, &address.octets(), &[0; 16]),
        None => header.extend([LOCAL, UNSPECIFIED, 0, 0]),
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn v1_header_is_one_line() {
        assert_eq!(
            ProxyProtocol::V1.header(ip("192.0.2.7")),
            b"PROXY TCP4 192.0.2.7 0.0.0.0 0 443\r\n"
        );
        assert_eq!(
            ProxyProtocol::V1.header(ip("2001:db8::7")),
            b"PROXY TCP6 2001:db8::7 :: 0 443\r\n"
        );
        assert_eq!(
            ProxyProtocol::V1.header(ip("::ffff:192.0.2.7")),
            ProxyProtocol::V1.header(ip("192.0.2.7"))
        );
        assert_eq!(ProxyProtocol::V1.header(None), b"PROXY UNKNOWN\r\n");
    }

    #[test]
    fn v2_header_is_binary_with_length() {
        let header = ProxyProtocol::V2.header(ip("192.0.2.7"));
        assert_eq!(
            header[..12],
            [
                0x0d, 0x0a, 0x0d, 0x0a, 0, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a
            ]
        );
        assert_eq!(
            header[12..],
            [
                0x21, 0x11, 0, 12, 192, 0, 2, 7, 0, 0, 0, 0, 0, 0, 0x01, 0xbb
            ]
        );
        let header = ProxyProtocol::V2.header(ip("2001:db8::7"));
        assert_eq!(header[12..16], [0x21, 0x21, 0, 36]);
        assert_eq!(header.len(), 16 + 36);
        assert_eq!(ProxyProtocol::V2.header(None)[12..], [0x20, 0, 0, 0]);
    }
}
