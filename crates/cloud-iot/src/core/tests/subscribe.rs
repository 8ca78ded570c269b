//! Subscriptions and the codes of the server.

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
fn refused_filter_is_named_and_retried() {
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
fn suback_of_other_length_is_rejected() {
    let mut harness = Harness::new(config());
    harness.event(ConnectionEvent::Connected(capabilities()));
    harness.granted(&[1]);
    assert!(matches!(harness.cause(), Cause::Protocol(_)));
}

#[test]
fn suback_with_other_packet_id_is_rejected() {
    let mut harness = Harness::new(config());
    harness.event(ConnectionEvent::Connected(capabilities()));
    let codes = vec![ReasonCode(1), ReasonCode(1)];
    harness.event(ConnectionEvent::Subscribed(2, codes));
    assert!(matches!(harness.cause(), Cause::Protocol(_)));
}

/// Returns the filters that are reported as granted at QoS 0.
fn downgraded(harness: &mut Harness) -> Vec<String> {
    let actions = std::iter::from_fn(|| harness.core.poll_action());
    let filters = actions.filter_map(|action| match action {
        Action::Event(SessionEvent::SubscriptionDowngraded { filter }) => Some(filter.to_string()),
        _ => None,
    });
    filters.collect()
}

#[test]
fn downgraded_subscription_is_reported_on_each_connection() {
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
fn refused_session_message_is_only_reported() {
    let mut harness = Harness::new(config());
    harness.event(ConnectionEvent::Connected(capabilities()));
    harness.granted(&[0, 0x87]);
    assert_eq!(downgraded(&mut harness), Vec::<String>::new());
}
