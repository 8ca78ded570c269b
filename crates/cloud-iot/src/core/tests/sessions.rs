//! Sessions that the server keeps, and acknowledgements that wait for handlers.

use super::*;
use crate::config::Acknowledge;

fn persistent() -> SessionConfig {
    let mut config = config();
    config.session_expiry = Some(3600 * SECOND);
    config.acknowledge = Acknowledge::AfterHandlers;
    config.limits.incoming_in_flight = 3;
    config
}

fn present(session_present: bool) -> LinkEvent {
    LinkEvent::Connected(ServerTerms {
        session_present,
        ..terms()
    })
}

/// Loses the connection and waits until the next one is being made.
fn reconnect(bench: &mut Bench) {
    bench.event(LinkEvent::Lost(Cause::KeepAlive));
    bench.core.hooks_finished(bench.now);
    bench.wait_until_due();
    bench.actions();
}

#[test]
fn subscribed_once_as_long_as_the_server_has_the_session() {
    let mut bench = Bench::new(persistent());
    bench.actions();
    // Kept from another life of the device, which may have wanted other topics.
    bench.event(present(true));
    assert_eq!(bench.actions(), ["subscribe 2"]);
    bench.granted(&[1, 1]);
    bench.core.hooks_finished(bench.now);
    reconnect(&mut bench);
    bench.event(present(true));
    assert_eq!(bench.actions(), ["connect hooks"]);
    bench.core.hooks_finished(bench.now);
    reconnect(&mut bench);
    bench.event(present(false));
    assert_eq!(bench.actions(), ["subscribe 2"]);
    // Lost before they were granted.
    bench.event(LinkEvent::Lost(Cause::KeepAlive));
    bench.wait_until_due();
    bench.actions();
    bench.event(present(true));
    assert_eq!(bench.actions(), ["subscribe 2"]);
}

#[test]
fn sent_again_under_the_old_packet_id_while_the_server_has_the_session() {
    let mut config = persistent();
    config.birth = None;
    config.limits.in_flight = 2;
    let mut bench = Bench::online(config);
    let mut receipts: Vec<_> = ["a", "b", "c"].map(|text| bench.publish(text)).into();
    assert_eq!(bench.actions(), ["publish a", "publish b"]);
    // The SUBSCRIBE had the first of two ids. The second message was not written: the server cannot have it.
    bench.event(LinkEvent::Written(2));
    reconnect(&mut bench);
    bench.event(present(true));
    bench.core.hooks_finished(bench.now);
    let sent = |bench: &mut Bench| -> Vec<String> {
        let mut actions = bench.actions();
        actions.retain(|action| action.starts_with("publish"));
        actions
    };
    assert_eq!(sent(&mut bench), ["publish a again as 2", "publish b"]);
    bench.event(LinkEvent::Written(2));
    bench.event(LinkEvent::Written(1));
    // Twice in a row.
    reconnect(&mut bench);
    bench.event(present(true));
    bench.core.hooks_finished(bench.now);
    assert_eq!(
        sent(&mut bench),
        ["publish a again as 2", "publish b again as 1"]
    );
    bench.event(LinkEvent::Written(2));
    bench.event(LinkEvent::Acknowledged(2, ReasonCode(0)));
    assert!(outcome(&mut receipts[0]).unwrap().is_ok());
    assert_eq!(sent(&mut bench), ["publish c"]);
    // A session that is gone has none of it.
    reconnect(&mut bench);
    bench.event(present(false));
    bench.granted(&[1, 1]);
    bench.core.hooks_finished(bench.now);
    assert_eq!(sent(&mut bench), ["publish b", "publish c"]);
}

#[test]
fn a_clean_start_always_subscribes() {
    let mut bench = Bench::online(config());
    reconnect(&mut bench);
    bench.event(present(true));
    assert_eq!(bench.actions(), ["subscribe 2"]);
}

#[test]
fn acknowledged_when_handled_and_not_delivered_twice() {
    let mut bench = Bench::online(persistent());
    let message = |text: &'static str| Message::new("a/x", text);
    bench.receive(message("1"), 11, false);
    bench.receive(message("2"), 12, false);
    bench.receive(message("0").qos(crate::QoS::AtMostOnce), 0, false);
    assert_eq!(bench.actions(), ["deliver false"; 3]);
    bench.core.handled(2, bench.now);
    assert_eq!(bench.actions(), [""; 0], "the first one comes first");
    reconnect(&mut bench);
    bench.event(present(true));
    // While it connects already.
    bench.receive(message("1"), 11, true);
    bench.receive(message("2"), 12, true);
    bench.core.hooks_finished(bench.now);
    let done = bench.actions();
    assert!(!done.contains(&"deliver false".to_owned()), "{done:?}");
    bench.core.handled(1, bench.now);
    assert_eq!(bench.actions(), ["acknowledge 11", "acknowledge 12"]);
}

