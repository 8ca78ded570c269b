//! Hexadecimal text, just what keys and channel ids need.

use zeroize::Zeroizing;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Lower-case hexadecimal text of `bytes`, wiped on drop.
pub(crate) fn encode(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(bytes.len() * 2));
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// Fills `out` from exactly twice as many hexadecimal digits of either case; `None` for anything else.
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
    fn round_trip_and_refusals() {
        let mut out = [0; 3];
        assert_eq!(decode("00fFa5", &mut out), Some(()));
        assert_eq!(out, [0, 255, 0xa5]);
        assert_eq!(*encode(&out), "00ffa5");
        assert_eq!(decode("00ff", &mut out), None);
        assert_eq!(decode("00ffg0", &mut out), None);
        assert_eq!(decode("äääb", &mut [0; 3]), None);
    }
}
