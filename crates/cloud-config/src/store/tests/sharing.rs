//! Concurrent access: a reader during writes, a reader during removals, and two lock attempts.

use super::*;

#[test]
fn concurrent_reader_gets_complete_configurations() {
    let base = fast_directory();
    let writing = Store::new(base.path());
    writing.save(&OLD).unwrap();
    let reading = Store::new(base.path());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let _lock = writing.lock().unwrap();
            for turn in 0..40 {
                writing
                    .save(if turn % 2 == 0 { &NEW } else { &OLD })
                    .unwrap();
            }
        });
        let mut read = 0;
        while !writer.is_finished() || read == 0 {
            match reading.load() {
                Ok(loaded) => {
                    assert!(loaded.device == *OLD || loaded.device == *NEW);
                    read += 1;
                }
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
    });
}

#[test]
fn reader_during_removal_gets_all_or_nothing() {
    let base = fast_directory();
    let writing = Store::new(base.path());
    let reading = Store::new(base.path());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..40 {
                writing.save(&OLD).unwrap();
                writing.remove().unwrap();
            }
        });
        while !writer.is_finished() {
            match reading.load() {
                Ok(loaded) => assert!(loaded.device == *OLD),
                Err(LoadError::NotProvisioned(_) | LoadError::Busy(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
    });
}

#[test]
fn store_locks_once_and_writes_under_its_own_lock() {
    let base = fast_directory();
    let store = Store::new(base.path());
    let lock = store.lock().unwrap();
    for other in [store.clone(), Store::new(base.path())] {
        let Err(LockError::InUse { pid, .. }) = other.lock() else {
            panic!("locked twice")
        };
        assert_eq!(pid, Some(std::process::id()));
    }
    store.save(&OLD).unwrap();
    let other = Store::new(base.path());
    assert!(matches!(
        other.replace_remote(&NEW.remote),
        Err(StoreError::Lock(LockError::InUse { .. }))
    ));
    assert_eq!(other.load().unwrap().device, *OLD);
    drop(lock);
    other.replace_remote(&NEW.remote).unwrap();

    let lock = store.lock().unwrap();
    assert!(store.remove().unwrap());
    assert!(!store.directory().exists());
    // The removal ended the lock, so a new one is available while the old value still exists.
    let _again = other.lock().unwrap();
    drop(lock);
}

/// A worn flash card becomes read-only, and its device must stay connected.
#[test]
fn read_only_directory_can_still_be_locked() {
    let base = fast_directory();
    Store::new(base.path()).save(&OLD).unwrap();
    let (lock, _) = process(&base, Plan::ReadOnly, |store| store.lock().unwrap());
    let (again, _) = process(&base, Plan::ReadOnly, Store::lock);
    assert!(matches!(again, Err(LockError::InUse { pid: None, .. })));
    drop(lock);
    // A lock file cannot be created there.
    fs::remove_file(base.path().join(DIRECTORY).join(LOCK_FILE)).unwrap();
    let (none, _) = process(&base, Plan::ReadOnly, Store::lock);
    assert!(matches!(
        none,
        Err(LockError::Access(AccessError::ReadOnly(_)))
    ));
}

#[test]
fn ensure_unlocked_detects_holder_without_locking() {
    let base = fast_directory();
    let store = Store::new(base.path());
    store.ensure_unlocked().unwrap();
    assert!(
        !store.directory().exists(),
        "the check creates no directory"
    );
    store.save(&OLD).unwrap();
    store.ensure_unlocked().unwrap();
    let other = Store::new(base.path());
    let lock = other.lock().unwrap();
    let Err(LockError::InUse { pid, .. }) = store.ensure_unlocked() else {
        panic!("it is locked")
    };
    assert_eq!(pid, Some(std::process::id()));
    drop(lock);
    store.ensure_unlocked().unwrap();
}
