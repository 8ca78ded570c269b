//! Sessions that the server keeps, and acknowledgements that wait for handlers.

use super::*;
use crate::session::config::Acknowledge;

fn persistent() -> SessionConfig {
    let mut config = config();
    config.session_expiry = Some(3600 * SECOND);
    config.acknowledge = Acknowledge::AfterHandlers;
    config.limits.incoming_in_flight = 3;
    config
}

fn present(session_present: bool) -> ConnectionEvent {
    ConnectionEvent::Connected(ServerCapabilities {
        session_present,
        ..capabilities()
    })
}

/// Loses the connection and waits until the next one is being made.
fn reconnect(harness: &mut Harness) {
    harness.event(ConnectionEvent::Lost(Cause::KeepAlive));
    harness.core.hooks_finished(harness.now);
    harness.wait_until_due();
    harness.actions();
}

#[test]
fn subscribed_once_as_long_as_the_server_has_the_session() {
    let mut harness = Harness::new(persistent());
    harness.actions();
    // Kept from another life of the device, which may have wanted other topics.
    harness.event(present(true));
    assert_eq!(harness.actions(), ["subscribe 2"]);
    harness.granted(&[1, 1]);
    harness.core.hooks_finished(harness.now);
    reconnect(&mut harness);
    harness.event(present(true));
    assert_eq!(harness.actions(), ["connect hooks"]);
    harness.core.hooks_finished(harness.now);
    reconnect(&mut harness);
    harness.event(present(false));
    assert_eq!(harness.actions(), ["subscribe 2"]);
    // Lost before they were granted.
    harness.event(ConnectionEvent::Lost(Cause::KeepAlive));
    harness.wait_until_due();
    harness.actions();
    harness.event(present(true));
    assert_eq!(harness.actions(), ["subscribe 2"]);
}

#[test]
fn sent_again_under_the_old_packet_id_while_the_server_has_the_session() {
    let mut config = persistent();
    config.birth = None;
    config.limits.in_flight = 2;
    let mut harness = Harness::online(config);
    let mut receipts: Vec<_> = ["a", "b", "c"].map(|text| harness.publish(text)).into();
    assert_eq!(harness.actions(), ["publish a", "publish b"]);
    // The SUBSCRIBE had the first of two ids. The second message was not written: the server cannot have it.
    harness.event(ConnectionEvent::Written(2));
    reconnect(&mut harness);
    harness.event(present(true));
    harness.core.hooks_finished(harness.now);
    let sent = |harness: &mut Harness| -> Vec<String> {
        let mut actions = harness.actions();
        actions.retain(|action| action.starts_with("publish"));
        actions
    };
    assert_eq!(sent(&mut harness), ["publish a again as 2", "publish b"]);
    harness.event(ConnectionEvent::Written(2));
    harness.event(ConnectionEvent::Written(1));
    // Twice in a row.
    reconnect(&mut harness);
    harness.event(present(true));
    harness.core.hooks_finished(harness.now);
    assert_eq!(
        sent(&mut harness),
        ["publish a again as 2", "publish b again as 1"]
    );
    harness.event(ConnectionEvent::Written(2));
    harness.event(ConnectionEvent::Acknowledged(2, ReasonCode(0)));
    assert!(outcome(&mut receipts[0]).unwrap().is_ok());
    assert_eq!(sent(&mut harness), ["publish c"]);
    // A session that is gone has none of it.
    reconnect(&mut harness);
    harness.event(present(false));
    harness.granted(&[1, 1]);
    harness.core.hooks_finished(harness.now);
    assert_eq!(sent(&mut harness), ["publish b", "publish c"]);
}

#[test]
fn a_clean_start_always_subscribes() {
    let mut harness = Harness::online(config());
    reconnect(&mut harness);
    harness.event(present(true));
    assert_eq!(harness.actions(), ["subscribe 2"]);
}

#[test]
fn acknowledged_when_handled_and_not_delivered_twice() {
    let mut harness = Harness::online(persistent());
    let message = |text: &'static str| Message::new("a/x", text);
    harness.receive(message("1"), 11, false);
    harness.receive(message("2"), 12, false);
    harness.receive(message("0").qos(crate::QoS::AtMostOnce), 0, false);
    assert_eq!(harness.actions(), ["deliver false"; 3]);
    harness.core.handled(2, harness.now);
    assert_eq!(harness.actions(), [""; 0], "the first one comes first");
    reconnect(&mut harness);
    harness.event(present(true));
    // While it connects already.
    harness.receive(message("1"), 11, true);
    harness.receive(message("2"), 12, true);
    harness.core.hooks_finished(harness.now);
    let done = harness.actions();
    assert!(!done.contains(&"deliver false".to_owned()), "{done:?}");
    harness.core.handled(1, harness.now);
    assert_eq!(harness.actions(), ["acknowledge 11", "acknowledge 12"]);
}

