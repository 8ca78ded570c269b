//! A connection that is left for one with other TLS settings.

use super::*;

/// What leaving and coming back comes to, from the goodbye on.
fn renewed(bench: &mut Bench) {
    bench.now += SECOND;
    assert_eq!(bench.actions(), ["publish OFFLINE"]);
    bench.event(LinkEvent::Written(0));
    assert_eq!(bench.actions(), ["disconnect"]);
    bench.event(LinkEvent::Disconnected);
    assert_eq!(
        bench.actions(),
        ["close", "waiting 0ns", "disconnected", "disconnect hooks"]
    );
    bench.core.hooks_finished(bench.now);
    assert_eq!(bench.actions(), ["connecting 1", "open"]);
    bench.connect();
}

#[test]
fn an_idle_connection_is_left_at_once_and_made_anew_without_a_wait() {
    let mut bench = Bench::online(config());
    bench.core.renew(bench.now);
    renewed(&mut bench);
    let actions = bench.actions();
    assert!(actions.contains(&"connected".to_owned()), "{actions:?}");
    // Once is enough.
    assert_eq!(bench.wait_until_due(), 30 * SECOND);
    assert_eq!(bench.actions(), ["ping"]);
}

#[test]
fn what_is_under_way_is_waited_for_and_what_comes_meanwhile_is_kept() {
    let mut bench = Bench::online(config());
    let mut receipt = bench.publish("1");
    let (sender, mut answer) = oneshot::channel();
    let request = Message::new("req", "?");
    let _asked = bench
        .core
        .request(request, "a/res".into(), sender, bench.now)
        .unwrap();
    bench.core.renew(bench.now);
    bench.event(LinkEvent::Written(2));
    bench.event(LinkEvent::Written(3));
    bench.event(LinkEvent::Acknowledged(2, ReasonCode::SUCCESS));
    bench.event(LinkEvent::Acknowledged(3, ReasonCode::SUCCESS));
    assert_eq!(outcome(&mut receipt), Some(Ok(Ack::Acknowledged)));
    assert_eq!(bench.actions(), ["publish 1", "publish ?"]);
    bench.receive(Message::new("a/res", "!"), 0, false);
    assert!(answer.try_recv().is_ok());
    assert_eq!(
        bench.core.poll_action().map(|it| word(&it)).unwrap(),
        "deliver true"
    );
    let _late = bench.publish("2");
    renewed(&mut bench);
    assert!(bench.actions().contains(&"publish 2".to_owned()));
}

#[test]
fn patience_ends_after_a_minute_and_the_message_is_sent_again() {
    let mut bench = Bench::online(config());
    let (sender, _answer) = oneshot::channel();
    let request = Message::new("req", "?").qos(crate::QoS::AtMostOnce);
    let _asked = bench
        .core
        .request(request, "a/res".into(), sender, bench.now)
        .unwrap();
    bench.event(LinkEvent::Written(0));
    bench.actions();
    bench.core.renew(bench.now);
    bench.core.renew(bench.now);
    assert_eq!(bench.actions(), [""; 0]);
    assert_eq!(bench.wait_until_due(), 30 * SECOND);
    assert_eq!(bench.actions(), ["ping"]);
    bench.event(LinkEvent::Pinged);
    bench.event(LinkEvent::Ponged);
    assert_eq!(bench.wait_until_due(), 30 * SECOND);
    renewed(&mut bench);
}

#[test]
fn one_that_is_being_made_is_left_when_it_is_there_and_one_made_later_is_not() {
    let mut bench = Bench::new(config());
    bench.core.renew(bench.now);
    bench.connect();
    let actions = bench.actions();
    assert_eq!(actions.last().unwrap(), "publish OFFLINE");
    assert!(actions.contains(&"online".to_owned()), "{actions:?}");

    let mut bench = Bench::new(config());
    bench.core.renew(bench.now);
    bench.event(LinkEvent::Lost(Cause::Refused));
    bench.core.renew(bench.now);
    bench.wait_until_due();
    bench.connect();
    let actions = bench.actions();
    assert_eq!(actions.last().unwrap(), "connected", "{actions:?}");
}

