//! Reads the host name of a TLS ClientHello without terminating TLS.
//!
//! The parser reads just enough of the first handshake message, which may span several records and
//! arrive in any pieces, and modifies nothing: the bytes are forwarded as they arrived. It does not
//! validate the rest of the message; the TLS server does (RFC 8446 §4.1.2, RFC 6066 §3).

/// Maximum bytes of a ClientHello, including record headers. Post-quantum key shares and a session
/// ticket take two or three kilobytes; one record's 16 KiB leaves room.
pub const MAX_CLIENT_HELLO: usize = 16 * 1024;

/// The reason why bytes are not a ClientHello with a host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SniError {
    /// Not TLS, or not a ClientHello.
    #[error("the connection does not begin with a TLS ClientHello")]
    NotClientHello,
    /// A length in the message contradicts another length.
    #[error("the ClientHello is malformed")]
    Malformed,
    /// It contains no host name.
    #[error("the ClientHello contains no host name; the caller must use SNI")]
    NoServerName,
    /// Longer than [`MAX_CLIENT_HELLO`].
    #[error("the ClientHello is longer than {MAX_CLIENT_HELLO} bytes")]
    TooLong,
}

const RECORD_HANDSHAKE: u8 = 0x16;
const MESSAGE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_TYPE_HOST: u8 = 0;

/// Parses the ClientHello at the start of `bytes` and returns its host name in lower case; `None`
/// when more bytes are needed.
///
/// # Errors
/// [`SniError`].
pub fn server_name(bytes: &[u8]) -> Result<Option<String>, SniError> {
    let found = match first_message(bytes)? {
        Some(message) => Some(name_in_hello(&message)?),
        None => None,
    };
    if found.is_none() && bytes.len() >= MAX_CLIENT_HELLO {
        return Err(SniError::TooLong);
    }
    Ok(found)
}

/// Assembles the first handshake message from its records; `None` while it is incomplete.
fn first_message(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, SniError> {
    let mut message = Vec::new();
    loop {
        match bytes {
            [] => return Ok(None),
            [RECORD_HANDSHAKE] => return Ok(None),
            [RECORD_HANDSHAKE, 3, ..] => {}
            _ => return Err(SniError::NotClientHello),
        }
        let Some((header, rest)) = bytes.split_first_chunk::<5>() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if len == 0 {
            return Err(SniError::Malformed);
        }
        let (fragment, rest) = rest.split_at(len.min(rest.len()));
        message.extend_from_slice(fragment);
        if message
            .first()
            .is_some_and(|kind| *kind != MESSAGE_CLIENT_HELLO)
        {
            return Err(SniError::NotClientHello);
        }
        if let Some([_, a, b, c]) = message.first_chunk::<4>() {
            let wanted = 4 + (usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c));
            if wanted > MAX_CLIENT_HELLO {
                return Err(SniError::TooLong);
            }
            if message.len() >= wanted {
                message.truncate(wanted);
                return Ok(Some(message));
            }
        }
        if fragment.len() < len {
            return Ok(None);
        }
        bytes = rest;
    }
}

/// Finds the host name in a complete ClientHello.
fn name_in_hello(message: &[u8]) -> Result<String, SniError> {
    let mut hello = Fields(&message[4..]);
    hello.take(2 + 32)?; // legacy version, random
    hello.short_block()?; // session id
    hello.long_block()?; // cipher suites
    hello.short_block()?; // compression methods
    if hello.0.is_empty() {
        return Err(SniError::NoServerName);
    }
    let mut extensions = Fields(hello.long_block()?);
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let body = extensions.long_block()?;
        if kind != EXTENSION_SERVER_NAME {
            continue;
        }
        let mut names = Fields(Fields(body).long_block()?);
        while !names.0.is_empty() {
            let name_type = names.take(1)?[0];
            let name = names.long_block()?;
            if name_type == NAME_TYPE_HOST {
                return host_name(name);
            }
        }
    }
    Err(SniError::NoServerName)
}

