//! Generated configurations.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use cloud_config::{AccessError, Damage, DeviceConfig, LoadError, PemParts, Store};
use tempfile::TempDir;

/// Creates a directory in memory if possible: the tests sync thousands of files, and a slow disk
/// would only add time.
pub(crate) fn fast_directory() -> TempDir {
    TempDir::new_in("/dev/shm")
        .or_else(|_| TempDir::new())
        .unwrap()
}

/// Generates a certificate for one name and its key, PEM.
pub(crate) fn pair(name: &str) -> (String, String) {
    let pair = testkit::pki::Pair::self_signed(name);
    (pair.certificate, pair.key)
}

pub(crate) fn device(name: &str) -> DeviceConfig {
    let (iot_cert, iot_key) = pair(&format!("iot.{name}.example"));
    let (remote_cert, remote_key) = pair(&format!("ui.{name}.example"));
    device_of(name, [&iot_cert, &iot_key, &remote_cert, &remote_key])
}

/// Creates a device from texts: certificate and key for the broker, certificate and key for remote
/// access.
pub(crate) fn device_of(
    name: &str,
    [iot_cert, iot_key, remote_cert, remote_key]: [&str; 4],
) -> DeviceConfig {
    DeviceConfig::from_pem_parts(PemParts {
        iot_thing_name: name,
        iot_endpoint: "abc-ats.iot.eu-west-1.amazonaws.com",
        remote_endpoint: "relay.example.com",
        access_point: &format!("ui.{name}.example"),
        iot_ca: iot_cert,
        iot_cert,
        iot_key,
        remote_cert,
        remote_key,
    })
    .unwrap()
}

/// A stored configuration and its directory.
pub(crate) struct Fixture {
    _base: TempDir,
    pub(crate) store: Store,
    pub(crate) device: DeviceConfig,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let base = TempDir::new().unwrap();
        let store = Store::new(base.path());
        let device = device("SN0001");
        store.save(&device).unwrap();
        Self {
            _base: base,
            store,
            device,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.store.directory().join(name)
    }

    pub(crate) fn mode(&self, name: &str) -> u32 {
        fs::symlink_metadata(self.path(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    }

    /// Loads with this content in `name`, and returns the expected damage.
    pub(crate) fn damage(&self, name: &str, content: impl AsRef<[u8]>) -> Damage {
        let sound = fs::read(self.path(name)).unwrap();
        fs::write(self.path(name), content).unwrap();
        let result = self.store.load();
        fs::write(self.path(name), sound).unwrap();
        match result {
            Err(LoadError::Damaged { file, what }) => {
                assert_eq!(file, self.path(name), "{what}");
                what
            }
            other => panic!("{name}: {other:?}"),
        }
    }

    pub(crate) fn refusal(&self) -> AccessError {
        match self.store.load() {
            Err(LoadError::Access(error)) => error,
            other => panic!("{other:?}"),
        }
    }
}