#[test]
fn however_a_left_connection_ends_the_next_one_follows_at_once() {
    for silent in [false, true] {
        let mut bench = Bench::online(config());
        bench.now += SECOND;
        bench.core.renew(bench.now);
        if silent {
            assert_eq!(bench.wait_until_due(), 5 * SECOND);
        } else {
            bench.event(LinkEvent::Lost(Cause::Closed { soon: false }));
        }
        assert_eq!(bench.cause(), Cause::Renewed);
        bench.core.hooks_finished(bench.now);
        assert_eq!(bench.actions(), ["connecting 1", "open"]);
    }
}

#[test]
fn no_two_connects_within_a_second() {
    let mut bench = Bench::online(config());
    bench.now += SECOND / 4;
    bench.core.renew(bench.now);
    bench.event(LinkEvent::Written(0));
    bench.event(LinkEvent::Disconnected);
    bench.core.hooks_finished(bench.now);
    let actions = bench.actions();
    assert!(actions.contains(&"waiting 750ms".to_owned()), "{actions:?}");
    assert_eq!(bench.wait_until_due(), SECOND * 3 / 4);
    assert_eq!(bench.actions(), ["connecting 1", "open"]);
}

#[test]
fn a_request_that_is_given_up_is_no_reason_to_stay() {
    let mut bench = Bench::online(config());
    let (sender, _answer) = oneshot::channel();
    let request = Message::new("req", "?").qos(crate::QoS::AtMostOnce);
    let (id, _receipt) = bench
        .core
        .request(request, "a/res".into(), sender, bench.now)
        .unwrap();
    bench.event(LinkEvent::Written(0));
    bench.core.renew(bench.now);
    assert_eq!(bench.actions(), ["publish ?"]);
    bench.core.forget_request(id, bench.now);
    renewed(&mut bench);
}

#[test]
fn a_stop_in_between_ends_in_good_order() {
    let mut bench = Bench::online(config());
    bench.core.renew(bench.now);
    bench.core.stop(bench.now + 10 * SECOND, bench.now);
    assert_eq!(bench.actions(), ["publish OFFLINE", "stopping"]);
    bench.event(LinkEvent::Written(0));
    bench.event(LinkEvent::Disconnected);
    bench.core.hooks_finished(bench.now);
    assert_eq!(
        bench.actions(),
        [
            "disconnect",
            "close",
            "disconnect hooks",
            "event stopped",
            "end"
        ]
    );
    assert!(bench.core.report().clean);
}

#[test]
fn a_connection_that_was_good_counts_although_it_was_left() {
    let mut bench = Bench::new(config());
    for _ in 0..10 {
        bench.event(LinkEvent::Lost(Cause::Refused));
        bench.wait_until_due();
    }
    bench.connect();
    bench.now += 30 * 86_400 * SECOND;
    bench.core.renew(bench.now);
    bench.event(LinkEvent::Written(0));
    bench.event(LinkEvent::Disconnected);
    bench.core.hooks_finished(bench.now);
    bench.event(LinkEvent::Lost(Cause::Refused));
    assert_eq!(bench.wait_until_due(), 2 * SECOND);
}

#[test]
fn a_wait_for_refused_settings_ends_with_them() {
    let refused = || Cause::Tls(crate::TlsCause::ClientCertificateRejected("x".into()));
    let mut bench = Bench::new(config());
    for _ in 0..5 {
        bench.event(LinkEvent::Lost(refused()));
        bench.wait_until_due();
    }
    bench.event(LinkEvent::Lost(refused()));
    bench.core.renew(bench.now);
    assert!(bench.wait_until_due() <= SECOND);
    // A server that does not answer has nothing against them.
    bench.event(LinkEvent::Lost(Cause::Refused));
    bench.core.renew(bench.now);
    assert!(bench.wait_until_due() > SECOND);
}
