use std::time::{Duration, SystemTime};

use super::*;
use crate::mqtt::message::Message;
use crate::mqtt::message_properties::MessageProperties;

fn stored(key: u64) -> StoredMessage {
    StoredMessage {
        key,
        message: Message::new(format!("t/{key}"), format!("payload {key}")),
        accepted: SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_123),
        expires_in: key.is_multiple_of(2).then(|| Duration::from_secs(key)),
    }
}

fn put(keys: impl IntoIterator<Item = u64>) -> StoreBatch {
    StoreBatch {
        put: keys.into_iter().map(stored).collect(),
        remove: Vec::new(),
    }
}

#[test]
fn committed_messages_are_restored_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let mut outbox = DurableOutbox::open(directory.path()).unwrap();
    assert_eq!((outbox.waiting(), outbox.damage()), (0, None));
    outbox.commit(&put([1, 2, 300])).unwrap();
    let mut second = put([301]);
    second.remove = vec![2];
    second.put[0].message.retain = true;
    let properties = MessageProperties::new()
        .content_type("text/plain")
        .response_topic("t/response")
        .correlation_data(vec![0, 255])
        .user_property("a", "ä")
        .user_property("a", "");
    second.put[0].message = second.put[0].message.clone().with_properties(properties);
    outbox.commit(&second).unwrap();
    let shown = format!("{outbox:?} {second:?}");
    assert!(!shown.contains("payload 301"), "{shown}");
    drop(outbox);

    let mut outbox = DurableOutbox::open(directory.path()).unwrap();
    assert_eq!(outbox.waiting(), 3);
    let mut expected: Vec<_> = [1, 300].map(stored).into();
    expected.extend(second.put);
    assert_eq!(outbox.restore(), expected);
}

#[cfg(unix)]
#[test]
fn files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let inner = directory.path().join("a/outbox");
    let _outbox = DurableOutbox::open(&inner).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&inner), 0o700);
    assert_eq!(mode(&inner.join(FILE)), 0o600);
}

#[test]
fn one_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let outbox = DurableOutbox::open(directory.path()).unwrap();
    let refused = DurableOutbox::open(directory.path()).unwrap_err();
    assert_eq!(refused, StoreError::InUse);
    drop(outbox);
    DurableOutbox::open(directory.path()).unwrap();
}

/// In every interleaving one process opens it, and no other changes what that one wrote.
#[test]
fn concurrent_open_has_one_winner() {
    for round in 0..40 {
        let directory = tempfile::tempdir().unwrap();
        let found_damaged = round % 2 == 1;
        if found_damaged {
            fs::write(directory.path().join(FILE), "not a database").unwrap();
        }
        let barrier = std::sync::Barrier::new(4);
        let open = || {
            barrier.wait();
            DurableOutbox::open(directory.path())
        };
        let opened: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
            let ends = threads.into_iter().map(|thread| thread.join().unwrap());
            ends.collect()
        });
        let (mut held, refused): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
        assert_eq!(held.len(), 1, "round {round}: {held:?}");
        for outcome in refused {
            assert_eq!(outcome.unwrap_err(), StoreError::InUse, "round {round}");
        }
        let mut outbox = held.pop().unwrap().unwrap();
        assert_eq!(outbox.damage().is_some(), found_damaged, "round {round}");
        outbox.commit(&put([1])).unwrap();
        drop(outbox);
        let outbox = DurableOutbox::open(directory.path()).unwrap();
        assert_eq!(
            (outbox.waiting(), outbox.damage()),
            (1, None),
            "round {round}"
        );
    }
}

#[test]
fn damaged_file_is_moved_and_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    for garbage in [&b"not a database"[..], &[0; 100_000]] {
        fs::write(&path, garbage).unwrap();
        let mut outbox = DurableOutbox::open(directory.path()).unwrap();
        let damage = outbox.damage().unwrap().clone();
        assert_eq!(fs::read(&damage.moved_to).unwrap(), garbage);
        assert!(damage.to_string().contains(DAMAGED), "{damage}");
        outbox.commit(&put([1])).unwrap();
        drop(outbox);
        let outbox = DurableOutbox::open(directory.path()).unwrap();
        assert_eq!((outbox.waiting(), outbox.damage()), (1, None));
    }
}

#[test]
fn no_directory_is_a_typed_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = DurableOutbox::open(file.join("outbox")).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
}
