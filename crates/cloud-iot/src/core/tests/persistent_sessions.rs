//! Persistent sessions, and acknowledgements after the handlers.

use std::time::Duration;

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

/// Drops the connection and waits for the next attempt.
fn reconnect(harness: &mut Harness) {
    harness.event(ConnectionEvent::Lost(Cause::KeepAlive));
    harness.core.handle_hooks_finished(harness.now);
    harness.wait_until_due();
    harness.actions();
}

#[test]
fn kept_session_subscribes_once() {
    let mut harness = Harness::new(persistent());
    harness.actions();
    // A session of an earlier process, possibly with other subscriptions.
    harness.event(present(true));
    assert_eq!(harness.actions(), ["subscribe 2"]);
    harness.granted(&[1, 1]);
    harness.core.handle_hooks_finished(harness.now);
    reconnect(&mut harness);
    harness.event(present(true));
    assert_eq!(harness.actions(), ["connect hooks"]);
    harness.core.handle_hooks_finished(harness.now);
    reconnect(&mut harness);
    harness.event(present(false));
    assert_eq!(harness.actions(), ["subscribe 2"]);
    // Lost before the subscriptions were granted.
    harness.event(ConnectionEvent::Lost(Cause::KeepAlive));
    harness.wait_until_due();
    harness.actions();
    harness.event(present(true));
    assert_eq!(harness.actions(), ["subscribe 2"]);
}

#[test]
fn planned_reconnection_keeps_delayed_will() {
    for (will_delay, expected) in [
        (None, &["publish OFFLINE", "disconnect"][..]),
        (Some(60 * SECOND), &["disconnect with will"]),
    ] {
        let mut config = persistent();
        config.will = Some(Message::new("status", "LOST"));
        config.goodbye = Some(Message::new("status", "OFFLINE").qos(QoS::AtMostOnce));
        config.will_delay = will_delay;
        assert_eq!(config.validate(), Ok(()));
        let mut harness = Harness::online(config);
        harness.actions();
        harness.core.reconnect(harness.now);
        let mut done = harness.actions();
        if will_delay.is_none() {
            harness.event(ConnectionEvent::Written(0));
            done.extend(harness.actions());
        }
        assert_eq!(done, expected);
        harness.event(ConnectionEvent::Disconnected);
        assert!(matches!(harness.core.phase, Phase::Waiting { .. }));
    }
}

#[test]
fn will_delay_needs_session_expiry_of_at_least_its_length() {
    for (delay, expiry, valid) in [
        (Some(30), None, false),
        (Some(30), Some(29), false),
        (Some(30), Some(30), true),
        (Some(0), Some(30), false),
        (None, Some(30), true),
    ] {
        let mut config = config();
        config.will_delay = delay.map(Duration::from_secs);
        config.session_expiry = expiry.map(Duration::from_secs);
        let result = config.validate();
        assert_eq!(result.is_ok(), valid, "{delay:?} {expiry:?}: {result:?}");
    }
}

