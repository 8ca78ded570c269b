//! Validation of serial numbers, which become part of a request and later of MQTT topics.

/// Maximum length: the limit of AWS IoT for thing names and MQTT client IDs.
const MAX_LENGTH: usize = 128;

/// Reason that a serial number is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SerialNumberError {
    /// The serial number is empty.
    #[error("is empty")]
    Empty,
    /// More than 128 characters.
    #[error("is longer than 128 characters")]
    TooLong,
    /// A character that is not allowed.
    #[error("contains {0:?}; allowed are ASCII letters and digits and _ - . :")]
    Character(char),
}

pub(crate) fn check(serial: &str) -> Result<(), SerialNumberError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
    match serial.chars().find(|c| !allowed(*c)) {
        _ if serial.is_empty() => Err(SerialNumberError::Empty),
        Some(other) => Err(SerialNumberError::Character(other)),
        None if serial.len() > MAX_LENGTH => Err(SerialNumberError::TooLong),
        None => Ok(()),
    }
}
