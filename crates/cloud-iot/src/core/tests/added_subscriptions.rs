//! Subscriptions that are added while the session runs.

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::*;
use crate::core::added_subscriptions::Granted;
use crate::error::SubscribeError;
use crate::mqtt::reader::Packet;
use crate::mqtt::topic::TopicFilter;

/// The packet identifier of the first SUBSCRIBE or UNSUBSCRIBE of a caller.
const FIRST: u16 = 60_000;

type Answer = oneshot::Receiver<Granted>;

impl Harness {
    fn add(&mut self, filter: &str) -> Result<Answer, SubscribeError> {
        let subscription = Subscription::new(filter).unwrap();
        self.core.add_subscription(subscription, self.now)
    }

    fn release(&mut self, filter: &str) {
        let filter = TopicFilter::new(filter).unwrap();
        self.core.release_subscription(&filter, self.now);
    }
}

fn answer(receiver: Answer) -> Option<Granted> {
    receiver.now_or_never().map(Result::unwrap)
}

#[test]
fn added_filter_is_subscribed_once_and_until_last_release() {
    let mut harness = Harness::online(config());
    let first = harness.add("own/#").unwrap();
    assert_eq!(harness.actions(), ["subscribe 1"]);
    let second = harness.add("own/#").unwrap();
    assert!(harness.actions().is_empty());
    harness.event(subscribed(FIRST, &[1]));
    assert_eq!(
        (answer(first), answer(second)),
        (Some(Ok(())), Some(Ok(())))
    );
    assert_eq!(answer(harness.add("own/#").unwrap()), Some(Ok(())));

    for _ in 0..2 {
        harness.release("own/#");
        assert!(harness.actions().is_empty());
    }
    harness.release("own/#");
    assert_eq!(harness.actions(), ["unsubscribe own/#"]);
    harness.event(ConnectionEvent::Unexpected(Packet::UnsubAck, FIRST));
    let logged = std::iter::from_fn(|| harness.core.poll_action()).count();
    assert_eq!((logged, harness.core.subscriptions().len()), (0, 2));
}

#[test]
fn added_filter_is_subscribed_on_each_connection() {
    let mut harness = Harness::new(config());
    let waiting = harness.add("own/#").unwrap();
    let mut released = harness.add("other/#").unwrap();
    harness.actions();
    harness.event(ConnectionEvent::Connected(capabilities()));
    assert_eq!(harness.actions(), ["subscribe 4"]);
    // Positions in the list do not change while the connection subscribes.
    harness.release("other/#");
    let late = harness.add("late/#").unwrap();
    harness.granted(&[1, 1, 1, 1]);
    assert_eq!(harness.actions(), ["subscribe 1"]);
    harness.granted(&[0x87]);
    let actions = harness.actions();
    assert_eq!(actions, ["event", "connect hooks", "unsubscribe other/#"]);
    assert_eq!(answer(waiting), Some(Ok(())));
    assert_eq!(released.try_recv(), Ok(Ok(())));
    assert!(matches!(
        answer(late),
        Some(Err(SubscribeError::Refused(_)))
    ));

    harness.core.handle_hooks_finished(harness.now);
    harness.event(ConnectionEvent::Lost(Cause::KeepAlive));
    harness.core.handle_hooks_finished(harness.now);
    harness.release("late/#");
    harness.wait_until_due();
    harness.actions();
    harness.event(ConnectionEvent::Connected(capabilities()));
    assert_eq!(harness.actions(), ["subscribe 3"]);
}

#[test]
fn refused_filter_is_tried_again_by_next_caller() {
    let mut harness = Harness::online(config());
    let refused = harness.add("own/#").unwrap();
    harness.event(subscribed(FIRST, &[0x87]));
    let error = answer(refused).unwrap().unwrap_err().to_string();
    assert!(error.contains("own/#") && error.contains("0x87"), "{error}");
    harness.actions();
    let granted = harness.add("own/#").unwrap();
    assert_eq!(harness.actions(), ["subscribe 1"]);
    harness.event(subscribed(FIRST, &[0]));
    assert_eq!(answer(granted), Some(Ok(())));
    assert_eq!(harness.actions(), ["event"]);
}

#[test]
fn added_filters_are_bounded_and_end_with_session() {
    let mut harness = Harness::online(config());
    let mut waiting: Vec<_> = (2..50)
        .map(|n| harness.add(&format!("f/{n}")).unwrap())
        .collect();
    let error = harness.add("f/50").unwrap_err();
    assert_eq!(error, SubscribeError::TooMany(50));
    // A filter of the configuration needs no place.
    assert_eq!(answer(harness.add("b/#").unwrap()), Some(Ok(())));
    harness.core.abandon();
    assert!(waiting.remove(0).now_or_never().unwrap().is_err());
    assert_eq!(harness.add("f/2").unwrap_err(), SubscribeError::Stopped);
}

#[test]
fn unanswered_subscribe_ends_connection() {
    let mut harness = Harness::online(config());
    let _waiting = harness.add("own/#").unwrap();
    let limit = harness.core.config.timeouts.subscribe;
    harness.wait(limit);
    assert_eq!(harness.cause(), Cause::SubscribeTimeout);
}