#[test]
fn resends_under_same_packet_id_in_a_kept_session() {
    let mut config = persistent();
    config.birth = None;
    config.limits.in_flight = 2;
    let mut harness = Harness::online(config);
    let mut receipts: Vec<_> = ["a", "b", "c"].map(|text| harness.publish(text)).into();
    assert_eq!(harness.actions(), ["publish a", "publish b"]);
    // The SUBSCRIBE used the first of two identifiers. The second message was not written, so the
    // server cannot have it.
    harness.event(ConnectionEvent::Written(2));
    reconnect(&mut harness);
    harness.event(present(true));
    harness.core.handle_hooks_finished(harness.now);
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
    harness.core.handle_hooks_finished(harness.now);
    assert_eq!(
        sent(&mut harness),
        ["publish a again as 2", "publish b again as 1"]
    );
    harness.event(ConnectionEvent::Written(2));
    harness.event(ConnectionEvent::Acknowledged(2, ReasonCode(0)));
    assert!(outcome(&mut receipts[0]).unwrap().is_ok());
    assert_eq!(sent(&mut harness), ["publish c"]);
    // Without the session, no packet identifier is kept.
    reconnect(&mut harness);
    harness.event(present(false));
    harness.granted(&[1, 1]);
    harness.core.handle_hooks_finished(harness.now);
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
fn acknowledges_after_handlers_without_redelivery() {
    let mut harness = Harness::online(persistent());
    let message = |text: &'static str| Message::new("a/x", text);
    harness.receive(message("1"), 11, false);
    harness.receive(message("2"), 12, false);
    harness.receive(message("0").qos(crate::QoS::AtMostOnce), 0, false);
    assert_eq!(harness.actions(), ["deliver false"; 3]);
    harness.core.handle_handlers_finished(2, harness.now);
    assert_eq!(harness.actions(), [""; 0], "in order of arrival");
    reconnect(&mut harness);
    harness.event(present(true));
    // During the next attempt.
    harness.receive(message("1"), 11, true);
    harness.receive(message("2"), 12, true);
    harness.core.handle_hooks_finished(harness.now);
    let done = harness.actions();
    assert!(!done.contains(&"deliver false".to_owned()), "{done:?}");
    harness.core.handle_handlers_finished(1, harness.now);
    assert_eq!(harness.actions(), ["acknowledge 11", "acknowledge 12"]);
}

#[test]
fn undeliverable_message_is_acknowledged_in_order() {
    let nameless = |packet_id, duplicate| ConnectionEvent::Undeliverable {
        packet_id,
        duplicate,
    };
    let mut harness = Harness::online(persistent());
    harness.event(nameless(10, false));
    assert_eq!(harness.actions(), ["acknowledge 10"]);
    harness.receive(Message::new("a/x", "1"), 11, false);
    harness.event(nameless(12, false));
    assert_eq!(harness.actions(), ["deliver false"], "in order of arrival");
    reconnect(&mut harness);
    harness.event(present(true));
    harness.receive(Message::new("a/x", "1"), 11, true);
    harness.event(nameless(12, true));
    harness.core.handle_hooks_finished(harness.now);
    harness.actions();
    harness.core.handle_handlers_finished(2, harness.now);
    assert_eq!(harness.actions(), ["acknowledge 11", "acknowledge 12"]);
}

#[test]
fn far_exceeded_receive_maximum_drops_connection() {
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
fn stop_waits_for_handlers() {
    let mut harness = Harness::online(persistent());
    harness.receive(Message::new("a/x", "1"), 11, false);
    harness.actions();
    harness.core.stop(harness.now + 8 * SECOND, harness.now);
    assert_eq!(harness.actions(), ["stopping"]);
    harness.core.handle_handlers_finished(1, harness.now);
    assert_eq!(harness.actions(), ["acknowledge 11", "publish OFFLINE"]);

    // But with a deadline.
    let mut harness = Harness::online(persistent());
    harness.receive(Message::new("a/x", "1"), 11, false);
    harness.core.stop(harness.now + 8 * SECOND, harness.now);
    harness.actions();
    assert_eq!(harness.wait_until_due(), 6 * SECOND);
    assert_eq!(harness.actions(), ["publish OFFLINE"]);
}

#[test]
fn message_after_connection_loss_is_left_to_resending() {
    let mut harness = Harness::online(persistent());
    // Both in one read.
    harness.event(ConnectionEvent::Lost(Cause::Closed { soon: false }));
    harness.receive(Message::new("a/x", "1"), 11, false);
    harness.core.handle_hooks_finished(harness.now);
    harness.wait_until_due();
    let done = harness.actions();
    assert!(!done.contains(&"deliver false".to_owned()), "{done:?}");
    harness.event(present(true));
    harness.receive(Message::new("a/x", "1"), 11, true);
    assert!(harness.actions().contains(&"deliver false".to_owned()));
}

#[test]
fn no_acknowledgement_after_disconnect() {
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
    harness.core.handle_handlers_finished(1, harness.now);
    assert_eq!(harness.actions(), [""; 0]);
    harness.event(ConnectionEvent::Disconnected);
    harness.core.handle_hooks_finished(harness.now);
    assert_eq!(harness.actions().last().unwrap(), "open");
    // The server resends it, and it is recognized.
    harness.event(present(true));
    harness.receive(Message::new("a/x", "1"), 11, true);
    let done = harness.actions();
    assert!(!done.contains(&"deliver false".to_owned()), "{done:?}");
    assert!(done.contains(&"acknowledge 11".to_owned()), "{done:?}");
}
