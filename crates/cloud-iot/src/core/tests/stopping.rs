//! How a session ends.

use std::time::Duration;

use super::*;

#[test]
fn stop_flushes_then_says_goodbye_then_leaves() {
    let mut bench = Bench::online(config());
    let mut receipt = bench.publish("1");
    bench.core.stop(bench.now + 10 * SECOND, bench.now);
    assert_eq!(bench.actions(), ["publish 1", "stopping"]);
    assert_eq!(
        bench.try_publish(Message::new("t", "2")).unwrap_err(),
        PublishError::Stopped
    );
    bench.event(LinkEvent::Written(2));
    assert_eq!(bench.actions(), [""; 0]);
    bench.event(LinkEvent::Acknowledged(2, ReasonCode::SUCCESS));
    assert_eq!(bench.actions(), ["publish OFFLINE"]);
    assert_eq!(outcome(&mut receipt), Some(Ok(Ack::Acknowledged)));
    bench.event(LinkEvent::Written(0));
    assert_eq!(bench.actions(), ["disconnect"]);
    bench.event(LinkEvent::Disconnected);
    assert_eq!(bench.actions(), ["close", "disconnect hooks"]);
    bench.core.hooks_finished(bench.now);
    assert_eq!(bench.actions(), ["event stopped", "end"]);
    assert_eq!(
        bench.core.report(),
        StopReport {
            clean: true,
            undelivered: 0,
            kept: 0,
        }
    );
}

#[test]
fn stop_keeps_its_deadline_when_the_server_does_not_answer() {
    let mut bench = Bench::online(config());
    let mut receipt = bench.publish("1");
    bench.event(LinkEvent::Written(2));
    bench.core.stop(bench.now + 8 * SECOND, bench.now);
    bench.actions();
    assert_eq!(bench.wait_until_due(), 6 * SECOND);
    assert_eq!(
        bench.actions(),
        ["publish OFFLINE"],
        "the goodbye's share of the time is kept"
    );
    assert_eq!(bench.wait_until_due(), 2 * SECOND);
    assert_eq!(bench.actions(), ["close", "event stopped", "end"]);
    assert_eq!(outcome(&mut receipt), Some(Err(DeliveryError::Stopped)));
    assert_eq!(
        bench.core.report(),
        StopReport {
            clean: false,
            undelivered: 1,
            kept: 0,
        }
    );
}

#[test]
fn a_stop_does_not_wait_for_what_was_withdrawn() {
    let mut config = config();
    config.limits.publishes_per_second = Some(10);
    let mut bench = Bench::online(config);
    let (sender, _answer) = oneshot::channel();
    let request = Message::new("req", "?");
    let (id, _receipt) = bench
        .core
        .request(request, "a/res".into(), sender, bench.now)
        .unwrap();
    // The birth message has used the pace up.
    assert_eq!(bench.actions(), [""; 0]);
    bench.core.stop(bench.now + 8 * SECOND, bench.now);
    assert_eq!(bench.actions(), ["stopping"]);
    bench.core.forget_request(id, bench.now);
    assert_eq!(bench.actions(), ["publish OFFLINE"]);
}

#[test]
fn a_goodbye_needs_no_room_in_the_window() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let mut config = config();
        config.limits.in_flight = 1;
        config.goodbye = Some(Message::new("status", "OFFLINE").qos(qos));
        let mut bench = Bench::online(config);
        let _receipt = bench.publish("1");
        bench.event(LinkEvent::Written(1));
        bench.core.stop(bench.now + 8 * SECOND, bench.now);
        assert_eq!(bench.actions(), ["publish 1", "stopping"]);
        assert_eq!(bench.wait_until_due(), 6 * SECOND);
        assert_eq!(bench.actions(), ["publish OFFLINE"]);
        bench.event(LinkEvent::Written(0));
        assert_eq!(bench.actions(), ["disconnect"]);
        bench.event(LinkEvent::Disconnected);
        assert!(bench.core.report().clean);
    }
}

#[test]
fn stop_while_waiting_or_connecting_ends_at_once() {
    for lose in [false, true] {
        let mut bench = Bench::new(config());
        let mut receipt = bench.publish("1");
        if lose {
            bench.event(LinkEvent::Lost(Cause::Refused));
        }
        bench.actions();
        bench.core.stop(bench.now + 10 * SECOND, bench.now);
        assert_eq!(bench.actions(), ["close", "event stopped", "end"]);
        assert_eq!(outcome(&mut receipt), Some(Err(DeliveryError::Stopped)));
        // Again: nothing more.
        bench.core.stop(bench.now, bench.now);
        assert_eq!(bench.actions(), [""; 0]);
    }
}

#[test]
fn stop_before_the_birth_message_says_no_goodbye() {
    let mut bench = Bench::new(config());
    bench.event(LinkEvent::Connected(terms()));
    bench.actions();
    bench.core.stop(bench.now + 10 * SECOND, bench.now);
    assert_eq!(bench.actions(), ["stopping", "disconnect"]);
    // The answer that was on its way changes nothing.
    bench.event(LinkEvent::Subscribed(1, vec![ReasonCode(1), ReasonCode(1)]));
    bench.event(LinkEvent::Disconnected);
    assert_eq!(bench.actions(), ["close", "event stopped", "end"]);
}

#[test]
fn a_second_stop_can_only_shorten_the_first() {
    let mut bench = Bench::online(config());
    let _receipt = bench.publish("1");
    bench.core.stop(bench.now + 60 * SECOND, bench.now);
    bench.core.stop(bench.now + 90 * SECOND, bench.now);
    bench.core.stop(bench.now + 4 * SECOND, bench.now);
    bench.actions();
    // There is time for the goodbye in the shorter one, too.
    assert_eq!(bench.wait_until_due(), 3 * SECOND);
    assert_eq!(bench.actions(), ["publish OFFLINE"]);
    bench.core.stop(bench.now, bench.now);
    assert_eq!(bench.wait_until_due(), Duration::ZERO);
    assert_eq!(bench.actions(), ["close", "event stopped", "end"]);
}
