//! The directory as others leave it: as the Python library writes it, and in every kind of disrepair.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test throughout"
)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use cloud_config::{
    AccessError, CredentialsError, Damage, DeviceConfig, DocumentError, LoadError, LockError, Pair,
    PemError, Repair, Store, StoreError,
};
use tempfile::TempDir;

/// A stored configuration and where it lies.
struct Fixture {
    _base: TempDir,
    store: Store,
    device: DeviceConfig,
}

impl Fixture {
    fn new() -> Self {
        let base = TempDir::new().unwrap();
        let store = Store::new(base.path());
        let device = common::device("SN0001");
        store.save(&device).unwrap();
        Self {
            _base: base,
            store,
            device,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.store.directory().join(name)
    }

    fn mode(&self, name: &str) -> u32 {
        fs::symlink_metadata(self.path(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    }

    /// Loads a directory in which `name` has this content, and expects to be told what is wrong with it.
    fn damage(&self, name: &str, content: impl AsRef<[u8]>) -> Damage {
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

    fn refusal(&self) -> AccessError {
        match self.store.load() {
            Err(LoadError::Access(error)) => error,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_stored_is_laid_out_as_the_python_library_does() {
    let f = Fixture::new();
    assert_eq!(
        fs::read_to_string(f.path("cloud_config.json")).unwrap(),
        "{\"iot_thing_name\": \"SN0001\", \"iot_endpoint\": \"abc-ats.iot.eu-west-1.amazonaws.com\", \
         \"remote_endpoint\": \"relay.example.com\", \"access_point\": \"ui.SN0001.example\"}"
    );
    for (name, text) in [
        ("iot_ca.pem", f.device.iot_roots.pem()),
        ("iot_cert.pem", f.device.iot.chain_pem()),
        ("iot_key.pem", f.device.iot.key_pem()),
        ("remote_cert.pem", f.device.remote.chain_pem()),
        ("remote_key.pem", f.device.remote.key_pem()),
    ] {
        assert_eq!(fs::read_to_string(f.path(name)).unwrap(), text, "{name}");
        assert_eq!(f.mode(name), 0o600, "{name}");
    }
    assert_eq!(f.mode(""), 0o700);
    let loaded = f.store.load().unwrap();
    assert_eq!(loaded.device, f.device);
    assert_eq!(loaded.repairs, []);
}

#[test]
fn a_directory_of_the_python_library_is_taken_over() {
    // It makes the directory with the usual mode, the files 0600, and leaves texts as the platform sent them: here with
    // CR LF, without a last newline, and with two kinds of key that ours does not make.
    let base = TempDir::new().unwrap();
    let directory = base.path().join(".clesydecloud");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    let sec1_cert = include_str!("data/sec1.cert.pem").replace('\n', "\r\n");
    let texts = [
        (
            "cloud_config.json",
            r#"{"iot_thing_name": "SN1", "iot_endpoint": "a.example", "remote_endpoint": "r.example", "access_point": "sec1.example"}"#,
        ),
        ("iot_ca.pem", include_str!("data/pkcs1.cert.pem").trim_end()),
        ("iot_cert.pem", include_str!("data/pkcs1.cert.pem")),
        ("iot_key.pem", include_str!("data/pkcs1.key.pem").trim_end()),
        ("remote_cert.pem", &sec1_cert),
        ("remote_key.pem", include_str!("data/sec1.key.pem")),
    ];
    for (name, text) in texts {
        fs::write(directory.join(name), text).unwrap();
        fs::set_permissions(directory.join(name), Permissions::from_mode(0o600)).unwrap();
    }
    let store = Store::new(base.path());
    let loaded = store.load().unwrap();
    assert_eq!(
        loaded.repairs,
        [Repair::Mode {
            path: directory.clone(),
            was: 0o755
        }]
    );
    assert_eq!(loaded.device.iot_endpoint.port_or(8883), 8883);

    let info = loaded.device.remote.info();
    assert_eq!(info.names, ["sec1.example", "*.sec1.example", "192.0.2.7"]);
    assert_eq!(info.serial, "1512366075204170929049582354406559215");
    assert_eq!(info.serial_hex, "123456789abcdef0123456789abcdef");
    assert_eq!(info.subject, "O=Example, CN=sec1.example");
    assert_eq!((info.not_after - info.not_before).whole_days(), 36500);
    assert!(info.covers(&loaded.device.access_point));
    for (name, covered) in [
        ("a.sec1.example", true),
        ("A.SEC1.EXAMPLE", true),
        ("a.b.sec1.example", false),
        ("example", false),
    ] {
        assert_eq!(info.covers(&name.parse().unwrap()), covered, "{name}");
    }

    // Stored again, not one byte is different.
    store.save(&loaded.device).unwrap();
    for (name, text) in texts {
        assert_eq!(
            fs::read_to_string(directory.join(name)).unwrap(),
            text,
            "{name}"
        );
    }
}

#[test]
fn nothing_is_touched_before_there_is_something_to_store() {
    let base = TempDir::new().unwrap();
    let missing = base.path().join("not/yet");
    let store = Store::new(&missing);
    assert!(!store.is_provisioned().unwrap());
    assert!(
        matches!(store.load(), Err(LoadError::NotProvisioned(path)) if path == store.directory())
    );
    for refused in [
        store.replace_remote(&common::device("x").remote),
        store.replace_iot(&common::device("x").iot),
    ] {
        assert!(matches!(refused, Err(StoreError::NotProvisioned(_))));
    }
    assert!(!store.remove().unwrap());
    assert!(!base.path().join("not").exists());
    store.save(&common::device("x")).unwrap();
    assert!(store.is_provisioned().unwrap());
}

#[test]
fn each_damage_of_the_document_has_its_name() {
    let f = Fixture::new();
    let sound = fs::read_to_string(f.path("cloud_config.json")).unwrap();
    let damage = |content: &str| match f.damage("cloud_config.json", content) {
        Damage::Document(error) => error,
        other => panic!("{other}"),
    };
    assert_eq!(damage(&sound[..sound.len() / 2]), DocumentError::Truncated);
    assert_eq!(damage(""), DocumentError::Empty);
    assert_eq!(
        damage("not json"),
        DocumentError::NotJson { line: 1, column: 2 }
    );
    assert_eq!(
        damage(&sound.replace("\"access_point\"", "\"x\"")),
        DocumentError::MissingKey("access_point")
    );
    let surplus = damage(&sound.replace('}', ", \"colour\": \"blue\"}"));
    assert_eq!(surplus, DocumentError::SurplusKey("colour".to_owned()));
    assert!(surplus.to_string().contains("colour"), "{surplus}");
    let value = f.damage(
        "cloud_config.json",
        sound.replace("relay.example.com", "https://relay.example.com/"),
    );
    assert!(value.to_string().contains("`remote_endpoint`"), "{value}");
    assert!(matches!(
        f.damage("cloud_config.json", vec![b' '; 20_000]),
        Damage::TooLarge(20_000)
    ));
    assert!(matches!(
        f.damage("cloud_config.json", [0xff, 0xfe]),
        Damage::NotText
    ));
    assert_eq!(f.store.load().unwrap().device, f.device);
}

#[test]
fn each_damage_of_a_certificate_or_key_names_the_file_at_fault() {
    let f = Fixture::new();
    let other = common::device("other");
    let key_of = |name: &str, content: &str| match f.damage(name, content) {
        Damage::Credentials(error) => error,
        other => panic!("{other}"),
    };
    for name in ["iot_key.pem", "remote_key.pem"] {
        assert_eq!(key_of(name, ""), CredentialsError::Key(PemError::Empty));
        assert_eq!(
            key_of(name, "hello"),
            CredentialsError::Key(PemError::NoKey)
        );
        assert_eq!(
            key_of(name, include_str!("data/encrypted.key.pem")),
            CredentialsError::Key(PemError::NoKey)
        );
        let cut = &f.device.iot.key_pem()[..100];
        assert_eq!(key_of(name, cut), CredentialsError::Key(PemError::Syntax));
        assert_eq!(
            key_of(name, other.iot.key_pem()),
            CredentialsError::Mismatch
        );
    }
    for name in ["iot_ca.pem", "iot_cert.pem", "remote_cert.pem"] {
        assert_eq!(
            key_of(name, ""),
            CredentialsError::Certificate(PemError::Empty)
        );
        assert_eq!(
            key_of(name, f.device.iot.key_pem()),
            CredentialsError::Certificate(PemError::NoCertificate)
        );
        let cut = &f.device.iot.chain_pem()[..200];
        assert_eq!(
            key_of(name, cut),
            CredentialsError::Certificate(PemError::Syntax)
        );
        let hollow = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(key_of(name, hollow), CredentialsError::NotX509);
    }
    for name in [
        "iot_ca.pem",
        "iot_cert.pem",
        "iot_key.pem",
        "remote_cert.pem",
        "remote_key.pem",
    ] {
        let sound = fs::read(f.path(name)).unwrap();
        fs::remove_file(f.path(name)).unwrap();
        let error = f.store.load().unwrap_err();
        assert!(
            matches!(&error, LoadError::Damaged { file, what: Damage::Missing } if *file == f.path(name)),
            "{error}"
        );
        assert!(error.to_string().contains(name) && !error.is_retryable());
        fs::write(f.path(name), sound).unwrap();
        fs::set_permissions(f.path(name), Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn a_damaged_pair_can_still_be_looked_at() {
    let f = Fixture::new();
    assert!(f.store.inspect(Pair::Iot).unwrap().key_matches);
    fs::write(f.path("remote_key.pem"), f.device.iot.key_pem()).unwrap();
    let report = f.store.inspect(Pair::Remote).unwrap();
    assert!(!report.key_matches);
    assert_eq!(report.key_problem, Some(CredentialsError::Mismatch));
    assert_eq!(&report.info, f.device.remote.info());
    fs::remove_file(f.path("remote_key.pem")).unwrap();
    let report = f.store.inspect(Pair::Remote).unwrap();
    assert_eq!(
        report.key_problem,
        Some(CredentialsError::Key(PemError::Empty))
    );
    fs::remove_file(f.path("remote_cert.pem")).unwrap();
    assert!(matches!(
        f.store.inspect(Pair::Remote),
        Err(LoadError::Damaged {
            what: Damage::Missing,
            ..
        })
    ));
}

#[test]
fn what_others_could_read_is_restricted_and_told() {
    let f = Fixture::new();
    fs::set_permissions(f.path("iot_key.pem"), Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(f.path("remote_key.pem"), Permissions::from_mode(0o640)).unwrap();
    let repairs = f.store.load().unwrap().repairs;
    assert_eq!(
        repairs,
        [
            Repair::Mode {
                path: f.path("iot_key.pem"),
                was: 0o644
            },
            Repair::Mode {
                path: f.path("remote_key.pem"),
                was: 0o640
            },
        ]
    );
    assert!(repairs[0].to_string().contains("iot_key.pem"));
    assert_eq!(f.mode("iot_key.pem"), 0o600);
    assert_eq!(f.store.load().unwrap().repairs, []);
}

#[test]
fn links_and_other_things_in_the_place_of_files_are_refused() {
    let f = Fixture::new();
    let key = f.path("iot_key.pem");
    let elsewhere = f.path("elsewhere");
    fs::rename(&key, &elsewhere).unwrap();
    symlink(&elsewhere, &key).unwrap();
    assert!(matches!(f.refusal(), AccessError::Symlink(path) if path == key));
    assert!(matches!(
        f.store.save(&f.device),
        Err(StoreError::Access(AccessError::Symlink(_)))
    ));
    fs::remove_file(&key).unwrap();
    fs::create_dir(&key).unwrap();
    assert!(matches!(f.refusal(), AccessError::NotAFile(path) if path == key));
    assert!(matches!(
        f.store.save(&f.device),
        Err(StoreError::Access(AccessError::NotAFile(_)))
    ));
    fs::remove_dir(&key).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &key,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    assert!(matches!(f.refusal(), AccessError::NotAFile(path) if path == key));
}

#[test]
fn a_directory_that_is_none_is_refused_by_name() {
    let base = TempDir::new().unwrap();
    let file = base.path().join("file");
    fs::write(&file, "").unwrap();
    let store = Store::new(&file);
    let is_file =
        |error: &AccessError| matches!(error, AccessError::NotADirectory(path) if *path == file);
    assert!(matches!(store.load(), Err(LoadError::Access(error)) if is_file(&error)));
    assert!(matches!(store.lock(), Err(LockError::Access(error)) if is_file(&error)));
    assert!(store.is_provisioned().is_err());

    let real = base.path().join("real");
    fs::create_dir(&real).unwrap();
    symlink(&real, base.path().join(".clesydecloud")).unwrap();
    let store = Store::new(base.path());
    assert!(matches!(
        store.load(),
        Err(LoadError::Access(AccessError::Symlink(_)))
    ));
    assert!(matches!(
        store.remove(),
        Err(StoreError::Access(AccessError::Symlink(_)))
    ));
    assert!(real.exists());
}

#[test]
fn a_directory_of_another_user_is_refused() {
    let f = Fixture::new();
    // Only root may give a directory away; anyone else cannot come to see this in a test.
    if std::os::unix::fs::chown(f.store.directory(), Some(54321), None).is_err() {
        return;
    }
    let error = f.refusal();
    assert!(
        matches!(error, AccessError::ForeignOwner { owner: 54321, .. }),
        "{error}"
    );
    assert!(matches!(
        f.store.save(&f.device),
        Err(StoreError::Lock(LockError::Access(
            AccessError::ForeignOwner { .. }
        )))
    ));
}

/// A process that is being started has copies of all open files for a moment.
#[test]
fn a_lock_is_free_at_once_although_processes_are_being_started() {
    let base = common::fast_directory();
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| {
            for _ in 0..100 {
                std::process::Command::new("true").status().unwrap();
            }
        });
        while !starting.is_finished() {
            drop(Store::new(base.path()).lock().unwrap());
        }
    });
}

#[test]
fn removal_takes_what_is_ours_and_leaves_what_is_not() {
    let f = Fixture::new();
    fs::write(f.path("notes.txt"), "mine").unwrap();
    assert!(f.store.remove().unwrap());
    let left: Vec<_> = fs::read_dir(f.store.directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["notes.txt"]);
    assert!(!f.store.is_provisioned().unwrap());
    fs::remove_file(f.path("notes.txt")).unwrap();

    f.store.save(&f.device).unwrap();
    fs::write(f.path("cloud_config.json"), "broken").unwrap();
    assert!(f.store.remove().unwrap());
    assert!(!f.store.directory().exists());
}

#[test]
fn no_message_and_no_debug_text_shows_a_key() {
    let f = Fixture::new();
    let secret = f.device.iot.key_pem().lines().nth(1).unwrap().to_owned();
    let mut texts = vec![
        format!("{:?}", f.device),
        format!("{:#?}", f.store),
        format!("{:?}", f.store.load()),
    ];
    fs::write(f.path("cloud_config.json"), f.device.iot.key_pem()).unwrap();
    texts.push(format!("{:?} {0}", f.store.load().unwrap_err()));
    fs::write(f.path("iot_cert.pem"), f.device.iot.key_pem()).unwrap();
    texts.push(format!("{:?} {0}", f.store.load().unwrap_err()));
    for text in texts {
        assert!(
            !text.contains(&secret) && !text.contains("BEGIN PRIVATE"),
            "{text}"
        );
    }
    assert_eq!(
        format!("{:?}", f.device.iot_roots),
        "RootCertificates { count: 1 }"
    );
}
