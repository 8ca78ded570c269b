//! Hexadecimal encoding of keys and channel ids.

use zeroize::Zeroizing;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Encodes `bytes` in lower case; the text is wiped on drop.
pub(crate) fn encode(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(bytes.len() * 2));
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// Decodes exactly twice as many digits as `out` has bytes, of either case; `None` for any other
/// text.
pub(crate) fn decode(text: &str, out: &mut [u8]) -> Option<()> {
    let digits = text.as_bytes();
    if digits.len() != out.len() * 2 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_rejects_invalid() {
        let mut out = [0; 3];
        assert_eq!(decode("00fFa5", &mut out), Some(()));
        assert_eq!(out, [0, 255, 0xa5]);
        assert_eq!(*encode(&out), "00ffa5");
        assert_eq!(decode("00ff", &mut out), None);
        assert_eq!(decode("00ffg0", &mut out), None);
        assert_eq!(decode("äääb", &mut [0; 3]), None);
    }
}
