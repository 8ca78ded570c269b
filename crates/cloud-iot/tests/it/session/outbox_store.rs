//! The session's use of a store, observed from the store.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use cloud_iot::{
    Message, OutboxStore, PublishError, PublishOptions, Session, SessionConfig, SessionEvent,
    StoreBatch, StoreError, StoredMessage,
};

use crate::common::*;

/// A store that records its calls, and fails on request.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    restored: Vec<StoredMessage>,
    batches: Vec<StoreBatch>,
    /// Reports damage once.
    failure: Option<StoreError>,
    panics: bool,
}

impl Notes {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The stored payloads, in order.
    fn put(&self) -> Vec<String> {
        let state = self.state();
        let put = state.batches.iter().flat_map(|batch| &batch.put);
        put.map(|stored| String::from_utf8(stored.message.payload.to_vec()).unwrap())
            .collect()
    }
}

impl OutboxStore for Notes {
    fn restore(&mut self) -> Vec<StoredMessage> {
        std::mem::take(&mut self.state().restored)
    }

    fn commit(&mut self, batch: &StoreBatch) -> Result<(), StoreError> {
        let panics = self.state().panics;
        assert!(!panics, "a store of a test panics");
        let mut state = self.state();
        let failure = state.failure.clone();
        if matches!(failure, Some(StoreError::Damaged(_))) {
            state.failure = None;
        }
        if let Some(error) = failure {
            return Err(error);
        }
        state.batches.push(batch.clone());
        Ok(())
    }
}

fn start(config: SessionConfig, notes: &Notes) -> Session {
    let builder = Session::builder(config).outbox_store(notes.clone());
    builder.start().unwrap()
}

/// A session that cannot connect, and writes at once.
fn offline(notes: &Notes) -> Session {
    let pki = crate::support::pki::Pki::new();
    let mut config = config(&pki, 1, "device");
    config.store_delay = Duration::ZERO;
    start(config, notes)
}

async fn publish_stored(session: &Session, payload: &str) -> Result<(), PublishError> {
    let message = Message::new("t", payload.to_owned());
    let stored = session.publish_stored(message, PublishOptions::new());
    soon(stored).await.map(drop)
}

#[tokio::test]
async fn quickly_acknowledged_message_is_never_stored() {
    let (site, notes) = (Site::new().await, Notes::default());
    let mut config = site.config("device");
    config.store_delay = Duration::from_secs(60);
    let session = start(config, &notes);
    online(&session).await;
    for n in 0..50 {
        publish_stored(&session, &n.to_string()).await.unwrap();
    }
    session.stop(STOP).await;
    assert_eq!(site.broker.received("t").len(), 50);
    assert!(notes.state().batches.is_empty());
}

#[tokio::test]
async fn delivered_message_is_removed() {
    let (site, notes) = (Site::new().await, Notes::default());
    site.broker.freeze(true);
    let mut config = site.config("device");
    config.store_delay = Duration::ZERO;
    let session = start(config, &notes);
    publish_stored(&session, "0").await.unwrap();
    publish_stored(&session, "1").await.unwrap();
    site.broker.freeze(false);
    let last = session.publish(Message::new("t", "last")).unwrap();
    soon(last).await.unwrap();
    let report = session.stop(STOP).await;
    assert_eq!((report.undelivered, report.stored), (0, 0));
    let state = notes.state();
    let put = state.batches.iter().flat_map(|batch| &batch.put);
    let mut put: Vec<_> = put.map(|stored| stored.key).collect();
    let removed = state.batches.iter().flat_map(|batch| &batch.remove);
    let mut removed: Vec<_> = removed.copied().collect();
    put.sort_unstable();
    removed.sort_unstable();
    assert_eq!(put, removed);
}

#[tokio::test]
async fn full_disk_refuses_publish_stored() {
    let notes = Notes::default();
    let session = offline(&notes);
    let mut events = session.events();
    notes.state().failure = Some(StoreError::Full);
    let refused = publish_stored(&session, "0").await.unwrap_err();
    assert_eq!(refused, PublishError::NotStored(StoreError::Full));
    assert!(refused.is_retryable());
    let reported = soon(async {
        loop {
            if let SessionEvent::StoreFailed { error } = events.recv().await.unwrap() {
                break error;
            }
        }
    });
    assert_eq!(reported.await, StoreError::Full);
    // It is accepted in memory, and the receipt reports that.
    let mut receipt = session.publish(Message::new("t", "1")).unwrap();
    assert_eq!(soon(receipt.stored()).await, Err(StoreError::Full));
    let report = session.stop(STOP).await;
    assert_eq!((report.undelivered, report.stored), (1, 0));
}

#[tokio::test]
async fn messages_lost_by_damaged_store_are_stored_again() {
    let notes = Notes::default();
    let session = offline(&notes);
    publish_stored(&session, "0").await.unwrap();
    publish_stored(&session, "1").await.unwrap();
    notes.state().failure = Some(StoreError::Damaged("bits".into()));
    let refused = publish_stored(&session, "2").await.unwrap_err();
    assert!(matches!(
        refused,
        PublishError::NotStored(StoreError::Damaged(_))
    ));
    publish_stored(&session, "3").await.unwrap();
    let report = session.stop(STOP).await;
    assert_eq!((report.undelivered, report.stored), (3, 3));
    assert_eq!(notes.put(), ["0", "1", "0", "1", "3"]);
}

#[tokio::test]
async fn panicking_store_does_not_stop_session() {
    let notes = Notes::default();
    let session = offline(&notes);
    notes.state().panics = true;
    for _ in 0..2 {
        let refused = publish_stored(&session, "0").await.unwrap_err();
        assert!(matches!(
            refused,
            PublishError::NotStored(StoreError::Internal(_))
        ));
    }
    session.stop(STOP).await;
}

#[tokio::test]
async fn restored_messages_come_first_and_expire_by_wall_clock() {
    let (site, notes) = (Site::new().await, Notes::default());
    let former = |key: u64, hours: Option<u64>| StoredMessage {
        key,
        message: Message::new("t", key.to_string()),
        accepted: SystemTime::now() - Duration::from_secs(7200),
        expires_in: hours.map(|hours| Duration::from_secs(3600 * hours)),
    };
    notes.state().restored = vec![former(3, None), former(5, Some(1)), former(7, Some(3))];
    let session = start(site.config("device"), &notes);
    let last = session.publish(Message::new("t", "new")).unwrap();
    soon(last).await.unwrap();
    session.stop(STOP).await;
    assert_eq!(site.broker.received("t"), ["3", "7", "new"]);
    let state = notes.state();
    let removed = state.batches.iter().flat_map(|batch| &batch.remove);
    let mut removed: Vec<_> = removed.copied().collect();
    removed.sort_unstable();
    assert_eq!(removed, [3, 5, 7]);
}
