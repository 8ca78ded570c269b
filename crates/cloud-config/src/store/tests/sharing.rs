//! Several at one directory: a reader beside a writer, a reader beside a removal, two who want the lock.

use super::*;

#[test]
fn a_reader_beside_a_writer_gets_whole_configurations() {
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
fn a_reader_beside_a_removal_gets_all_or_nothing() {
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
fn one_store_is_locked_once_and_writes_under_its_own_lock() {
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
    // The lock ended with the directory: a new one can be had while the old value is still around.
    let _again = other.lock().unwrap();
    drop(lock);
}

/// A worn flash card becomes read-only, and its device is to stay with its cloud.
#[test]
fn a_directory_that_has_become_read_only_can_still_be_taken_by_one() {
    let base = fast_directory();
    Store::new(base.path()).save(&OLD).unwrap();
    let (lock, _) = process(&base, Plan::ReadOnly, |store| store.lock().unwrap());
    let (again, _) = process(&base, Plan::ReadOnly, Store::lock);
    assert!(matches!(again, Err(LockError::InUse { pid: None, .. })));
    drop(lock);
    // A lock file cannot be made there.
    fs::remove_file(base.path().join(DIRECTORY).join(LOCK_FILE)).unwrap();
    let (none, _) = process(&base, Plan::ReadOnly, Store::lock);
    assert!(matches!(
        none,
        Err(LockError::Access(AccessError::ReadOnly(_)))
    ));
}

#[test]
fn whether_anybody_has_it_is_seen_without_taking_it() {
    let base = fast_directory();
    let store = Store::new(base.path());
    store.ensure_unlocked().unwrap();
    assert!(!store.directory().exists(), "looking makes no directory");
    store.save(&OLD).unwrap();
    store.ensure_unlocked().unwrap();
    let other = Store::new(base.path());
    let lock = other.lock().unwrap();
    let Err(LockError::InUse { pid, .. }) = store.ensure_unlocked() else {
        panic!("it is taken")
    };
    assert_eq!(pid, Some(std::process::id()));
    drop(lock);
    store.ensure_unlocked().unwrap();
}
