//! Poison messages: the server answers them with DISCONNECT.

use super::*;

fn disconnected(code: u8) -> ConnectionEvent {
    ConnectionEvent::Lost(Cause::Disconnected {
        reason: ReasonCode(code),
        message: None,
    })
}

/// Ends the connection, opens another one and returns what is published on it.
fn next_connection(harness: &mut Harness, end: ConnectionEvent) -> Vec<String> {
    harness.event(end);
    harness.core.handle_hooks_finished(harness.now);
    harness.wait_until_due();
    harness.actions();
    harness.connect();
    published(harness)
}

/// Acknowledges the birth message, which has packet identifier 2 while there is a suspect, and
/// returns what is published then.
fn born(harness: &mut Harness) -> Vec<String> {
    harness.event(ConnectionEvent::Written(2));
    harness.event(ConnectionEvent::Acknowledged(2, ReasonCode::SUCCESS));
    published(harness)
}

fn published(harness: &mut Harness) -> Vec<String> {
    let actions = harness.actions().into_iter();
    actions
        .filter(|action| action.starts_with("publish"))
        .collect()
}

#[test]
fn message_that_ends_three_connections_is_dropped() {
    for code in [0x81, 0x82, 0x87, 0x90, 0x95, 0x99, 0x9A, 0x9B] {
        let mut harness = Harness::online(config());
        let (mut bad, mut good) = (harness.publish("bad"), harness.publish("good"));
        assert_eq!(published(&mut harness), ["publish bad", "publish good"]);
        harness.event(ConnectionEvent::Written(2));
        harness.event(ConnectionEvent::Written(3));
        for _ in 0..2 {
            assert_eq!(
                next_connection(&mut harness, disconnected(code)),
                ["publish ONLINE"]
            );
            assert_eq!(
                born(&mut harness),
                ["publish bad"],
                "alone, as it is suspected"
            );
            harness.event(ConnectionEvent::Written(3));
            assert_eq!(outcome(&mut bad), None);
        }
        assert_eq!(
            next_connection(&mut harness, disconnected(code)),
            ["publish ONLINE", "publish good"]
        );
        let refused = DeliveryError::Refused(ReasonCode(code));
        assert_eq!(outcome(&mut bad), Some(Err(refused)));
        harness.event(ConnectionEvent::Written(2));
        harness.event(ConnectionEvent::Acknowledged(2, ReasonCode::SUCCESS));
        assert_eq!(outcome(&mut good), Some(Ok(Ack::Acknowledged)));
    }
}

#[test]
fn other_disconnects_blame_no_message() {
    for end in [
        || disconnected(0x8B),
        || disconnected(0x8E),
        || disconnected(0x97),
        || ConnectionEvent::Lost(Cause::KeepAlive),
        || ConnectionEvent::Lost(Cause::AcknowledgeTimeout),
        || ConnectionEvent::Lost(Cause::Closed { soon: false }),
    ] {
        let mut harness = Harness::online(config());
        let mut receipt = harness.publish("1");
        let _other = harness.publish("2");
        harness.actions();
        for _ in 0..5 {
            harness.event(ConnectionEvent::Written(2));
            assert_eq!(
                next_connection(&mut harness, end()),
                ["publish ONLINE", "publish 1", "publish 2"]
            );
        }
        assert_eq!(outcome(&mut receipt), None);
    }
}

#[test]
fn suspect_is_cleared_by_its_acknowledgement() {
    let mut harness = Harness::online(config());
    let mut first = harness.publish("first");
    let (mut bad, _last) = (harness.publish("bad"), harness.publish("last"));
    for id in 2..=4 {
        harness.event(ConnectionEvent::Written(id));
    }
    // The acknowledgement of the first one was not received.
    assert_eq!(
        next_connection(&mut harness, disconnected(0x90)),
        ["publish ONLINE"]
    );
    assert_eq!(born(&mut harness), ["publish first"]);
    harness.event(ConnectionEvent::Written(3));
    harness.event(ConnectionEvent::Acknowledged(3, ReasonCode::SUCCESS));
    assert_eq!(outcome(&mut first), Some(Ok(Ack::Acknowledged)));
    assert_eq!(published(&mut harness), ["publish bad", "publish last"]);
    harness.event(ConnectionEvent::Written(4));
    for _ in 0..2 {
        assert_eq!(
            next_connection(&mut harness, disconnected(0x90)),
            ["publish ONLINE"]
        );
        assert_eq!(born(&mut harness), ["publish bad"]);
        harness.event(ConnectionEvent::Written(3));
    }
    assert_eq!(
        next_connection(&mut harness, disconnected(0x90)),
        ["publish ONLINE", "publish last"]
    );
    let refused = DeliveryError::Refused(ReasonCode(0x90));
    assert_eq!(outcome(&mut bad), Some(Err(refused)));
}

