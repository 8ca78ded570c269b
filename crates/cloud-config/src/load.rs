//! Loads a configuration from its directory: file by file, then validated as a whole.
//!
//! Loading takes no lock and changes nothing. The store compares a [`fingerprint`] before and after
//! to detect a concurrent replacement.

use zeroize::Zeroizing;

use crate::credentials::{Credentials, CredentialsError, MAX_PEM, RootCertificates};
use crate::device::{DeviceConfig, PartialDeviceConfig, PemParts, name};
use crate::dir::Dir;
use crate::document::{self, Document};
use crate::error::{AccessError, ConfigError, Damage, LoadError};
use crate::file_names::{
    CLOUD_CONFIG, COMMITTED, FILES, IOT_CA, IOT_CERT, IOT_KEY, REMOTE_CERT, REMOTE_KEY,
    SERIAL_NUMBER,
};
use crate::names::{SerialNumber, ThingName};
use crate::serial_record;

/// Maximum length of `cloud_config.json` in bytes. Four names of at most 255 characters need a
/// sixteenth of it.
const MAX_DOCUMENT: usize = 16 * 1024;

/// A source of files: the effective files of a journal take precedence over those in place.
pub(crate) struct Source<'a> {
    dir: &'a Dir,
    committed: Option<&'a Dir>,
    counting: Vec<&'static str>,
}

impl<'a> Source<'a> {
    /// Creates a source with these files of the journal, which is `committed`, if any.
    pub(crate) fn new(
        dir: &'a Dir,
        committed: Option<&'a Dir>,
        counting: Vec<&'static str>,
    ) -> Self {
        Self {
            dir,
            committed,
            counting,
        }
    }

    /// Reports whether a configuration exists, valid or not.
    pub(crate) fn is_provisioned(&self) -> Result<bool, AccessError> {
        Ok(self.counting.contains(&CLOUD_CONFIG) || self.dir.stat(CLOUD_CONFIG)?.is_some())
    }

    pub(crate) fn text(
        &self,
        name: &'static str,
        limit: usize,
    ) -> Result<Zeroizing<String>, LoadError> {
        // Journal first: a file moves from there to its place, so the reverse order could miss it
        // in both.
        let committed = match self.committed {
            Some(committed) if self.counting.contains(&name) => committed.read(name, limit)?,
            _ => None,
        };
        let content = match committed {
            Some(content) => content,
            None => self
                .dir
                .read(name, limit)?
                .ok_or_else(|| self.damaged(name, Damage::Missing))?,
        };
        if content.length > limit as u64 {
            return Err(self.damaged(name, Damage::TooLarge(content.length)));
        }
        match std::str::from_utf8(&content.bytes) {
            Ok(text) => Ok(Zeroizing::new(text.to_owned())),
            Err(_) => Err(self.damaged(name, Damage::NotText)),
        }
    }

    /// Reads an optional file.
    fn optional_text(
        &self,
        name: &'static str,
        limit: usize,
    ) -> Result<Option<Zeroizing<String>>, LoadError> {
        match self.text(name, limit) {
            Err(LoadError::Damaged {
                what: Damage::Missing,
                ..
            }) => Ok(None),
            text => text.map(Some),
        }
    }

    pub(crate) fn damaged(&self, name: &str, what: impl Into<Damage>) -> LoadError {
        LoadError::Damaged {
            file: self.dir.join(name),
            what: what.into(),
        }
    }
}

pub(crate) fn read_device(source: &Source<'_>) -> Result<DeviceConfig, LoadError> {
    let rest = read_without_remote(source)?;
    Ok(rest.with_remote(read_remote(source)?))
}

/// Reads a configuration, with an error in place of damaged credentials for remote access.
pub(crate) fn read_partial(source: &Source<'_>) -> Result<PartialDeviceConfig, LoadError> {
    let rest = read_without_remote(source)?;
    Ok(rest.with_remote(read_remote(source)))
}

fn read_document(source: &Source<'_>) -> Result<Document, LoadError> {
    let text = source.text(CLOUD_CONFIG, MAX_DOCUMENT)?;
    document::parse(&text).map_err(|error| source.damaged(CLOUD_CONFIG, error))
}

/// Reads the serial number, regardless of damage to the rest.
pub(crate) fn read_serial_number(source: &Source<'_>) -> Result<SerialNumber, LoadError> {
    let invalid = |error: ConfigError| source.damaged(CLOUD_CONFIG, error);
    let document = read_document(source)?;
    let thing = name("iot_thing_name", &document.iot_thing_name).map_err(invalid)?;
    match read_record(source, &thing)? {
        Some(recorded) => Ok(recorded),
        None => name("iot_thing_name", thing.as_str()).map_err(invalid),
    }
}

fn read_record(source: &Source<'_>, thing: &ThingName) -> Result<Option<SerialNumber>, LoadError> {
    match source.optional_text(SERIAL_NUMBER, MAX_DOCUMENT)? {
        Some(text) => {
            serial_record::parse(&text, thing).map_err(|error| source.damaged(SERIAL_NUMBER, error))
        }
        None => Ok(None),
    }
}

