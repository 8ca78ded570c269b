//! The provisioning key, from a source that other users of the machine cannot read: a file,
//! standard input or the environment.

use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use cloud_facade::config::SerialNumber;
use cloud_facade::provision::ProvisioningKey;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{CliError, Result};
use crate::redact::RedactedPath;
use crate::value_parsers::BYTE_ORDER_MARK;

/// The variable that is read without `--token-file`.
pub(crate) const KEY_VARIABLE: &str = "CLESYDE_TOKEN";

/// Far longer than any key. The limit rejects a wrong file (a disk image, a device) before it is
/// read completely.
const MAX_KEY_SIZE: usize = 16 * 1024;

/// Reads the key for the device `sn`. Called before anything is sent, so its errors say that
/// nothing was.
pub(crate) fn read(file: Option<&Path>, sn: &SerialNumber) -> Result<ProvisioningKey> {
    read_unless(file, |key| key == sn.as_str())?.ok_or_else(|| {
        CliError::Failed(format!(
            "there is no provisioning key: give it with --token-file FILE (- is standard input) or in {KEY_VARIABLE}"
        ))
    })
}

/// Reads the key for several devices, if there is one.
pub(crate) fn read_if_given(file: Option<&Path>) -> Result<Option<ProvisioningKey>> {
    read_unless(file, |_| false)
}

/// Reads the key, if there is one; `is_serial_number` tells a serial number in its place.
fn read_unless(
    file: Option<&Path>,
    is_serial_number: impl Fn(&str) -> bool,
) -> Result<Option<ProvisioningKey>> {
    let (source, text) = match file {
        Some(path) if path == Path::new("-") => (
            "standard input".to_owned(),
            read_bounded(io::stdin().lock()),
        ),
        Some(path) => (
            RedactedPath(path).to_string(),
            File::open(path).and_then(read_bounded),
        ),
        None => match std::env::var_os(KEY_VARIABLE).filter(|value| !value.is_empty()) {
            Some(value) => (KEY_VARIABLE.to_owned(), from_environment(value)),
            None => return Ok(None),
        },
    };
    let failed = |cause: &(dyn Error + 'static)| {
        CliError::with_cause(
            format_args!("no provisioning key from {source}; nothing was sent"),
            cause,
        )
    };
    let text = text.map_err(|error| failed(&error))?;
    // The serial number is public: logs and topics contain it.
    if is_serial_number(text.trim()) {
        return Err(CliError::Usage(
            "the serial number given with --sn or in CLESYDE_SN is the provisioning key; nothing was sent: give the \
             device's own serial number there"
                .to_owned(),
        ));
    }
    ProvisioningKey::new(&text)
        .map(Some)
        .map_err(|error| failed(&error))
}

fn read_bounded(reader: impl Read) -> io::Result<Zeroizing<String>> {
    // Allocates the whole capacity at once: growing would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_KEY_SIZE + 1));
    reader
        .take(MAX_KEY_SIZE as u64 + 1)
        .read_to_string(&mut text)?;
    if text.starts_with(BYTE_ORDER_MARK) {
        text.drain(..BYTE_ORDER_MARK.len_utf8());
    }
    if text.len() > MAX_KEY_SIZE {
        return Err(io::Error::other(format!(
            "more than {MAX_KEY_SIZE} bytes; a provisioning key is shorter"
        )));
    }
    Ok(text)
}

fn from_environment(value: OsString) -> io::Result<Zeroizing<String>> {
    value.into_string().map(Zeroizing::new).map_err(|value| {
        value.into_encoded_bytes().zeroize();
        io::Error::other("it is not UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serial_number() -> SerialNumber {
        "SN0001".parse().unwrap()
    }

    #[test]
    fn key_is_read_and_redacted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, "  pk-1234\r\n").unwrap();
        let key = read(Some(&path), &serial_number()).unwrap();
        assert!(!format!("{key:?} {key}").contains("1234"));
        // With a byte order mark, as Windows editors save it.
        let text = read_bounded("\u{feff}pk-1234\r\n".as_bytes()).unwrap();
        assert_eq!(text.as_str(), "pk-1234\r\n");
    }

    #[test]
    fn error_of_invalid_key_names_its_source() {
        let directory = tempfile::tempdir().unwrap();
        let empty = directory.path().join("empty");
        std::fs::write(&empty, " \n").unwrap();
        let huge = directory.path().join("huge");
        std::fs::write(&huge, "x".repeat(MAX_KEY_SIZE + 1)).unwrap();
        let none = directory.path().join("none");
        for (path, why) in [
            (&empty, "empty"),
            (&huge, "more than"),
            (&none, "No such file"),
        ] {
            let message = read(Some(path), &serial_number()).unwrap_err().to_string();
            for part in [why, path.to_str().unwrap(), "nothing was sent"] {
                assert!(message.contains(part), "{part:?} is not in {message}");
            }
        }
    }
}
