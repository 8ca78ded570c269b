//! What is asked for, and what the server makes of it.

use super::*;

#[test]
fn at_most_eight_filters_in_a_subscribe() {
    let mut config = config();
    config.subscriptions = (0..19)
        .map(|n| Subscription::new(format!("f/{n}")).unwrap())
        .collect();
    let mut harness = Harness::new(config);
    harness.actions();
    harness.event(ConnectionEvent::Connected(capabilities()));
    for count in [8, 8, 3] {
        assert_eq!(harness.actions(), [format!("subscribe {count}")]);
        harness.granted(&vec![1; count]);
    }
    assert_eq!(harness.actions(), ["connect hooks"]);
}

#[test]
fn a_refused_filter_is_named_and_tried_again() {
    let mut harness = Harness::new(config());
    harness.event(ConnectionEvent::Connected(capabilities()));
    harness.granted(&[1, 0x87]);
    let cause = harness.cause();
    assert_eq!(
        cause,
        Cause::SubscriptionRefused {
            filter: "b/#".parse().unwrap(),
            reason: ReasonCode::NOT_AUTHORIZED
        }
    );
    let text = cause.to_string();
    for part in ["does not permit this device", "b/#", "policy", "0x87"] {
        assert!(text.contains(part), "{text}");
    }
    harness.wait_until_due();
    assert_eq!(harness.actions(), ["connecting 2", "open"]);
}

#[test]
fn a_suback_of_another_length_is_not_taken() {
    let mut harness = Harness::new(config());
    harness.event(ConnectionEvent::Connected(capabilities()));
    harness.granted(&[1]);
    assert!(matches!(harness.cause(), Cause::Protocol(_)));
}

#[test]
fn a_suback_to_something_else_is_not_taken() {
    let mut harness = Harness::new(config());
    harness.event(ConnectionEvent::Connected(capabilities()));
    let codes = vec![ReasonCode(1), ReasonCode(1)];
    harness.event(ConnectionEvent::Subscribed(2, codes));
    assert!(matches!(harness.cause(), Cause::Protocol(_)));
}

/// The filters of which it is told that they were granted at QoS 0.
fn downgraded(harness: &mut Harness) -> Vec<String> {
    let actions = std::iter::from_fn(|| harness.core.poll_action());
    let filters = actions.filter_map(|action| match action {
        Action::Event(SessionEvent::SubscriptionDowngraded { filter }) => Some(filter.to_string()),
        _ => None,
    });
    filters.collect()
}

#[test]
fn less_than_was_asked_for_is_told_on_each_connection_and_used() {
    let mut config = config();
    let filter = |name, qos| Subscription::new(name).unwrap().qos(qos);
    config.subscriptions = vec![
        filter("sure", QoS::AtLeastOnce),
        filter("less", QoS::AtLeastOnce),
        filter("as/asked", QoS::AtMostOnce),
    ];
    let mut harness = Harness::new(config);
    for _ in 0..2 {
        harness.event(ConnectionEvent::Connected(capabilities()));
        harness.granted(&[1, 0, 0]);
        assert_eq!(downgraded(&mut harness), ["less"]);
        harness.core.hooks_finished(harness.now);
        assert!(harness.actions().contains(&"connected".to_owned()));
        harness.event(ConnectionEvent::Lost(Cause::KeepAlive));
        harness.core.hooks_finished(harness.now);
        harness.wait_until_due();
    }
}

#[test]
fn one_that_is_refused_is_told_and_nothing_else() {
    let mut harness = Harness::new(config());
    harness.event(ConnectionEvent::Connected(capabilities()));
    harness.granted(&[0, 0x87]);
    assert_eq!(downgraded(&mut harness), Vec::<String>::new());
}
