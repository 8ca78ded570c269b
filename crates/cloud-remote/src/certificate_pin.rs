//! A pinned certificate: a server is verified by the fingerprint of its certificate, for an
//! application whose certificate no authority has issued.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};

/// The length of a fingerprint.
const LENGTH: usize = 32;

/// The SHA-256 fingerprint of a certificate, for
/// [`UpstreamTls::pinned`](crate::UpstreamTls::pinned): 64 hexadecimal digits, with or without
/// colons, as `openssl x509 -fingerprint -sha256` prints them.
///
/// ```
/// use cloud_remote::CertificatePin;
///
/// let text = "00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff";
/// let pin: CertificatePin = text.parse()?;
/// assert!(pin.to_string().starts_with("00112233"));
/// # Ok::<(), cloud_remote::CertificatePinError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertificatePin([u8; LENGTH]);

/// An error of parsing a [`CertificatePin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not the SHA-256 fingerprint of a certificate: 64 hexadecimal digits, as `openssl x509 -fingerprint -sha256` \
     prints them"
)]
#[non_exhaustive]
pub struct CertificatePinError;

impl CertificatePin {
    /// Returns the pin of a certificate.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl FromStr for CertificatePin {
    type Err = CertificatePinError;

    fn from_str(text: &str) -> Result<Self, CertificatePinError> {
        let digits: Vec<_> = text.bytes().filter(|byte| *byte != b':').collect();
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let mut pin = [0; LENGTH];
        if digits.len() != 2 * LENGTH {
            return Err(CertificatePinError);
        }
        for (byte, pair) in pin.iter_mut().zip(digits.chunks(2)) {
            let value = pair
                .iter()
                .try_fold(0, |value, byte| Some(value * 16 + digit(*byte)?));
            let value = value.and_then(|value| u8::try_from(value).ok());
            *byte = value.ok_or(CertificatePinError)?;
        }
        Ok(Self(pin))
    }
}

impl fmt::Display for CertificatePin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_is_64_hexadecimal_digits() {
        let pin = CertificatePin::of(&CertificateDer::from(b"certificate".to_vec()));
        let text = pin.to_string();
        assert_eq!(text.parse(), Ok(pin));
        let pairs: Vec<_> = text
            .as_bytes()
            .chunks(2)
            .map(String::from_utf8_lossy)
            .collect();
        assert_eq!(pairs.join(":").to_uppercase().parse(), Ok(pin));
        for bad in [
            "",
            "sha256",
            &text[1..],
            &format!("{text}00"),
            &text.replace(&text[..1], "g"),
        ] {
            assert_eq!(
                bad.parse::<CertificatePin>(),
                Err(CertificatePinError),
                "{bad}"
            );
        }
    }
}
