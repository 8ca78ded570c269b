//! A valid directory: its layout, compatibility with the Python library, locking, and removal.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use cloud_config::{LoadError, Repair, SerialNumber, Store, StoreError};
use tempfile::TempDir;

use crate::common;
use crate::common::Fixture;

#[test]
fn files_match_the_python_library_layout() {
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
fn python_library_directory_is_loaded() {
    // The library creates the directory with the default mode, files with 0600, and stores texts
    // unchanged: here with CR LF, without a final newline, and with two key formats that this crate
    // does not generate.
    let base = TempDir::new().unwrap();
    let directory = base.path().join(".clesydecloud");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    let sec1_cert = include_str!("../data/sec1.cert.pem").replace('\n', "\r\n");
    let texts = [
        (
            "cloud_config.json",
            r#"{"iot_thing_name": "SN1", "iot_endpoint": "a.example", "remote_endpoint": "r.example", "access_point": "sec1.example"}"#,
        ),
        (
            "iot_ca.pem",
            include_str!("../data/pkcs1.cert.pem").trim_end(),
        ),
        ("iot_cert.pem", include_str!("../data/pkcs1.cert.pem")),
        (
            "iot_key.pem",
            include_str!("../data/pkcs1.key.pem").trim_end(),
        ),
        ("remote_cert.pem", &sec1_cert),
        ("remote_key.pem", include_str!("../data/sec1.key.pem")),
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
    let validity = info.not_after.duration_since(info.not_before).unwrap();
    assert_eq!(validity.as_secs(), 36_500 * 86_400);
    assert!(info.covers(&loaded.device.access_point));
    for (name, covered) in [
        ("a.sec1.example", true),
        ("A.SEC1.EXAMPLE", true),
        ("a.b.sec1.example", false),
        ("example", false),
    ] {
        assert_eq!(info.covers(&name.parse().unwrap()), covered, "{name}");
    }

    // Saving again changes no byte.
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
fn nothing_is_created_before_the_first_save() {
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

/// A starting process briefly has copies of all open files.
#[test]
fn lock_is_released_at_once_during_process_starts() {
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
fn removal_keeps_foreign_files() {
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
fn errors_and_debug_output_contain_no_key() {
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

#[test]
fn serial_number_is_the_thing_name_unless_stored() {
    let fixture = Fixture::new();
    let sn = |text: &str| text.parse::<SerialNumber>().unwrap();
    assert_eq!(fixture.store.serial_number().unwrap(), sn("SN0001"));
    assert!(!fixture.path("serial_number.json").exists());

    let renamed = fixture.device.clone().with_serial_number(sn("SN0002"));
    fixture.store.save(&renamed).unwrap();
    assert_eq!(fixture.store.load().unwrap().device, renamed);
    assert_eq!(fixture.store.serial_number().unwrap(), sn("SN0002"));
    assert_eq!(fixture.mode("serial_number.json"), 0o600);

    // The Python library ignores the file when it registers another thing.
    let config = fs::read_to_string(fixture.path("cloud_config.json")).unwrap();
    fs::write(
        fixture.path("cloud_config.json"),
        config.replace("\"SN0001\"", "\"SN0003\""),
    )
    .unwrap();
    assert_eq!(fixture.store.serial_number().unwrap(), sn("SN0003"));

    fs::write(fixture.path("cloud_config.json"), config).unwrap();
    fs::write(fixture.path("serial_number.json"), "{").unwrap();
    let error = fixture.store.load().unwrap_err().to_string();
    assert!(error.contains("serial_number.json"), "{error}");

    assert!(fixture.store.remove().unwrap());
    assert!(!fixture.store.directory().exists());
}

#[test]
fn serial_number_of_another_device_is_an_error() {
    let fixture = Fixture::new();
    let other: SerialNumber = "SN0002".parse().unwrap();
    fixture
        .store
        .ensure_serial_number(&"SN0001".parse().unwrap())
        .unwrap();
    // Even if the directory is damaged otherwise.
    fs::write(fixture.path("iot_cert.pem"), "").unwrap();
    let error = fixture.store.ensure_serial_number(&other).unwrap_err();
    assert_eq!(error.stored.as_str(), "SN0001");
    let text = error.to_string();
    let directory = fixture.store.directory().to_str().unwrap();
    for part in ["SN0001", "SN0002", directory] {
        assert!(text.contains(part), "{text}");
    }
    // `load` reports a configuration without a readable serial number.
    fs::write(fixture.path("cloud_config.json"), "{").unwrap();
    fixture.store.ensure_serial_number(&other).unwrap();
    fixture.store.remove().unwrap();
    fixture.store.ensure_serial_number(&other).unwrap();
}
