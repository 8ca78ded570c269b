//! Messages that the server answers with DISCONNECT.

use super::*;

fn disconnected(code: u8) -> LinkEvent {
    LinkEvent::Lost(Cause::Disconnected {
        reason: ReasonCode(code),
        message: None,
    })
}

/// Ends the connection, makes another one and returns what is published on it.
fn next_connection(bench: &mut Bench, end: LinkEvent) -> Vec<String> {
    bench.event(end);
    bench.core.hooks_finished(bench.now);
    bench.wait_until_due();
    bench.actions();
    bench.connect();
    published(bench)
}

/// Acknowledges the birth message, which has packet id 2 while something is suspected, and returns what is published then.
fn born(bench: &mut Bench) -> Vec<String> {
    bench.event(LinkEvent::Written(2));
    bench.event(LinkEvent::Acknowledged(2, ReasonCode::SUCCESS));
    published(bench)
}

fn published(bench: &mut Bench) -> Vec<String> {
    let actions = bench.actions().into_iter();
    actions.filter(|word| word.starts_with("publish")).collect()
}

#[test]
fn a_message_that_ends_three_connections_is_given_up() {
    for code in [0x81, 0x82, 0x87, 0x90, 0x95, 0x99, 0x9A, 0x9B] {
        let mut bench = Bench::online(config());
        let (mut bad, mut good) = (bench.publish("bad"), bench.publish("good"));
        assert_eq!(published(&mut bench), ["publish bad", "publish good"]);
        bench.event(LinkEvent::Written(2));
        bench.event(LinkEvent::Written(3));
        for _ in 0..2 {
            assert_eq!(
                next_connection(&mut bench, disconnected(code)),
                ["publish ONLINE"]
            );
            assert_eq!(
                born(&mut bench),
                ["publish bad"],
                "alone, as it is suspected"
            );
            bench.event(LinkEvent::Written(3));
            assert_eq!(outcome(&mut bad), None);
        }
        assert_eq!(
            next_connection(&mut bench, disconnected(code)),
            ["publish ONLINE", "publish good"]
        );
        let refused = DeliveryError::Refused(ReasonCode(code));
        assert_eq!(outcome(&mut bad), Some(Err(refused)));
        bench.event(LinkEvent::Written(2));
        bench.event(LinkEvent::Acknowledged(2, ReasonCode::SUCCESS));
        assert_eq!(outcome(&mut good), Some(Ok(Ack::Acknowledged)));
    }
}

#[test]
fn other_ends_convict_nobody() {
    for end in [
        || disconnected(0x8B),
        || disconnected(0x8E),
        || disconnected(0x97),
        || LinkEvent::Lost(Cause::KeepAlive),
        || LinkEvent::Lost(Cause::AcknowledgeTimeout),
        || LinkEvent::Lost(Cause::Closed { soon: false }),
    ] {
        let mut bench = Bench::online(config());
        let mut receipt = bench.publish("1");
        let _other = bench.publish("2");
        bench.actions();
        for _ in 0..5 {
            bench.event(LinkEvent::Written(2));
            assert_eq!(
                next_connection(&mut bench, end()),
                ["publish ONLINE", "publish 1", "publish 2"]
            );
        }
        assert_eq!(outcome(&mut receipt), None);
    }
}

#[test]
fn an_innocent_message_is_cleared_by_its_acknowledgement() {
    let mut bench = Bench::online(config());
    let mut first = bench.publish("first");
    let (mut bad, _last) = (bench.publish("bad"), bench.publish("last"));
    for id in 2..=4 {
        bench.event(LinkEvent::Written(id));
    }
    // The first one's acknowledgement was on its way.
    assert_eq!(
        next_connection(&mut bench, disconnected(0x90)),
        ["publish ONLINE"]
    );
    assert_eq!(born(&mut bench), ["publish first"]);
    bench.event(LinkEvent::Written(3));
    bench.event(LinkEvent::Acknowledged(3, ReasonCode::SUCCESS));
    assert_eq!(outcome(&mut first), Some(Ok(Ack::Acknowledged)));
    assert_eq!(published(&mut bench), ["publish bad", "publish last"]);
    bench.event(LinkEvent::Written(4));
    for _ in 0..2 {
        assert_eq!(
            next_connection(&mut bench, disconnected(0x90)),
            ["publish ONLINE"]
        );
        assert_eq!(born(&mut bench), ["publish bad"]);
        bench.event(LinkEvent::Written(3));
    }
    assert_eq!(
        next_connection(&mut bench, disconnected(0x90)),
        ["publish ONLINE", "publish last"]
    );
    let refused = DeliveryError::Refused(ReasonCode(0x90));
    assert_eq!(outcome(&mut bad), Some(Err(refused)));
}

