//! The provisioning key, from where other users of the machine cannot read it: a file, standard input or the environment.

use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use cloud_facade::config::SerialNumber;
use cloud_facade::provision::ProvisioningKey;
use zeroize::{Zeroize, Zeroizing};

use crate::failure::{Failure, Outcome};
use crate::possible_secret::ShownPath;
use crate::values::BYTE_ORDER_MARK;

/// The variable that is looked at without `--token-file`.
pub(crate) const VARIABLE: &str = "CLESYDE_TOKEN";

/// Far more than any key has; a wrong file (a disk image, a device) is noticed before it is read whole.
const MAX_KEY: usize = 16 * 1024;

/// Reads the key for the device `sn`. Called before anything is sent, so every failure here means that nothing was.
pub(crate) fn read(file: Option<&Path>, sn: &SerialNumber) -> Outcome<ProvisioningKey> {
    let (source, text) = match file {
        Some(path) if path == Path::new("-") => {
            ("standard input".to_owned(), bounded(io::stdin().lock()))
        }
        Some(path) => (
            ShownPath(path).to_string(),
            File::open(path).and_then(bounded),
        ),
        None => match std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
            Some(value) => (VARIABLE.to_owned(), from_environment(value)),
            None => {
                return Err(Failure::Failed(format!(
                    "there is no provisioning key: give it with --token-file FILE (- is standard input) or in {VARIABLE}"
                )));
            }
        },
    };
    let failed = |cause: &(dyn Error + 'static)| {
        Failure::because(
            format_args!("no provisioning key from {source}; nothing was sent"),
            cause,
        )
    };
    let text = text.map_err(|error| failed(&error))?;
    // The serial number is public: the platform gets it in the open, logs and topics have it.
    if text.trim() == sn.as_str() {
        return Err(Failure::Usage(
            "the serial number given with --sn or in CLESYDE_SN is the provisioning key, and nothing was sent: give the \
             device's own serial number there"
                .to_owned(),
        ));
    }
    ProvisioningKey::new(&text).map_err(|error| failed(&error))
}

fn bounded(reader: impl Read) -> io::Result<Zeroizing<String>> {
    // All of the memory at once: growing would leave copies behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_KEY + 1));
    reader.take(MAX_KEY as u64 + 1).read_to_string(&mut text)?;
    if text.starts_with(BYTE_ORDER_MARK) {
        text.drain(..BYTE_ORDER_MARK.len_utf8());
    }
    if text.len() > MAX_KEY {
        return Err(io::Error::other(format!(
            "more than {MAX_KEY} bytes are no provisioning key"
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
    fn a_key_is_read_and_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, "  pk-1234\r\n").unwrap();
        let key = read(Some(&path), &serial_number()).unwrap();
        assert!(!format!("{key:?} {key}").contains("1234"));
        // As a Windows editor saves it.
        let text = bounded("\u{feff}pk-1234\r\n".as_bytes()).unwrap();
        assert_eq!(text.as_str(), "pk-1234\r\n");
    }

    #[test]
    fn an_empty_missing_or_endless_key_is_told_with_its_source() {
        let directory = tempfile::tempdir().unwrap();
        let empty = directory.path().join("empty");
        std::fs::write(&empty, " \n").unwrap();
        let huge = directory.path().join("huge");
        std::fs::write(&huge, "x".repeat(MAX_KEY + 1)).unwrap();
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