/// Reads everything except the credentials for remote access.
fn read_without_remote(source: &Source<'_>) -> Result<DeviceConfig<()>, LoadError> {
    let Document {
        iot_thing_name,
        iot_endpoint,
        remote_endpoint,
        access_point,
    } = read_document(source)?;
    let [iot_ca, iot_cert, iot_key] = [
        source.text(IOT_CA, MAX_PEM)?,
        source.text(IOT_CERT, MAX_PEM)?,
        source.text(IOT_KEY, MAX_PEM)?,
    ];
    let parts = PemParts {
        iot_thing_name: &iot_thing_name,
        iot_endpoint: &iot_endpoint,
        remote_endpoint: &remote_endpoint,
        access_point: &access_point,
        iot_ca: &iot_ca,
        iot_cert: &iot_cert,
        iot_key: &iot_key,
        remote_cert: "",
        remote_key: "",
    };
    let device = DeviceConfig::without_remote(parts).map_err(|error| match error {
        ConfigError::Roots(error) => source.damaged(IOT_CA, error),
        ConfigError::Iot(error) | ConfigError::Remote(error) => {
            source.damaged(faulty_file(&error, IOT_CERT, IOT_KEY), error)
        }
        error @ ConfigError::Name { .. } => source.damaged(CLOUD_CONFIG, error),
    })?;
    Ok(match read_record(source, &device.iot_thing_name)? {
        Some(recorded) => device.with_serial_number(recorded),
        None => device,
    })
}

fn read_remote(source: &Source<'_>) -> Result<Credentials, LoadError> {
    let [cert, key] = [
        source.text(REMOTE_CERT, MAX_PEM)?,
        source.text(REMOTE_KEY, MAX_PEM)?,
    ];
    Credentials::from_pem(&cert, &key)
        .map_err(|error| source.damaged(faulty_file(&error, REMOTE_CERT, REMOTE_KEY), error))
}

/// Returns the file of a pair that an error refers to.
fn faulty_file(error: &CredentialsError, cert: &'static str, key: &'static str) -> &'static str {
    match error {
        CredentialsError::Certificate(_)
        | CredentialsError::NotX509
        | CredentialsError::TooLong => cert,
        CredentialsError::Key(_)
        | CredentialsError::UnusableKey(_)
        | CredentialsError::Mismatch => key,
    }
}

/// Files that are only useful together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileGroup {
    Roots,
    Iot,
    Remote,
    Names,
}

impl FileGroup {
    pub(crate) const ALL: [Self; 4] = [Self::Roots, Self::Iot, Self::Remote, Self::Names];

    pub(crate) fn files(self) -> &'static [&'static str] {
        match self {
            Self::Roots => &[IOT_CA],
            Self::Iot => &[IOT_CERT, IOT_KEY],
            Self::Remote => &[REMOTE_CERT, REMOTE_KEY],
            Self::Names => &[SERIAL_NUMBER, CLOUD_CONFIG],
        }
    }

    /// Reports whether its files parse, and certificate and key match.
    pub(crate) fn is_valid(self, source: &Source<'_>) -> bool {
        let text = |name, limit| source.text(name, limit).ok();
        let pair = |cert, key| {
            let (Some(cert), Some(key)) = (text(cert, MAX_PEM), text(key, MAX_PEM)) else {
                return false;
            };
            Credentials::from_pem(&cert, &key).is_ok()
        };
        match self {
            Self::Roots => {
                text(IOT_CA, MAX_PEM).is_some_and(|pem| RootCertificates::from_pem(&pem).is_ok())
            }
            Self::Iot => pair(IOT_CERT, IOT_KEY),
            Self::Remote => pair(REMOTE_CERT, REMOTE_KEY),
            Self::Names => read_serial_number(source).is_ok(),
        }
    }
}

/// The inode and change time of each relevant name. Differs after a file is replaced or a change
/// committed.
#[derive(Debug, PartialEq)]
pub(crate) struct Fingerprint {
    files: Vec<Option<(u64, i64, i64)>>,
    has_configuration: bool,
}

impl Fingerprint {
    pub(crate) fn of(dir: &Dir) -> Result<Self, AccessError> {
        let stamp = |name| {
            let stat = dir.stat(name)?;
            Ok(stat.map(|stat| (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec as i64)))
        };
        let committed = stamp(COMMITTED)?;
        let document = stamp(CLOUD_CONFIG)?;
        let mut files = FILES
            .into_iter()
            .map(stamp)
            .collect::<Result<Vec<_>, AccessError>>()?;
        files.push(committed);
        Ok(Self {
            files,
            has_configuration: committed.is_some() || document.is_some(),
        })
    }

    /// Returns whether a configuration may exist. If not, what was read between two equal
    /// fingerprints was stored and removed in between.
    pub(crate) fn has_configuration(&self) -> bool {
        self.has_configuration
    }
}
