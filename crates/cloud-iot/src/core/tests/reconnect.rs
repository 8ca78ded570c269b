//! Planned reconnection with other TLS settings.

use super::*;

/// The actions of a reconnection, from the goodbye message on.
fn renewed(harness: &mut Harness) {
    harness.now += SECOND;
    assert_eq!(harness.actions(), ["publish OFFLINE"]);
    harness.event(ConnectionEvent::Written(0));
    assert_eq!(harness.actions(), ["disconnect"]);
    harness.event(ConnectionEvent::Disconnected);
    assert_eq!(
        harness.actions(),
        ["close", "waiting 0ns", "disconnected", "disconnect hooks"]
    );
    harness.core.handle_hooks_finished(harness.now);
    assert_eq!(harness.actions(), ["connecting 1", "open"]);
    harness.connect();
}

#[test]
fn idle_connection_reconnects_without_back_off() {
    let mut harness = Harness::online(config());
    harness.core.reconnect(harness.now);
    renewed(&mut harness);
    let actions = harness.actions();
    assert!(actions.contains(&"connected".to_owned()), "{actions:?}");
    // One reconnection is enough.
    assert_eq!(harness.wait_until_due(), 30 * SECOND);
    assert_eq!(harness.actions(), ["ping"]);
}

#[test]
fn reconnect_waits_for_pending_messages_and_keeps_new_ones() {
    let mut harness = Harness::online(config());
    let mut receipt = harness.publish("1");
    let (sender, mut answer) = oneshot::channel();
    let request = Message::new("req", "?");
    let _asked = harness
        .core
        .request(request, "a/res".into(), sender, harness.now)
        .unwrap();
    harness.core.reconnect(harness.now);
    harness.event(ConnectionEvent::Written(2));
    harness.event(ConnectionEvent::Written(3));
    harness.event(ConnectionEvent::Acknowledged(2, ReasonCode::SUCCESS));
    harness.event(ConnectionEvent::Acknowledged(3, ReasonCode::SUCCESS));
    assert_eq!(outcome(&mut receipt), Some(Ok(Ack::Acknowledged)));
    assert_eq!(harness.actions(), ["publish 1", "publish ?"]);
    harness.receive(Message::new("a/res", "!"), 0, false);
    assert!(answer.try_recv().is_ok());
    assert_eq!(
        harness.core.poll_action().map(|it| summary(&it)).unwrap(),
        "deliver true"
    );
    let _late = harness.publish("2");
    renewed(&mut harness);
    assert!(harness.actions().contains(&"publish 2".to_owned()));
}

#[test]
fn reconnect_deadline_resends_pending_message() {
    let mut harness = Harness::online(config());
    let (sender, _answer) = oneshot::channel();
    let request = Message::new("req", "?").qos(crate::QoS::AtMostOnce);
    let _asked = harness
        .core
        .request(request, "a/res".into(), sender, harness.now)
        .unwrap();
    harness.event(ConnectionEvent::Written(0));
    harness.actions();
    harness.core.reconnect(harness.now);
    harness.core.reconnect(harness.now);
    assert_eq!(harness.actions(), [""; 0]);
    assert_eq!(harness.wait_until_due(), 30 * SECOND);
    assert_eq!(harness.actions(), ["ping"]);
    harness.event(ConnectionEvent::PingWritten);
    harness.event(ConnectionEvent::PingResp);
    assert_eq!(harness.wait_until_due(), 30 * SECOND);
    renewed(&mut harness);
}

#[test]
fn reconnects_only_connections_opened_before_the_request() {
    let mut harness = Harness::new(config());
    harness.core.reconnect(harness.now);
    harness.connect();
    let actions = harness.actions();
    assert_eq!(actions.last().unwrap(), "publish OFFLINE");
    assert!(actions.contains(&"online".to_owned()), "{actions:?}");

    let mut harness = Harness::new(config());
    harness.core.reconnect(harness.now);
    harness.event(ConnectionEvent::Lost(Cause::Refused));
    harness.core.reconnect(harness.now);
    harness.wait_until_due();
    harness.connect();
    let actions = harness.actions();
    assert_eq!(actions.last().unwrap(), "connected", "{actions:?}");
}

