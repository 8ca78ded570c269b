//! Damaged directories: damaged files, insecure modes, links, foreign owners.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use cloud_config::{
    AccessError, CredentialSlot, CredentialsError, Damage, DocumentError, LoadError, LockError,
    PemError, Repair, Store, StoreError,
};
use tempfile::TempDir;

use crate::common;
use crate::common::Fixture;

#[test]
fn each_document_damage_has_its_own_error() {
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
fn each_certificate_or_key_damage_names_its_file() {
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
            key_of(name, include_str!("../data/encrypted.key.pem")),
            CredentialsError::Key(PemError::EncryptedKey)
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
fn damaged_pair_can_be_inspected() {
    let f = Fixture::new();
    assert!(f.store.inspect(CredentialSlot::Iot).unwrap().key_matches);
    fs::write(f.path("remote_key.pem"), f.device.iot.key_pem()).unwrap();
    let report = f.store.inspect(CredentialSlot::Remote).unwrap();
    assert!(!report.key_matches);
    assert_eq!(report.key_problem, Some(CredentialsError::Mismatch));
    assert_eq!(&report.info, f.device.remote.info());
    fs::remove_file(f.path("remote_key.pem")).unwrap();
    let report = f.store.inspect(CredentialSlot::Remote).unwrap();
    assert_eq!(
        report.key_problem,
        Some(CredentialsError::Key(PemError::Empty))
    );
    fs::remove_file(f.path("remote_cert.pem")).unwrap();
    assert!(matches!(
        f.store.inspect(CredentialSlot::Remote),
        Err(LoadError::Damaged {
            what: Damage::Missing,
            ..
        })
    ));
}

/// The platform can send new credentials for remote access; everything else is required.
#[test]
fn damaged_remote_pair_is_reported_in_its_place() {
    let f = Fixture::new();
    let sound = f.store.load_partial().unwrap().device;
    assert_eq!(sound.remote.as_ref().unwrap(), &f.device.remote);
    for (name, content) in [
        ("remote_cert.pem", None),
        ("remote_key.pem", None),
        ("remote_cert.pem", Some(&b"\xff\xfe"[..])),
        ("remote_key.pem", Some(&[b'x'; 300_000])),
        ("remote_key.pem", Some(f.device.iot.key_pem().as_bytes())),
    ] {
        let whole = fs::read(f.path(name)).unwrap();
        fs::remove_file(f.path(name)).unwrap();
        if let Some(content) = content {
            fs::write(f.path(name), content).unwrap();
        }
        let device = f.store.load_partial().unwrap().device;
        assert_eq!(device.page_url(), f.device.page_url());
        assert_eq!(device.iot, f.device.iot);
        match &device.remote {
            Err(LoadError::Damaged { file, .. }) => assert_eq!(*file, f.path(name)),
            other => panic!("{name}: {other:?}"),
        }
        assert!(f.store.load().is_err());
        // The damaged file stays unchanged for diagnosis.
        assert_eq!(fs::read(f.path(name)).ok().as_deref(), content);
        fs::write(f.path(name), whole).unwrap();
    }
    fs::remove_file(f.path("iot_key.pem")).unwrap();
    assert!(matches!(
        f.store.load_partial(),
        Err(LoadError::Damaged { file, what: Damage::Missing }) if file == f.path("iot_key.pem")
    ));
}

/// Stored credentials must be replaceable in any state.
#[test]
fn damaged_remote_pair_can_be_replaced() {
    let f = Fixture::new();
    fs::remove_file(f.path("remote_cert.pem")).unwrap();
    fs::write(f.path("remote_key.pem"), "").unwrap();
    let other = common::device("SN0001").remote;
    f.store.replace_remote(&other).unwrap();
    assert_eq!(f.store.load().unwrap().device.remote, other);
}

#[test]
fn insecure_modes_are_restricted_and_reported() {
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
fn links_and_special_files_are_rejected() {
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
fn non_directory_is_rejected_by_name() {
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
fn directory_of_another_user_is_rejected() {
    let f = Fixture::new();
    // Only root can change the owner, so other users skip this test.
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
