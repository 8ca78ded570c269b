//! The store under faults: a full disk and a power cut at each step of each change.

mod foreign;
mod sharing;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::LazyLock;

use tempfile::TempDir;
use testkit::pki::Pair;

use super::*;
use crate::device::PemParts;
use crate::fault_injection::{Outcome, Plan, under};
use crate::file_names::{REMOVED, STAGING};

/// Two configurations without common values.
static OLD: LazyLock<DeviceConfig> = LazyLock::new(|| device("old"));
static NEW: LazyLock<DeviceConfig> = LazyLock::new(|| device("new"));

/// [`NEW`] on a platform whose thing names differ from serial numbers.
static OTHER_NAME: LazyLock<DeviceConfig> =
    LazyLock::new(|| NEW.clone().with_serial_number("SN-1".parse().unwrap()));

fn device(name: &str) -> DeviceConfig {
    let iot = Pair::self_signed(&format!("iot.{name}.example"));
    let remote = Pair::self_signed(&format!("remote.{name}.example"));
    DeviceConfig::from_pem_parts(PemParts {
        iot_thing_name: name,
        iot_endpoint: &format!("iot.{name}.example"),
        remote_endpoint: &format!("relay.{name}.example:8443"),
        access_point: &format!("remote.{name}.example"),
        iot_ca: &iot.certificate,
        iot_cert: &iot.certificate,
        iot_key: &iot.key,
        remote_cert: &remote.certificate,
        remote_key: &remote.key,
    })
    .unwrap()
}

/// Creates a directory in memory if possible: these tests sync thousands of files.
fn fast_directory() -> TempDir {
    TempDir::new_in("/dev/shm")
        .or_else(|_| TempDir::new())
        .unwrap()
}

/// A change and the configurations before and after it.
struct Change {
    name: &'static str,
    before: Option<DeviceConfig>,
    after: Option<DeviceConfig>,
    run: fn(&Store) -> Result<(), StoreError>,
}

fn changes() -> Vec<Change> {
    let rotated = DeviceConfig {
        remote: NEW.remote.clone(),
        ..OLD.clone()
    };
    let rotated_iot = DeviceConfig {
        iot: NEW.iot.clone(),
        ..OLD.clone()
    };
    let old = || Some(OLD.clone());
    let save = |store: &Store| store.save(&NEW);
    vec![
        Change {
            name: "first",
            before: None,
            after: Some(NEW.clone()),
            run: save,
        },
        Change {
            name: "force",
            before: old(),
            after: Some(NEW.clone()),
            run: save,
        },
        Change {
            name: "rehearse",
            before: old(),
            after: old(),
            run: Store::preflight_save,
        },
        Change {
            name: "rotate",
            before: old(),
            after: Some(rotated),
            run: |store| store.replace_remote(&NEW.remote),
        },
        Change {
            name: "rotate the broker's",
            before: old(),
            after: Some(rotated_iot),
            run: |store| store.replace_iot(&NEW.iot),
        },
        Change {
            name: "remove",
            before: old(),
            after: None,
            run: |store| store.remove().map(drop),
        },
        Change {
            name: "a serial number of its own",
            before: old(),
            after: Some(OTHER_NAME.clone()),
            run: |store| store.save(&OTHER_NAME),
        },
        Change {
            name: "the thing name as serial number again",
            before: Some(OTHER_NAME.clone()),
            after: Some(NEW.clone()),
            run: save,
        },
    ]
}

impl Change {
    fn begin(&self) -> TempDir {
        let base = fast_directory();
        if let Some(before) = &self.before {
            Store::new(base.path()).save(before).unwrap();
        }
        base
    }
}

/// Runs the work of a separate process.
fn process<T>(base: &TempDir, plan: Plan, work: impl FnOnce(&Store) -> T) -> (T, Outcome) {
    under(plan, || work(&Store::new(base.path())))
}

