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

fn sized(maximum_packet: u32) -> ConnectionEvent {
    ConnectionEvent::Connected(ServerCapabilities {
        maximum_packet: Some(maximum_packet),
        ..capabilities()
    })
}

/// Returns the SUBSCRIBE packets that are sent, in filters, and the refused filters.
fn subscribe_actions(harness: &mut Harness) -> (Vec<Vec<String>>, Vec<String>) {
    let (mut sent, mut refused) = (Vec::new(), Vec::new());
    while let Some(action) = harness.core.poll_action() {
        match action {
            Action::Subscribe(_, batch) => {
                sent.push(batch.iter().map(|s| s.filter.to_string()).collect());
            }
            Action::Event(SessionEvent::SubscriptionRefused { filter, reason, .. }) => {
                refused.push(format!("{filter} {reason}"));
            }
            _ => {}
        }
    }
    (sent, refused)
}

#[test]
fn subscribe_is_split_to_the_maximum_packet_size() {
    let filters = ["first/filter", "second/filter", &"x".repeat(40), "last"];
    let mut config = config();
    config.subscriptions = (filters.iter())
        .map(|filter| Subscription::new(*filter).unwrap())
        .collect();
    let mut harness = Harness::new(config.clone());
    harness.event(sized(40));
    let mut sent = Vec::new();
    let mut refused = Vec::new();
    loop {
        let (batches, without) = subscribe_actions(&mut harness);
        refused.extend(without);
        let Some(batch) = batches.into_iter().next() else {
            break;
        };
        harness.granted(&vec![1; batch.len()]);
        sent.push(batch);
    }
    assert_eq!(sent, [vec!["first/filter", "second/filter"], vec!["last"]]);
    let long = format!("{} packet too large (0x95)", "x".repeat(40));
    assert_eq!(refused, [long]);
    harness.core.handle_hooks_finished(harness.now);
    assert!(harness.actions().contains(&"online".to_owned()));

    config.subscriptions[2].required = true;
    let mut harness = Harness::new(config);
    harness.event(sized(40));
    harness.granted(&[1, 1]);
    let cause = harness.cause().to_string();
    for part in [&"x".repeat(40)[..], "0x95", "48 bytes", "at most 40"] {
        assert!(cause.contains(part), "{cause}");
    }
}

#[test]
fn refused_filter_costs_only_itself() {
    let mut config = config();
    config.session_expiry = Some(3600 * SECOND);
    let mut harness = Harness::new(config);
    harness.event(ConnectionEvent::Connected(capabilities()));
    harness.granted(&[1, 0x87]);
    let (_, refused) = subscribe_actions(&mut harness);
    assert_eq!(refused, ["b/# not authorized (0x87)"]);
    harness.core.handle_hooks_finished(harness.now);
    assert!(harness.actions().contains(&"online".to_owned()));

    // The policy may have changed, so a kept session subscribes again.
    harness.event(ConnectionEvent::Lost(Cause::KeepAlive));
    harness.core.handle_hooks_finished(harness.now);
    harness.wait_until_due();
    harness.event(ConnectionEvent::Connected(ServerCapabilities {
        session_present: true,
        ..capabilities()
    }));
    assert!(harness.actions().contains(&"subscribe 2".to_owned()));
}

#[test]
fn refused_required_filter_is_named_and_retried() {
    let mut config = config();
    config.subscriptions[1].required = true;
    let mut harness = Harness::new(config);
    harness.event(ConnectionEvent::Connected(capabilities()));
    harness.granted(&[1, 0x87]);
    let cause = harness.cause();
    assert_eq!(
        cause,
        Cause::SubscriptionRefused {
            filter: "b/#".parse().unwrap(),
            reason: ReasonCode::NOT_AUTHORIZED,
            message: Some("the server's words".into()),
        }
    );
    let text = cause.to_string();
    for part in [
        "does not permit this device",
        "b/#",
        "policy",
        "0x87",
        "words",
    ] {
        assert!(text.contains(part), "{text}");
    }
    harness.wait_until_due();
    assert_eq!(harness.actions(), ["connecting 2", "open"]);
}

