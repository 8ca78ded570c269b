//! Shutdown of a session.

use std::time::Duration;

use super::*;

#[test]
fn stop_flushes_sends_goodbye_and_disconnects() {
    let mut harness = Harness::online(config());
    let mut receipt = harness.publish("1");
    harness.core.stop(harness.now + 10 * SECOND, harness.now);
    assert_eq!(harness.actions(), ["publish 1", "stopping"]);
    assert_eq!(
        harness.try_publish(Message::new("t", "2")).unwrap_err(),
        PublishError::Stopped
    );
    harness.event(ConnectionEvent::Written(2));
    assert_eq!(harness.actions(), [""; 0]);
    harness.event(ConnectionEvent::Acknowledged(2, ReasonCode::SUCCESS));
    assert_eq!(harness.actions(), ["publish OFFLINE"]);
    assert_eq!(outcome(&mut receipt), Some(Ok(Ack::Acknowledged)));
    harness.event(ConnectionEvent::Written(0));
    assert_eq!(harness.actions(), ["disconnect"]);
    harness.event(ConnectionEvent::Disconnected);
    assert_eq!(harness.actions(), ["close", "disconnect hooks"]);
    harness.core.handle_hooks_finished(harness.now);
    assert_eq!(harness.actions(), ["event stopped", "end"]);
    assert_eq!(
        harness.core.report(),
        StopReport {
            clean: true,
            undelivered: 0,
            stored: 0,
        }
    );
}

#[test]
fn stop_keeps_deadline_with_unresponsive_server() {
    let mut harness = Harness::online(config());
    let mut receipt = harness.publish("1");
    harness.event(ConnectionEvent::Written(2));
    harness.core.stop(harness.now + 8 * SECOND, harness.now);
    harness.actions();
    assert_eq!(harness.wait_until_due(), 6 * SECOND);
    assert_eq!(
        harness.actions(),
        ["publish OFFLINE"],
        "the goodbye's share of the time is kept"
    );
    assert_eq!(harness.wait_until_due(), 2 * SECOND);
    assert_eq!(harness.actions(), ["close", "event stopped", "end"]);
    assert_eq!(outcome(&mut receipt), Some(Err(DeliveryError::Stopped)));
    assert_eq!(
        harness.core.report(),
        StopReport {
            clean: false,
            undelivered: 1,
            stored: 0,
        }
    );
}

#[test]
fn stop_does_not_wait_for_withdrawn_message() {
    let mut config = config();
    config.limits.publishes_per_second = Some(10);
    let mut harness = Harness::online(config);
    let (sender, _answer) = oneshot::channel();
    let request = Message::new("req", "?");
    let (id, _receipt) = harness
        .core
        .request(request, "a/res".into(), sender, harness.now)
        .unwrap();
    // The birth message has used the budget of the pacer.
    assert_eq!(harness.actions(), [""; 0]);
    harness.core.stop(harness.now + 8 * SECOND, harness.now);
    assert_eq!(harness.actions(), ["stopping"]);
    harness.core.cancel_request(id, harness.now);
    assert_eq!(harness.actions(), ["publish OFFLINE"]);
}

#[test]
fn goodbye_ignores_full_receive_maximum() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let mut config = config();
        config.limits.in_flight = 1;
        config.goodbye = Some(Message::new("status", "OFFLINE").qos(qos));
        let mut harness = Harness::online(config);
        let _receipt = harness.publish("1");
        harness.event(ConnectionEvent::Written(1));
        harness.core.stop(harness.now + 8 * SECOND, harness.now);
        assert_eq!(harness.actions(), ["publish 1", "stopping"]);
        assert_eq!(harness.wait_until_due(), 6 * SECOND);
        assert_eq!(harness.actions(), ["publish OFFLINE"]);
        harness.event(ConnectionEvent::Written(0));
        assert_eq!(harness.actions(), ["disconnect"]);
        harness.event(ConnectionEvent::Disconnected);
        assert!(harness.core.report().clean);
    }
}

#[test]
fn stop_while_waiting_or_connecting_ends_at_once() {
    for lose in [false, true] {
        let mut harness = Harness::new(config());
        let mut receipt = harness.publish("1");
        if lose {
            harness.event(ConnectionEvent::Lost(Cause::Refused));
        }
        harness.actions();
        harness.core.stop(harness.now + 10 * SECOND, harness.now);
        assert_eq!(harness.actions(), ["close", "event stopped", "end"]);
        assert_eq!(outcome(&mut receipt), Some(Err(DeliveryError::Stopped)));
        // A second call adds nothing.
        harness.core.stop(harness.now, harness.now);
        assert_eq!(harness.actions(), [""; 0]);
    }
}

#[test]
fn stop_before_birth_message_sends_no_goodbye() {
    let mut harness = Harness::new(config());
    harness.event(ConnectionEvent::Connected(capabilities()));
    harness.actions();
    harness.core.stop(harness.now + 10 * SECOND, harness.now);
    assert_eq!(harness.actions(), ["stopping", "disconnect"]);
    // The response that was outstanding changes nothing.
    harness.event(subscribed(1, &[1, 1]));
    harness.event(ConnectionEvent::Disconnected);
    assert_eq!(harness.actions(), ["close", "event stopped", "end"]);
}

#[test]
fn second_stop_can_only_shorten_deadline() {
    let mut harness = Harness::online(config());
    let _receipt = harness.publish("1");
    harness.core.stop(harness.now + 60 * SECOND, harness.now);
    harness.core.stop(harness.now + 90 * SECOND, harness.now);
    harness.core.stop(harness.now + 4 * SECOND, harness.now);
    harness.actions();
    // The shorter time includes the goodbye message, too.
    assert_eq!(harness.wait_until_due(), 3 * SECOND);
    assert_eq!(harness.actions(), ["publish OFFLINE"]);
    harness.core.stop(harness.now, harness.now);
    assert_eq!(harness.wait_until_due(), Duration::ZERO);
    assert_eq!(harness.actions(), ["close", "event stopped", "end"]);
}