/// Connection after connection ends for it. It is not acknowledged, so that nothing else leaves.
fn birth_is_refused_for_ever(bench: &mut Bench) {
    for _ in 0..5 {
        assert_eq!(
            next_connection(bench, disconnected(0x87)),
            ["publish ONLINE"]
        );
        bench.event(LinkEvent::Written(2));
    }
}

#[test]
fn a_birth_message_that_the_server_cannot_take_costs_no_other() {
    let mut config = config();
    config.birth = Some(Message::new("status", "ONLINE"));
    let mut bench = Bench::new(config);
    let mut receipt = bench.publish("1");
    bench.connect();
    assert_eq!(published(&mut bench), ["publish ONLINE", "publish 1"]);
    bench.event(LinkEvent::Written(2));
    bench.event(LinkEvent::Written(3));
    birth_is_refused_for_ever(&mut bench);
    assert_eq!(outcome(&mut receipt), None);
}

#[test]
fn a_birth_message_at_most_once_that_the_server_cannot_take_costs_no_other() {
    let mut bench = Bench::online(config());
    let mut receipt = bench.publish("innocent");
    assert_eq!(published(&mut bench), ["publish innocent"]);
    bench.event(LinkEvent::Written(2));
    birth_is_refused_for_ever(&mut bench);
    assert_eq!(outcome(&mut receipt), None);
}

#[test]
fn a_stored_message_is_removed_when_it_is_given_up() {
    let mut bench = Bench::new(config());
    bench.core.restore(vec![Restored {
        id: 7,
        message: Message::new("t", "bad"),
        expires: None,
    }]);
    bench.connect();
    bench.event(LinkEvent::Written(2));
    for _ in 0..2 {
        next_connection(&mut bench, disconnected(0x90));
        assert_eq!(born(&mut bench), ["publish bad"]);
        bench.event(LinkEvent::Written(3));
    }
    next_connection(&mut bench, disconnected(0x90));
    bench.wait(20 * SECOND);
    let actions = bench.actions();
    assert!(actions.contains(&"store 0 1".to_owned()), "{actions:?}");
}

#[test]
fn too_deep_a_topic_is_not_accepted() {
    let mut bench = Bench::new(config());
    let deep = Message::new("1/2/3/4/5/6/7/8/9", "");
    assert!(matches!(
        bench.try_publish(deep).unwrap_err(),
        PublishError::Topic(crate::TopicError::TooDeep { .. })
    ));
}

#[test]
fn not_authorized_names_the_topics_used_last() {
    let mut bench = Bench::online(config());
    let _receipts = [bench.publish("first"), bench.publish("second")];
    bench.actions();
    bench.event(disconnected(0x87));
    let cause = bench.cause();
    let Cause::NotPermitted { topics, .. } = &cause else {
        panic!("{cause:?}");
    };
    assert_eq!(topics, &["status", "t"]);
    assert!(cause.is_topic_refusal());
    let text = cause.to_string();
    for part in ["does not permit this device", "status, t", "policy", "0x87"] {
        assert!(text.contains(part), "{text}");
    }

    // Whatever else a DISCONNECT says is no refusal of a topic.
    let mut bench = Bench::online(config());
    bench.event(disconnected(0x82));
    assert!(matches!(bench.cause(), Cause::Disconnected { .. }));
}

#[test]
fn not_authorized_instead_of_suback_names_the_filters() {
    let mut bench = Bench::new(config());
    bench.event(LinkEvent::Connected(terms()));
    bench.event(disconnected(0x87));
    let cause = bench.cause();
    let Cause::NotPermitted { topics, .. } = &cause else {
        panic!("{cause:?}");
    };
    assert_eq!(topics.len(), config().subscriptions.len());
    assert!(topics.contains(&"b/#".to_owned()), "{topics:?}");
    assert_eq!(cause.retry(), crate::backoff::Retry::Stubborn);
}