fn host_name(name: &[u8]) -> Result<String, SniError> {
    let fits = (1..=255).contains(&name.len());
    // No characters that are unsafe in a log or as a key; the registry decides whether the name
    // exists.
    if !fits || !name.iter().all(u8::is_ascii_graphic) {
        return Err(SniError::Malformed);
    }
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    Ok(name.strip_suffix('.').map(str::to_owned).unwrap_or(name))
}

/// A reader of bytes that never passes the end.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], SniError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(SniError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u16, SniError> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Reads a block with a one-byte length prefix.
    fn short_block(&mut self) -> Result<&'a [u8], SniError> {
        let len = self.take(1)?[0];
        self.take(len.into())
    }

    /// Reads a block with a two-byte length prefix.
    fn long_block(&mut self) -> Result<&'a [u8], SniError> {
        let len = self.number()?;
        self.take(len.into())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A ClientHello, cut into records of `record` bytes.
    pub(crate) fn client_hello(name: Option<&str>, record: usize) -> Vec<u8> {
        let mut extensions = vec![0, 23, 0, 0]; // extended master secret, to be passed over
        if let Some(name) = name {
            let len = name.len() as u16;
            for (kind, extra) in [(0_u16, 5_u16), (len + 3, 0), (len, 0)] {
                if kind == 0 && extra == 5 {
                    extensions.extend_from_slice(&0_u16.to_be_bytes());
                    extensions.extend_from_slice(&(len + 5).to_be_bytes());
                } else if kind == len + 3 {
                    extensions.extend_from_slice(&kind.to_be_bytes());
                    extensions.push(0);
                } else {
                    extensions.extend_from_slice(&kind.to_be_bytes());
                }
            }
            extensions.extend_from_slice(name.as_bytes());
        }
        let mut body = vec![3, 3];
        body.extend_from_slice(&[7; 32]);
        body.push(0);
        body.extend_from_slice(&[0, 2, 0x13, 0x01]);
        body.extend_from_slice(&[1, 0]);
        body.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
        body.extend_from_slice(&extensions);
        let mut message = vec![1, 0];
        message.extend_from_slice(&(body.len() as u16).to_be_bytes());
        message.extend_from_slice(&body);
        let mut wire = Vec::new();
        for fragment in message.chunks(record) {
            wire.extend_from_slice(&[0x16, 3, 1]);
            wire.extend_from_slice(&(fragment.len() as u16).to_be_bytes());
            wire.extend_from_slice(fragment);
        }
        wire
    }

    #[test]
    fn finds_name_across_pieces_and_records() {
        for record in [1, 3, 50, 10_000] {
            let wire = client_hello(Some("Device.Example.COM."), record);
            for len in 0..wire.len() {
                assert_eq!(server_name(&wire[..len]), Ok(None), "{record} {len}");
            }
            assert_eq!(server_name(&wire), Ok(Some("device.example.com".into())));
        }
    }

    #[test]
    fn rejects_invalid_client_hello() {
        let nameless = client_hello(None, 1000);
        assert_eq!(server_name(&nameless), Err(SniError::NoServerName));
        assert_eq!(
            server_name(b"GET / HTTP/1.1"),
            Err(SniError::NotClientHello)
        );
        assert_eq!(
            server_name(&[0x16, 3, 1, 0, 1, 2]),
            Err(SniError::NotClientHello)
        );
        assert_eq!(server_name(&[0x16, 3, 1, 0, 0]), Err(SniError::Malformed));
        let odd = client_hello(Some("a b"), 1000);
        assert_eq!(server_name(&odd), Err(SniError::Malformed));
        assert_eq!(
            server_name(&[0x16, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff]),
            Err(SniError::TooLong)
        );
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>, at in 0_usize..80, value: u8) {
            let _ = server_name(&bytes);
            let mut wire = client_hello(Some("device.example.com"), 20);
            wire[at] = value;
            let _ = server_name(&wire);
        }
    }
}
