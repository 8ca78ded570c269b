//! Serial numbers: what may go into a request and, later, into topics.

use crate::error::SerialProblem;

/// Longest serial number: what AWS allows for a thing's name and an MQTT client id.
const MAX_LENGTH: usize = 128;

pub(crate) fn check(serial: &str) -> Result<(), SerialProblem> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.:".contains(c);
    match serial.chars().find(|c| !allowed(*c)) {
        _ if serial.is_empty() => Err(SerialProblem::Empty),
        Some(other) => Err(SerialProblem::Character(other)),
        None if serial.len() > MAX_LENGTH => Err(SerialProblem::TooLong),
        None => Ok(()),
    }
}