/// Each connection ends because of it. It is not acknowledged, so nothing else is sent.
fn birth_is_refused_for_ever(harness: &mut Harness) {
    for _ in 0..5 {
        assert_eq!(
            next_connection(harness, disconnected(0x87)),
            ["publish ONLINE"]
        );
        harness.event(ConnectionEvent::Written(2));
    }
}

#[test]
fn refused_birth_message_drops_no_other_message() {
    let mut config = config();
    config.birth = Some(Message::new("status", "ONLINE"));
    let mut harness = Harness::new(config);
    let mut receipt = harness.publish("1");
    harness.connect();
    assert_eq!(published(&mut harness), ["publish ONLINE", "publish 1"]);
    harness.event(ConnectionEvent::Written(2));
    harness.event(ConnectionEvent::Written(3));
    birth_is_refused_for_ever(&mut harness);
    assert_eq!(outcome(&mut receipt), None);
}

#[test]
fn refused_qos_0_birth_message_drops_no_other_message() {
    let mut harness = Harness::online(config());
    let mut receipt = harness.publish("innocent");
    assert_eq!(published(&mut harness), ["publish innocent"]);
    harness.event(ConnectionEvent::Written(2));
    birth_is_refused_for_ever(&mut harness);
    assert_eq!(outcome(&mut receipt), None);
}

#[test]
fn withdrawn_message_is_removed_from_store() {
    let mut harness = Harness::new(config());
    harness.core.restore(vec![Restored {
        id: 7,
        message: Message::new("t", "bad"),
        expires: None,
    }]);
    harness.connect();
    harness.event(ConnectionEvent::Written(2));
    for _ in 0..2 {
        next_connection(&mut harness, disconnected(0x90));
        assert_eq!(born(&mut harness), ["publish bad"]);
        harness.event(ConnectionEvent::Written(3));
    }
    next_connection(&mut harness, disconnected(0x90));
    harness.wait(20 * SECOND);
    let actions = harness.actions();
    assert!(actions.contains(&"store 0 1".to_owned()), "{actions:?}");
}

#[test]
fn too_deep_topic_is_refused() {
    let mut harness = Harness::new(config());
    let deep = Message::new("1/2/3/4/5/6/7/8/9", "");
    assert!(matches!(
        harness.try_publish(deep).unwrap_err(),
        PublishError::Topic(crate::TopicError::TooDeep { .. })
    ));
}

#[test]
fn not_authorized_names_the_topics_used_last() {
    let mut harness = Harness::online(config());
    let _receipts = [harness.publish("first"), harness.publish("second")];
    harness.actions();
    harness.event(disconnected(0x87));
    let cause = harness.cause();
    let Cause::NotPermitted { topics, .. } = &cause else {
        panic!("{cause:?}");
    };
    assert_eq!(topics, &["status", "t"]);
    assert!(cause.is_topic_refusal());
    let text = cause.to_string();
    for part in ["does not permit this device", "status, t", "policy", "0x87"] {
        assert!(text.contains(part), "{text}");
    }

    // A DISCONNECT with another reason is not about a topic.
    let mut harness = Harness::online(config());
    harness.event(disconnected(0x82));
    assert!(matches!(harness.cause(), Cause::Disconnected { .. }));
}

#[test]
fn not_authorized_instead_of_suback_names_the_filters() {
    let mut harness = Harness::new(config());
    harness.event(ConnectionEvent::Connected(capabilities()));
    harness.event(disconnected(0x87));
    let cause = harness.cause();
    let Cause::NotPermitted { topics, .. } = &cause else {
        panic!("{cause:?}");
    };
    assert_eq!(topics.len(), config().subscriptions.len());
    assert!(topics.contains(&"b/#".to_owned()), "{topics:?}");
    assert_eq!(cause.retry(), crate::core::backoff::Retry::Persistent);
}
