//! The serial number of a certificate, in the platform's decimal form.
//!
//! Serial numbers have up to 20 octets and fit no integer type. The only operation on them is a
//! comparison for equality, so canonical decimal text suffices. (Not a device's serial number.)

use std::fmt;
use std::str::FromStr;

/// 2^160 has 49 decimal digits; X.509 allows 20 octets. The rest is for issuers that pad.
const MAX_DIGITS: usize = 64;

/// A certificate's serial number: decimal digits without leading zeros.
///
/// ```
/// use cloud_remote::CertificateSerial;
///
/// let serial: CertificateSerial = "00340282366920938463463374607431768211456".parse()?;
/// assert_eq!(serial.as_str(), "340282366920938463463374607431768211456");
/// # Ok::<(), cloud_remote::SerialError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CertificateSerial(String);

/// An error of parsing a certificate's serial number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SerialError {
    /// The text has no digits.
    #[error("the certificate serial number is empty")]
    Empty,
    /// The text has a character other than `0`–`9`.
    #[error("the certificate serial number is not decimal")]
    NotDecimal,
    /// The text has more digits than a serial number can have.
    #[error("the certificate serial number has more than {MAX_DIGITS} digits")]
    TooLong,
}

impl CertificateSerial {
    /// Returns the digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CertificateSerial {
    type Err = SerialError;

    fn from_str(text: &str) -> Result<Self, SerialError> {
        let text = text.trim_ascii();
        if text.is_empty() {
            return Err(SerialError::Empty);
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(SerialError::NotDecimal);
        }
        let digits = text.trim_start_matches('0');
        match digits.len() {
            0 => Ok(Self("0".to_owned())),
            1..=MAX_DIGITS => Ok(Self(digits.to_owned())),
            _ => Err(SerialError::TooLong),
        }
    }
}

impl From<u64> for CertificateSerial {
    fn from(serial: u64) -> Self {
        Self(serial.to_string())
    }
}

impl fmt::Display for CertificateSerial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for CertificateSerial {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignores_leading_zeros_and_whitespace() {
        let plain: CertificateSerial = "4711".parse().unwrap();
        assert_eq!(plain, " 0004711\n".parse().unwrap());
        assert_eq!("000".parse::<CertificateSerial>().unwrap(), 0.into());
        assert_eq!(plain, 4711.into());
    }

    #[test]
    fn rejects_non_decimal_serial() {
        assert_eq!("".parse::<CertificateSerial>(), Err(SerialError::Empty));
        for text in ["0x12", "-1", "1 2", "1.0", "٣"] {
            assert_eq!(
                text.parse::<CertificateSerial>(),
                Err(SerialError::NotDecimal),
                "{text}"
            );
        }
        let long = "9".repeat(MAX_DIGITS + 1);
        assert_eq!(long.parse::<CertificateSerial>(), Err(SerialError::TooLong));
    }
}
