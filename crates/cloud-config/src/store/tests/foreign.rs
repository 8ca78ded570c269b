//! Another program without the journal writes into the directory between a power cut and the next
//! start.

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;

use super::*;

/// The other program's configuration.
static NEWEST: LazyLock<DeviceConfig> = LazyLock::new(|| device("newest"));

/// An action of the other program on the files in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    RemotePair,
    IotPair,
    BothPairs,
    RemoteCertOnly,
    RemoteKeyOnly,
    RemoteCertEmptied,
    IotKeyOnly,
    RemoteKeyRemoved,
    NamesEdited,
    All,
    Reset,
}

const ACTS: [Act; 11] = [
    Act::RemotePair,
    Act::IotPair,
    Act::BothPairs,
    Act::RemoteCertOnly,
    Act::RemoteKeyOnly,
    Act::RemoteCertEmptied,
    Act::IotKeyOnly,
    Act::RemoteKeyRemoved,
    Act::NamesEdited,
    Act::All,
    Act::Reset,
];

/// The names as edited by the other program.
fn edited() -> String {
    OLD.document()
        .render()
        .replace("relay.old.example", "relay.edited.example")
}

impl Act {
    fn run(self, directory: &Path) {
        let write = |name: &str, text: &str| {
            fs::write(directory.join(name), text).unwrap();
            fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        };
        let pair = |[cert, key]: [&str; 2], pair: &Credentials| {
            write(cert, pair.chain_pem());
            write(key, pair.key_pem());
        };
        let remote = || pair([REMOTE_CERT, REMOTE_KEY], &NEWEST.remote);
        let iot = || pair([IOT_CERT, IOT_KEY], &NEWEST.iot);
        match self {
            Self::RemotePair => remote(),
            Self::IotPair => iot(),
            Self::BothPairs => {
                iot();
                remote();
            }
            Self::RemoteCertOnly => write(REMOTE_CERT, NEWEST.remote.chain_pem()),
            Self::RemoteKeyOnly => write(REMOTE_KEY, NEWEST.remote.key_pem()),
            Self::RemoteCertEmptied => write(REMOTE_CERT, ""),
            Self::IotKeyOnly => write(IOT_KEY, NEWEST.iot.key_pem()),
            Self::RemoteKeyRemoved => drop(fs::remove_file(directory.join(REMOTE_KEY))),
            Self::NamesEdited => write(CLOUD_CONFIG, &edited()),
            Self::All => {
                write(IOT_CA, NEWEST.iot_roots.pem());
                iot();
                remote();
                write(CLOUD_CONFIG, &NEWEST.document().render());
            }
            Self::Reset => {
                for name in FILES {
                    let _ = fs::remove_file(directory.join(name));
                }
            }
        }
    }

    /// The files of the pair of which the action writes only one.
    fn torn(self) -> Option<[&'static str; 2]> {
        match self {
            Self::RemoteCertOnly
            | Self::RemoteKeyOnly
            | Self::RemoteCertEmptied
            | Self::RemoteKeyRemoved => Some([REMOTE_CERT, REMOTE_KEY]),
            Self::IotKeyOnly => Some([IOT_CERT, IOT_KEY]),
            _ => None,
        }
    }

    /// Whether to also cut the next start at each of its steps; not for actions with equivalent
    /// decisions.
    fn is_cut_again(self) -> bool {
        matches!(
            self,
            Self::RemotePair | Self::RemoteCertOnly | Self::IotKeyOnly | Self::NamesEdited
        )
    }

    /// Whether the written files survive.
    fn survives(self, device: &DeviceConfig) -> bool {
        match self {
            Self::RemotePair => device.remote == NEWEST.remote,
            Self::IotPair => device.iot == NEWEST.iot,
            Self::BothPairs => device.remote == NEWEST.remote && device.iot == NEWEST.iot,
            Self::NamesEdited => device.document().render() == edited(),
            Self::All => *device == *NEWEST,
            Self::Reset => false,
            _ => true,
        }
    }
}

/// Every file in the directory with its content, except the lock file.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else if path.file_name().unwrap() != LOCK_FILE {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

/// Result of a load, without the base path.
fn outcome(
    base: &TempDir,
    loaded: Result<Loaded, LoadError>,
) -> Result<Option<DeviceConfig>, String> {
    match loaded {
        Ok(loaded) => Ok(Some(loaded.device)),
        Err(LoadError::NotProvisioned(_)) => Ok(None),
        Err(other) => Err(other.to_string().replace(base.path().to_str().unwrap(), "")),
    }
}

#[test]
fn foreign_write_after_a_cut_survives_reading_and_recovery() {
    std::thread::scope(|scope| {
        for change in changes()
            .into_iter()
            .filter(|change| change.name != "rehearse")
        {
            scope.spawn(move || check(&change));
        }
    });
}

