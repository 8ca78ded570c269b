//! What is asked for, and what the server makes of it.

use super::*;

#[test]
fn at_most_eight_filters_in_a_subscribe() {
    let mut config = config();
    config.subscriptions = (0..19)
        .map(|n| Subscription::new(format!("f/{n}")).unwrap())
        .collect();
    let mut bench = Bench::new(config);
    bench.actions();
    bench.event(LinkEvent::Connected(terms()));
    for count in [8, 8, 3] {
        assert_eq!(bench.actions(), [format!("subscribe {count}")]);
        bench.granted(&vec![1; count]);
    }
    assert_eq!(bench.actions(), ["connect hooks"]);
}

#[test]
fn a_refused_filter_is_named_and_tried_again() {
    let mut bench = Bench::new(config());
    bench.event(LinkEvent::Connected(terms()));
    bench.granted(&[1, 0x87]);
    let cause = bench.cause();
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
    bench.wait_until_due();
    assert_eq!(bench.actions(), ["connecting 2", "open"]);
}

#[test]
fn a_suback_of_another_length_is_not_taken() {
    let mut bench = Bench::new(config());
    bench.event(LinkEvent::Connected(terms()));
    bench.granted(&[1]);
    assert!(matches!(bench.cause(), Cause::Protocol(_)));
}

#[test]
fn a_suback_to_something_else_is_not_taken() {
    let mut bench = Bench::new(config());
    bench.event(LinkEvent::Connected(terms()));
    let codes = vec![ReasonCode(1), ReasonCode(1)];
    bench.event(LinkEvent::Subscribed(2, codes));
    assert!(matches!(bench.cause(), Cause::Protocol(_)));
}

/// The filters of which it is told that they were granted at QoS 0.
fn downgraded(bench: &mut Bench) -> Vec<String> {
    let actions = std::iter::from_fn(|| bench.core.poll_action());
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
    let mut bench = Bench::new(config);
    for _ in 0..2 {
        bench.event(LinkEvent::Connected(terms()));
        bench.granted(&[1, 0, 0]);
        assert_eq!(downgraded(&mut bench), ["less"]);
        bench.core.hooks_finished(bench.now);
        assert!(bench.actions().contains(&"connected".to_owned()));
        bench.event(LinkEvent::Lost(Cause::KeepAlive));
        bench.core.hooks_finished(bench.now);
        bench.wait_until_due();
    }
}

#[test]
fn one_that_is_refused_is_told_and_nothing_else() {
    let mut bench = Bench::new(config());
    bench.event(LinkEvent::Connected(terms()));
    bench.granted(&[0, 0x87]);
    assert_eq!(downgraded(&mut bench), Vec::<String>::new());
}
