//! Parser for the header of the PROXY protocol, versions 1 and 2, that a load balancer adds to a
//! connection.
//!
//! It returns the source address and the length of the header; it ignores the destination and all
//! extensions. Use it only where every connection comes from a trusted load balancer: any peer that
//! can send the header can claim any address.
//!
//! Format: the PROXY protocol specification of HAProxy, sections 2.1 and 2.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Maximum length of a header. Version 1 has at most 107 bytes; in version 2 the extensions of the
/// known load balancers stay far below this.
pub const MAX_PROXY_HEADER: usize = 2048;

/// Maximum length of a version 1 header, including the end of line.
const MAX_V1: usize = 107;
const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, command, family and length of version 2.
const V2_FIXED: usize = 16;

/// A parsed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Source address; `None` if the load balancer itself opened the connection (a health check) or
    /// does not send the address.
    pub source: Option<SocketAddr>,
    /// Length of the header; the connection's own data follows.
    pub len: usize,
}

/// The reason why bytes are not a PROXY protocol header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// Not a PROXY protocol header.
    #[error(
        "the connection does not begin with a PROXY protocol header; configure the load balancer to send one, or turn the PROXY protocol off here"
    )]
    NotProxy,
    /// It begins like a header and is invalid.
    #[error("the PROXY protocol header is malformed")]
    Malformed,
    /// Longer than [`MAX_PROXY_HEADER`].
    #[error("the PROXY protocol header is longer than {MAX_PROXY_HEADER} bytes")]
    TooLong,
}

/// Parses the header at the start of `bytes`; `None` when more bytes are needed.
///
/// # Errors
/// [`ProxyError`].
pub fn header(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    if begins(bytes, V2_START) {
        version_2(bytes)
    } else if begins(bytes, V1_START) {
        version_1(bytes)
    } else {
        Err(ProxyError::NotProxy)
    }
}

/// Returns whether `bytes` begins with `start`, as far as available.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(a, b)| a == b)
}

fn version_1(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let window = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if window.len() < MAX_V1 {
            Ok(None)
        } else {
            Err(ProxyError::Malformed)
        };
    };
    let line = std::str::from_utf8(&window[..end]).map_err(|_| ProxyError::Malformed)?;
    let mut words = line.split(' ').skip(1);
    let mut word = || words.next().ok_or(ProxyError::Malformed);
    let source = match word()? {
        "UNKNOWN" => None,
        family @ ("TCP4" | "TCP6") => {
            let source: IpAddr = parse(word()?)?;
            let destination: IpAddr = parse(word()?)?;
            let port = parse(word()?)?;
            let _: u16 = parse(word()?)?;
            let four = family == "TCP4";
            if source.is_ipv4() != four || destination.is_ipv4() != four || word().is_ok() {
                return Err(ProxyError::Malformed);
            }
            Some(SocketAddr::new(source, port))
        }
        _ => return Err(ProxyError::Malformed),
    };
    Ok(Some(ProxyHeader {
        source,
        len: end + 2,
    }))
}

fn parse<T: std::str::FromStr>(word: &str) -> Result<T, ProxyError> {
    word.parse().map_err(|_| ProxyError::Malformed)
}

fn version_2(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<V2_FIXED>() else {
        return Ok(None);
    };
    let [command, family, high, low] = [fixed[12], fixed[13], fixed[14], fixed[15]];
    let body_len = usize::from(u16::from_be_bytes([high, low]));
    let len = V2_FIXED + body_len;
    if command >> 4 != 2 {
        return Err(ProxyError::Malformed);
    }
    if len > MAX_PROXY_HEADER {
        return Err(ProxyError::TooLong);
    }
    let Some(body) = rest.get(..body_len) else {
        return Ok(None);
    };
    let source = match (command & 0xf, family) {
        // LOCAL: the load balancer's own connection; ignore the addresses.
        (0, _) => None,
        (1, 0x11) => {
            let addresses = body.first_chunk::<12>().ok_or(ProxyError::Malformed)?;
            let [a, b, c, d, .., high, low, _, _] = *addresses;
            let port = u16::from_be_bytes([high, low]);
            Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port))
        }
        (1, 0x21) => {
            let addresses = body.first_chunk::<36>().ok_or(ProxyError::Malformed)?;
            let octets = addresses.first_chunk::<16>().ok_or(ProxyError::Malformed)?;
            let port = u16::from_be_bytes([addresses[32], addresses[33]]);
            Some(SocketAddr::new(Ipv6Addr::from(*octets).into(), port))
        }
        // Neither TCP over IPv4 nor over IPv6: the source is unspecified.
        (1, _) => None,
        _ => return Err(ProxyError::Malformed),
    };
    Ok(Some(ProxyHeader { source, len }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = V2_START.to_vec();
        bytes.extend_from_slice(&[command, family]);
        bytes.extend_from_slice(&(body.len() as u16).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn found(source: Option<&str>, len: usize) -> Result<Option<ProxyHeader>, ProxyError> {
        let source = source.map(|address| address.parse().unwrap());
        Ok(Some(ProxyHeader { source, len }))
    }

    #[test]
    fn v1_header_names_the_source() {
        let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
        for len in 0..line.len() {
            assert_eq!(header(&line[..len]), Ok(None), "{len}");
        }
        let whole = [&line[..], b"\x16\x03\x01"].concat();
        assert_eq!(header(&whole), found(Some("192.0.2.7:4711"), line.len()));
        let line = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n";
        assert_eq!(header(line), found(Some("[2001:db8::1]:1"), line.len()));
        let line = b"PROXY UNKNOWN any other text\r\n";
        assert_eq!(header(line), found(None, line.len()));
    }

    #[test]
    fn v2_header_names_the_source() {
        let mut body = vec![192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 1, 187];
        let bytes = v2(0x21, 0x11, &body);
        for len in 0..bytes.len() {
            assert_eq!(header(&bytes[..len]), Ok(None), "{len}");
        }
        assert_eq!(header(&bytes), found(Some("192.0.2.7:4711"), bytes.len()));
        // Extensions are ignored.
        body.extend_from_slice(&[4, 0, 1, 9]);
        let longer = v2(0x21, 0x11, &body);
        assert_eq!(header(&longer), found(Some("192.0.2.7:4711"), longer.len()));
        let mut body = [0; 36];
        body[15] = 1;
        body[33] = 80;
        let six = v2(0x21, 0x21, &body);
        assert_eq!(header(&six), found(Some("[::1]:80"), six.len()));
        assert_eq!(header(&v2(0x20, 0x11, &[1; 12])), found(None, 28));
        assert_eq!(header(&v2(0x21, 0x00, &[])), found(None, 16));
    }

    #[test]
    fn malformed_headers_are_rejected() {
        let malformed = Err(ProxyError::Malformed);
        for line in [
            "PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443 1\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 70000 443\r\n",
            "PROXY TCP4 ::1 ::1 1 1\r\n",
            "PROXY TCP6 ::1 127.0.0.1 1 1\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(header(line.as_bytes()), malformed, "{line}");
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
        assert_eq!(header(endless.as_bytes()), malformed);
        assert_eq!(header(&[0x16, 3, 1]), Err(ProxyError::NotProxy));
        assert_eq!(header(&v2(0x11, 0x11, &[0; 12])), malformed);
        assert_eq!(header(&v2(0x22, 0x11, &[0; 12])), malformed);
        assert_eq!(header(&v2(0x21, 0x11, &[0; 11])), malformed);
        let long = v2(0x21, 0x11, &[0; MAX_PROXY_HEADER]);
        assert_eq!(header(&long), Err(ProxyError::TooLong));
    }
}