#[test]
fn request_without_a_way_back_ends_at_once() {
    let mut harness = Harness::new(config());
    let request = |harness: &mut Harness, reply_topic: &str| {
        let (sender, answer) = oneshot::channel();
        let message = Message::new("req", reply_topic.to_owned());
        (harness.core)
            .request(message, reply_topic.into(), sender, harness.now)
            .map(|_| answer)
    };
    // Accepted without a connection, whose server may grant the subscription.
    let mut waiting = request(&mut harness, "b/res").unwrap();
    let mut granted = request(&mut harness, "a/res").unwrap();
    harness.event(ConnectionEvent::Connected(capabilities()));
    harness.granted(&[1, 0x87]);
    let refused = RequestError::SubscriptionRefused("b/res".into());
    assert_eq!(waiting.try_recv().unwrap(), Err(refused.clone()));
    assert!(granted.try_recv().is_err());
    harness.core.handle_hooks_finished(harness.now);
    let actions = harness.actions();
    assert!(actions.contains(&"publish a/res".to_owned()), "{actions:?}");
    assert!(
        !actions.contains(&"publish b/res".to_owned()),
        "{actions:?}"
    );
    assert_eq!(request(&mut harness, "b/res").unwrap_err(), refused);

    // The next connection's server may grant it.
    harness.event(ConnectionEvent::Lost(Cause::KeepAlive));
    request(&mut harness, "b/res").unwrap();
}

#[test]
fn suback_of_other_length_is_rejected() {
    let mut harness = Harness::new(config());
    harness.event(ConnectionEvent::Connected(capabilities()));
    harness.granted(&[1]);
    assert!(matches!(harness.cause(), Cause::Protocol(_)));
}

/// Codes beyond the standard are classed by their range.
#[test]
fn unknown_codes_of_a_suback() {
    let mut harness = Harness::new(config());
    harness.event(ConnectionEvent::Connected(capabilities()));
    harness.granted(&[0x42, 0xA3]);
    let (_, refused) = subscribe_actions(&mut harness);
    assert_eq!(refused, ["b/# unknown failure (0xA3)"]);
}

#[test]
fn acknowledgements_of_nothing_are_ignored() {
    let mut harness = Harness::new(config());
    harness.event(ConnectionEvent::Connected(capabilities()));
    harness.event(subscribed(2, &[1, 1]));
    harness.granted(&[1, 1]);
    harness.core.handle_hooks_finished(harness.now);
    harness.actions();
    let mut receipt = harness.publish("1");
    harness.event(ConnectionEvent::Written(0));
    harness.event(ConnectionEvent::Written(2));
    for packet_id in [0, 7, 2, 2] {
        harness.event(ConnectionEvent::Acknowledged(
            packet_id,
            ReasonCode::SUCCESS,
        ));
    }
    assert_eq!(outcome(&mut receipt), Some(Ok(Ack::Acknowledged)));
    harness.event(subscribed(1, &[1, 1]));
    harness.event(ConnectionEvent::Unexpected(Packet::PubRel, 9));
    let mut logged = 0;
    while let Some(action) = harness.core.poll_action() {
        match action {
            Action::Log(LogRecord::UnexpectedPacket { .. }) => logged += 1,
            Action::Publish(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(logged, 5);
    assert!(matches!(harness.core.phase, Phase::Online { .. }));
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
        harness.core.handle_hooks_finished(harness.now);
        assert!(harness.actions().contains(&"connected".to_owned()));
        harness.event(ConnectionEvent::Lost(Cause::KeepAlive));
        harness.core.handle_hooks_finished(harness.now);
        harness.wait_until_due();
    }
}

#[test]
fn refused_connection_reports_no_downgrade() {
    let mut config = config();
    config.subscriptions[1].required = true;
    let mut harness = Harness::new(config);
    harness.event(ConnectionEvent::Connected(capabilities()));
    harness.granted(&[0, 0x87]);
    assert_eq!(downgraded(&mut harness), Vec::<String>::new());
}