#[test]
fn what_is_for_nobody_is_acknowledged_in_its_turn() {
    let nameless = |packet_id, duplicate| LinkEvent::Nameless {
        packet_id,
        duplicate,
    };
    let mut bench = Bench::online(persistent());
    bench.event(nameless(10, false));
    assert_eq!(bench.actions(), ["acknowledge 10"]);
    bench.receive(Message::new("a/x", "1"), 11, false);
    bench.event(nameless(12, false));
    assert_eq!(bench.actions(), ["deliver false"], "the first comes first");
    reconnect(&mut bench);
    bench.event(present(true));
    bench.receive(Message::new("a/x", "1"), 11, true);
    bench.event(nameless(12, true));
    bench.core.hooks_finished(bench.now);
    bench.actions();
    bench.core.handled(2, bench.now);
    assert_eq!(bench.actions(), ["acknowledge 11", "acknowledge 12"]);
}

#[test]
fn a_server_that_passes_the_receive_maximum_by_far_is_left() {
    let mut bench = Bench::online(persistent());
    for id in 1..=1000 {
        bench.receive(Message::new("a/x", ""), id, false);
    }
    let done = bench.actions();
    assert!(done.iter().all(|action| action == "deliver false"));
    bench.receive(Message::new("a/x", ""), 1001, false);
    assert!(matches!(bench.cause(), Cause::Protocol(_)));
}

#[test]
fn a_stop_lets_the_handlers_finish() {
    let mut bench = Bench::online(persistent());
    bench.receive(Message::new("a/x", "1"), 11, false);
    bench.actions();
    bench.core.stop(bench.now + 8 * SECOND, bench.now);
    assert_eq!(bench.actions(), ["stopping"]);
    bench.core.handled(1, bench.now);
    assert_eq!(bench.actions(), ["acknowledge 11", "publish OFFLINE"]);

    // But not for ever.
    let mut bench = Bench::online(persistent());
    bench.receive(Message::new("a/x", "1"), 11, false);
    bench.core.stop(bench.now + 8 * SECOND, bench.now);
    bench.actions();
    assert_eq!(bench.wait_until_due(), 6 * SECOND);
    assert_eq!(bench.actions(), ["publish OFFLINE"]);
}

#[test]
fn what_comes_behind_the_end_of_a_connection_is_left_to_the_next_one() {
    let mut bench = Bench::online(persistent());
    // Both in one read.
    bench.event(LinkEvent::Acknowledged(77, ReasonCode::SUCCESS));
    bench.receive(Message::new("a/x", "1"), 11, false);
    bench.core.hooks_finished(bench.now);
    bench.wait_until_due();
    let done = bench.actions();
    assert!(!done.contains(&"deliver false".to_owned()), "{done:?}");
    bench.event(present(true));
    bench.receive(Message::new("a/x", "1"), 11, true);
    assert!(bench.actions().contains(&"deliver false".to_owned()));
}

#[test]
fn nothing_is_acknowledged_behind_a_disconnect() {
    let mut bench = Bench::online(persistent());
    bench.receive(Message::new("a/x", "1"), 11, false);
    bench.actions();
    bench.core.renew(bench.now);
    while !matches!(bench.core.phase, Phase::Renewing { .. }) {
        bench.wait_until_due();
        bench.event(LinkEvent::Pinged);
        bench.event(LinkEvent::Ponged);
    }
    bench.event(LinkEvent::Written(0));
    assert_eq!(bench.actions().last().unwrap(), "disconnect");
    bench.core.handled(1, bench.now);
    assert_eq!(bench.actions(), [""; 0]);
    bench.event(LinkEvent::Disconnected);
    bench.core.hooks_finished(bench.now);
    assert_eq!(bench.actions().last().unwrap(), "open");
    // It comes again, and is known.
    bench.event(present(true));
    bench.receive(Message::new("a/x", "1"), 11, true);
    let done = bench.actions();
    assert!(!done.contains(&"deliver false".to_owned()), "{done:?}");
    assert!(done.contains(&"acknowledge 11".to_owned()), "{done:?}");
}