fn check(change: &Change) {
    for act in ACTS {
        let mut superseded = 0;
        let mut seen = HashSet::new();
        for step in 0.. {
            let context = format!("{}, cut at {step}, {act:?}", change.name);
            let scene = || {
                let base = change.begin();
                let (_, faults) = process(&base, Plan::Cut(step), change.run);
                faults.lose_unsynced();
                (base, faults.triggered)
            };
            let (base, triggered) = scene();
            let directory = base.path().join(DIRECTORY);
            // Names can only be edited if they exist.
            let applies = directory.join(CLOUD_CONFIG).exists() || act != Act::NamesEdited;
            if !directory.exists() || !applies {
                if triggered {
                    continue;
                }
                break;
            }
            let committed = directory.join(COMMITTED);
            let is_pending = committed.exists();
            let has_whole = act
                .torn()
                .is_some_and(|files| files.iter().all(|name| committed.join(name).exists()));
            act.run(&directory);
            let left = contents(&directory);
            // Several steps leave the same state.
            let names: Vec<_> = left
                .iter()
                .map(|(path, text)| {
                    (
                        path.strip_prefix(&directory).unwrap().to_owned(),
                        text.clone(),
                    )
                })
                .collect();
            if !seen.insert(names) && triggered {
                continue;
            }

            // A reader without the lock.
            let expected = outcome(&base, Store::new(base.path()).load());
            assert!(
                contents(&directory) == left,
                "{context}: changed by reading"
            );
            match &expected {
                // Files that were never in place cannot be removed.
                Ok(Some(device)) => assert!(
                    act.survives(device) || (act == Act::Reset && change.before.is_none()),
                    "{context}: {device:?}"
                ),
                Ok(None) => assert!(
                    act == Act::Reset || change.before.is_none() || change.after.is_none(),
                    "{context}"
                ),
                Err(error) => assert!(act.torn().is_some() && !has_whole, "{context}: {error}"),
            }
            assert!(!has_whole || matches!(expected, Ok(Some(_))), "{context}");

            // Starts, each cut off at another step, followed by an uninterrupted one.
            for second in 0.. {
                let (base, _) = scene();
                act.run(&base.path().join(DIRECTORY));
                let (_, faults) = process(&base, Plan::Cut(second), load_locked);
                let (loaded, _) = process(&base, Plan::Healthy, load_locked);
                let repairs = loaded.as_ref().map_or(&[][..], |loaded| &loaded.repairs);
                superseded += usize::from(repairs.contains(&Repair::CommittedChangeSuperseded));
                let found = outcome(&base, loaded);
                assert!(
                    found == expected,
                    "{context}, second cut at {second}: {found:?}, read before: {expected:?}"
                );
                for leftover in [STAGING, COMMITTED] {
                    let path = base.path().join(DIRECTORY).join(leftover);
                    assert!(!path.exists(), "{context}, second cut at {second}");
                }
                if !faults.triggered || !is_pending || !act.is_cut_again() {
                    break;
                }
            }
            if !triggered {
                break;
            }
        }
        let is_replacement = ["force", "rotate"].contains(&change.name);
        if is_replacement && act == Act::RemotePair {
            assert!(superseded > 0, "{}, {act:?}", change.name);
        }
    }
}

/// A journal without a manifest allows no comparison, and was committed.
#[test]
fn journal_without_manifest_is_finished() {
    let base = fast_directory();
    Store::new(base.path()).save(&OLD).unwrap();
    let committed = base.path().join(DIRECTORY).join(COMMITTED);
    let cut = (0..).find(|step| {
        let _ = process(&base, Plan::Cut(*step), |store| {
            store.replace_remote(&NEW.remote)
        });
        committed.exists()
    });
    assert!(cut.is_some());
    fs::write(committed.join("manifest"), "unknown").unwrap();
    let now = found(&base).unwrap();
    assert_eq!((&now.remote, &now.iot), (&NEW.remote, &OLD.iot));
}

/// A preflight must not resolve a pending change.
#[test]
fn preflight_without_lock_keeps_committed_change() {
    let base = fast_directory();
    Store::new(base.path()).save(&OLD).unwrap();
    let committed = base.path().join(DIRECTORY).join(COMMITTED);
    let cut = (0..).find(|step| {
        let _ = process(&base, Plan::Cut(*step), |store| store.save(&NEW));
        committed.exists()
    });
    assert!(cut.is_some());
    let store = Store::new(base.path());
    let left = contents(store.directory());
    store.preflight_save().unwrap();
    assert!(contents(store.directory()) == left);
    let lock = store.lock().unwrap();
    store.preflight_save().unwrap();
    assert!(!committed.exists());
    drop(lock);
    assert_eq!(found(&base), Some(NEW.clone()));
}