#[test]
fn what_is_for_nobody_is_acknowledged_in_its_turn() {
    let nameless = |packet_id, duplicate| ConnectionEvent::MissingTopic {
        packet_id,
        duplicate,
    };
    let mut harness = Harness::online(persistent());
    harness.event(nameless(10, false));
    assert_eq!(harness.actions(), ["acknowledge 10"]);
    harness.receive(Message::new("a/x", "1"), 11, false);
    harness.event(nameless(12, false));
    assert_eq!(
        harness.actions(),
        ["deliver false"],
        "the first comes first"
    );
    reconnect(&mut harness);
    harness.event(present(true));
    harness.receive(Message::new("a/x", "1"), 11, true);
    harness.event(nameless(12, true));
    harness.core.hooks_finished(harness.now);
    harness.actions();
    harness.core.handled(2, harness.now);
    assert_eq!(harness.actions(), ["acknowledge 11", "acknowledge 12"]);
}

#[test]
fn a_server_that_passes_the_receive_maximum_by_far_is_left() {
    let mut harness = Harness::online(persistent());
    for id in 1..=1000 {
        harness.receive(Message::new("a/x", ""), id, false);
    }
    let done = harness.actions();
    assert!(done.iter().all(|action| action == "deliver false"));
    harness.receive(Message::new("a/x", ""), 1001, false);
    assert!(matches!(harness.cause(), Cause::Protocol(_)));
}

#[test]
fn a_stop_lets_the_handlers_finish() {
    let mut harness = Harness::online(persistent());
    harness.receive(Message::new("a/x", "1"), 11, false);
    harness.actions();
    harness.core.stop(harness.now + 8 * SECOND, harness.now);
    assert_eq!(harness.actions(), ["stopping"]);
    harness.core.handled(1, harness.now);
    assert_eq!(harness.actions(), ["acknowledge 11", "publish OFFLINE"]);

    // But not for ever.
    let mut harness = Harness::online(persistent());
    harness.receive(Message::new("a/x", "1"), 11, false);
    harness.core.stop(harness.now + 8 * SECOND, harness.now);
    harness.actions();
    assert_eq!(harness.wait_until_due(), 6 * SECOND);
    assert_eq!(harness.actions(), ["publish OFFLINE"]);
}

#[test]
fn what_comes_behind_the_end_of_a_connection_is_left_to_the_next_one() {
    let mut harness = Harness::online(persistent());
    // Both in one read.
    harness.event(ConnectionEvent::Acknowledged(77, ReasonCode::SUCCESS));
    harness.receive(Message::new("a/x", "1"), 11, false);
    harness.core.hooks_finished(harness.now);
    harness.wait_until_due();
    let done = harness.actions();
    assert!(!done.contains(&"deliver false".to_owned()), "{done:?}");
    harness.event(present(true));
    harness.receive(Message::new("a/x", "1"), 11, true);
    assert!(harness.actions().contains(&"deliver false".to_owned()));
}

#[test]
fn nothing_is_acknowledged_behind_a_disconnect() {
    let mut harness = Harness::online(persistent());
    harness.receive(Message::new("a/x", "1"), 11, false);
    harness.actions();
    harness.core.reconnect(harness.now);
    while !matches!(harness.core.phase, Phase::Reconnecting { .. }) {
        harness.wait_until_due();
        harness.event(ConnectionEvent::PingWritten);
        harness.event(ConnectionEvent::PingResp);
    }
    harness.event(ConnectionEvent::Written(0));
    assert_eq!(harness.actions().last().unwrap(), "disconnect");
    harness.core.handled(1, harness.now);
    assert_eq!(harness.actions(), [""; 0]);
    harness.event(ConnectionEvent::Disconnected);
    harness.core.hooks_finished(harness.now);
    assert_eq!(harness.actions().last().unwrap(), "open");
    // It comes again, and is known.
    harness.event(present(true));
    harness.receive(Message::new("a/x", "1"), 11, true);
    let done = harness.actions();
    assert!(!done.contains(&"deliver false".to_owned()), "{done:?}");
    assert!(done.contains(&"acknowledge 11".to_owned()), "{done:?}");
}