/// Loads as a start does. The lock may fail: its file cannot be created, or there is no directory.
fn load_locked(store: &Store) -> Result<Loaded, LoadError> {
    let _lock = match store.open()? {
        Some(_) => store.lock().ok(),
        None => None,
    };
    store.load()
}

/// Returns the configuration found by the next start. Also checks the cleanup and the modes.
fn found(base: &TempDir) -> Option<DeviceConfig> {
    check_modes(&base.path().join(DIRECTORY));
    let store = Store::new(base.path());
    let device = match load_locked(&store) {
        Ok(loaded) => {
            assert!(!loaded.is_change_pending);
            assert!(
                loaded
                    .repairs
                    .iter()
                    .all(|repair| !matches!(repair, Repair::Mode { .. }))
            );
            Some(loaded.device)
        }
        Err(LoadError::NotProvisioned(_)) => None,
        Err(other) => panic!("{other}"),
    };
    let exists = |name: &&str| store.directory().join(name).exists();
    let leftovers = [STAGING, COMMITTED, REMOVED];
    assert_eq!(leftovers.iter().find(|name| exists(name)), None);
    if device.is_none() {
        assert_eq!(FILES.iter().find(|name| exists(name)), None, "kept");
    }
    device
}

fn check_modes(path: &Path) {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return;
    };
    assert_eq!(
        metadata.permissions().mode() & 0o077,
        0,
        "{}",
        path.display()
    );
    if metadata.is_dir() {
        fs::read_dir(path)
            .unwrap()
            .for_each(|entry| check_modes(&entry.unwrap().path()));
    }
}

#[test]
fn full_disk_at_any_step_changes_nothing() {
    for change in changes() {
        for step in 0.. {
            let base = change.begin();
            let (result, faults) = process(&base, Plan::Full(step), change.run);
            let context = format!("{}, step {step}: {result:?}", change.name);
            let expected = match &result {
                Ok(()) => &change.after,
                Err(
                    StoreError::Access(AccessError::DiskFull(_))
                    | StoreError::Lock(LockError::Access(AccessError::DiskFull(_))),
                ) => &change.before,
                Err(other) => panic!("{context}: {other}"),
            };
            match (change.after.is_some(), found(&base)) {
                (true, now) => assert_eq!(&now, expected, "{context}"),
                // After a failed removal the device may no longer be provisioned.
                (false, now) => assert!(
                    now.is_none() || (result.is_err() && now == change.before),
                    "{context}"
                ),
            }
            (change.run)(&Store::new(base.path()))
                .unwrap_or_else(|error| panic!("{context}, again: {error}"));
            assert_eq!(found(&base), change.after, "{context}, again");
            if !faults.triggered {
                assert!(
                    step > 5,
                    "{}: the faults do not reach the code",
                    change.name
                );
                break;
            }
        }
    }
}

#[test]
fn power_cut_at_any_step_leaves_old_or_new() {
    for change in changes() {
        let mut seen_before = false;
        let mut seen_after = false;
        for step in 0.. {
            let base = change.begin();
            let (_, faults) = process(&base, Plan::Cut(step), change.run);
            faults.lose_unsynced();
            let now = found(&base);
            seen_before |= now == change.before;
            seen_after |= now == change.after;
            assert!(
                now == change.before || now == change.after,
                "{}, step {step}: {now:?}",
                change.name
            );
            if !faults.triggered {
                break;
            }
        }
        assert!(seen_before && seen_after, "{}", change.name);
    }
}

#[test]
fn second_power_cut_during_recovery_is_harmless() {
    for change in changes() {
        for first in 0.. {
            let mut triggered = true;
            for second in 0.. {
                let base = change.begin();
                let (_, faults) = process(&base, Plan::Cut(first), change.run);
                faults.lose_unsynced();
                triggered = faults.triggered;
                // Reading without recovery returns the same as reading after recovery.
                let (read, faults) = process(&base, Plan::Cut(second), |store| {
                    load_locked(store).ok().map(|loaded| loaded.device)
                });
                let now = found(&base);
                assert_eq!(read, now, "{}, steps {first} and {second}", change.name);
                assert!(
                    now == change.before || now == change.after,
                    "{}, steps {first} and {second}",
                    change.name
                );
                if !faults.triggered {
                    break;
                }
            }
            if !triggered {
                break;
            }
        }
    }
}