#[test]
fn reconnect_follows_at_once_after_any_end() {
    for silent in [false, true] {
        let mut harness = Harness::online(config());
        harness.now += SECOND;
        harness.core.reconnect(harness.now);
        if silent {
            assert_eq!(harness.wait_until_due(), 5 * SECOND);
        } else {
            harness.event(ConnectionEvent::Lost(Cause::Closed { soon: false }));
        }
        assert_eq!(harness.cause(), Cause::Reconnect);
        harness.core.handle_hooks_finished(harness.now);
        assert_eq!(harness.actions(), ["connecting 1", "open"]);
    }
}

#[test]
fn no_two_connects_within_a_second() {
    let mut harness = Harness::online(config());
    harness.now += SECOND / 4;
    harness.core.reconnect(harness.now);
    harness.event(ConnectionEvent::Written(0));
    harness.event(ConnectionEvent::Disconnected);
    harness.core.handle_hooks_finished(harness.now);
    let actions = harness.actions();
    assert!(actions.contains(&"waiting 750ms".to_owned()), "{actions:?}");
    assert_eq!(harness.wait_until_due(), SECOND * 3 / 4);
    assert_eq!(harness.actions(), ["connecting 1", "open"]);
}

#[test]
fn cancelled_request_does_not_delay_reconnect() {
    let mut harness = Harness::online(config());
    let (sender, _answer) = oneshot::channel();
    let request = Message::new("req", "?").qos(crate::QoS::AtMostOnce);
    let (id, _receipt) = harness
        .core
        .request(request, "a/res".into(), sender, harness.now)
        .unwrap();
    harness.event(ConnectionEvent::Written(0));
    harness.core.reconnect(harness.now);
    assert_eq!(harness.actions(), ["publish ?"]);
    harness.core.cancel_request(id, harness.now);
    renewed(&mut harness);
}

#[test]
fn stop_during_reconnect_ends_cleanly() {
    let mut harness = Harness::online(config());
    harness.core.reconnect(harness.now);
    harness.core.stop(harness.now + 10 * SECOND, harness.now);
    assert_eq!(harness.actions(), ["publish OFFLINE", "stopping"]);
    harness.event(ConnectionEvent::Written(0));
    harness.event(ConnectionEvent::Disconnected);
    harness.core.handle_hooks_finished(harness.now);
    assert_eq!(
        harness.actions(),
        [
            "disconnect",
            "close",
            "disconnect hooks",
            "event stopped",
            "end"
        ]
    );
    assert!(harness.core.report().clean);
}

#[test]
fn reconnect_credits_connected_time() {
    let mut harness = Harness::new(config());
    for _ in 0..10 {
        harness.event(ConnectionEvent::Lost(Cause::Refused));
        harness.wait_until_due();
    }
    harness.connect();
    harness.now += 30 * 86_400 * SECOND;
    harness.core.reconnect(harness.now);
    harness.event(ConnectionEvent::Written(0));
    harness.event(ConnectionEvent::Disconnected);
    harness.core.handle_hooks_finished(harness.now);
    harness.event(ConnectionEvent::Lost(Cause::Refused));
    assert_eq!(harness.wait_until_due(), 2 * SECOND);
}

#[test]
fn new_tls_settings_end_identity_back_off() {
    let refused = || Cause::Tls(crate::TlsCause::ClientCertificateRejected("x".into()));
    let mut harness = Harness::new(config());
    for _ in 0..5 {
        harness.event(ConnectionEvent::Lost(refused()));
        harness.wait_until_due();
    }
    harness.event(ConnectionEvent::Lost(refused()));
    harness.core.reconnect(harness.now);
    assert!(harness.wait_until_due() <= SECOND);
    // An unresponsive server did not refuse the settings.
    harness.event(ConnectionEvent::Lost(Cause::Refused));
    harness.core.reconnect(harness.now);
    assert!(harness.wait_until_due() > SECOND);
}