#[test]
fn removed_files_do_not_reappear_from_unfinished_change() {
    for first in 0.. {
        let mut triggered = true;
        for second in 0.. {
            let base = fast_directory();
            Store::new(base.path()).save(&OLD).unwrap();
            let (_, faults) = process(&base, Plan::Cut(first), |store| store.save(&NEW));
            triggered = faults.triggered;
            let (removed, faults) = process(&base, Plan::Cut(second), Store::remove);
            let now = found(&base);
            let whole = now.is_none() || now.as_ref() == Some(&*OLD) || now.as_ref() == Some(&*NEW);
            assert!(
                whole && !(removed.is_ok() && now.is_some()),
                "steps {first} and {second}: {removed:?}, {now:?}"
            );
            if !faults.triggered {
                break;
            }
        }
        if !triggered {
            break;
        }
    }
}

#[test]
fn read_only_file_system_has_its_own_error() {
    for change in changes() {
        let base = change.begin();
        let (result, _) = process(&base, Plan::ReadOnly, change.run);
        let error = match result {
            Ok(()) => panic!("{}: nothing failed", change.name),
            Err(StoreError::Access(error) | StoreError::Lock(LockError::Access(error))) => error,
            Err(other) => panic!("{}: {other}", change.name),
        };
        assert!(
            matches!(error, AccessError::ReadOnly(_)) && !error.is_retryable(),
            "{error}"
        );
        assert_eq!(found(&base), change.before, "{}", change.name);
    }
}

#[test]
fn read_only_file_system_is_readable_after_any_cut() {
    for change in changes() {
        for step in 0.. {
            let base = change.begin();
            let (_, faults) = process(&base, Plan::Cut(step), change.run);
            let (read, _) = process(&base, Plan::ReadOnly, |store| match load_locked(store) {
                Ok(loaded) => Some(loaded.device),
                Err(LoadError::NotProvisioned(_)) => None,
                Err(other) => panic!("{}, step {step}: {other}", change.name),
            });
            assert_eq!(read, found(&base), "{}, step {step}", change.name);
            if !faults.triggered {
                break;
            }
        }
    }
}

/// The numbers documented in the journal module.
#[test]
fn sync_counts_match_the_documentation() {
    for (change, syncs) in changes().iter().zip([1 + 10, 10, 1, 6, 6, 2, 11, 11]) {
        let base = change.begin();
        let (result, outcome) = process(&base, Plan::Healthy, change.run);
        result.unwrap();
        assert_eq!(outcome.syncs, syncs, "{}", change.name);
    }
    let base = fast_directory();
    let deep = Store::new(base.path().join("not/there"));
    let (result, outcome) = under(Plan::Healthy, || deep.save(&OLD));
    result.unwrap();
    assert_eq!(outcome.syncs, 3 + 10, "two directories above, and its own");
    let (result, outcome) = under(Plan::Healthy, || deep.load());
    result.unwrap();
    assert_eq!(outcome.syncs, 0, "a start writes nothing");
}

#[test]
fn python_library_files_survive_interrupted_removal() {
    let base = fast_directory();
    Store::new(base.path()).save(&OLD).unwrap();
    // The first permanent change of a removal is its commit.
    let cut = (0..).find(|step| {
        let _ = process(&base, Plan::Cut(*step), Store::remove);
        base.path().join(DIRECTORY).join(REMOVED).exists()
    });
    assert!(cut.is_some());
    let other = fast_directory();
    Store::new(other.path()).save(&NEW).unwrap();
    for name in FILES {
        let path = |base: &TempDir| base.path().join(DIRECTORY).join(name);
        if path(&other).exists() {
            fs::copy(path(&other), path(&base)).unwrap();
        }
    }
    assert_eq!(found(&base), Some(NEW.clone()));
}
