//! Where and when the next attempt is made, by what ended the last one.

use super::*;
use crate::ProxyCause;
use crate::TlsCause;
use crate::config::FallbackPort;

/// Lets the attempt fail and returns what the next one does.
fn next_attempt(bench: &mut Bench, cause: Cause) -> String {
    bench.event(LinkEvent::Lost(cause));
    bench.core.hooks_finished(bench.now);
    bench.wait_until_due();
    bench.actions().pop().unwrap()
}

#[test]
fn the_other_port_is_tried_and_remembered() {
    let mut bench = Bench::new(config());
    assert_eq!(bench.actions(), ["connecting 1", "open"]);
    // A refusal by the server itself is no reason.
    let refusal = Cause::NotAccepted(ReasonCode::NOT_AUTHORIZED);
    assert_eq!(next_attempt(&mut bench, refusal), "open");
    assert_eq!(next_attempt(&mut bench, Cause::NameNotFound), "open");
    assert_eq!(next_attempt(&mut bench, Cause::Refused), "open 443");
    assert_eq!(next_attempt(&mut bench, Cause::Unreachable), "open");
    assert_eq!(next_attempt(&mut bench, Cause::ConnectTimeout), "open 443");
    bench.connect();
    bench.actions();
    // It works there, so it is taken again as long as it works.
    assert_eq!(next_attempt(&mut bench, Cause::KeepAlive), "open 443");
    bench.connect();
    assert_eq!(
        next_attempt(&mut bench, Cause::Closed { soon: false }),
        "open 443"
    );
    assert_eq!(next_attempt(&mut bench, Cause::Refused), "open");
}

#[test]
fn a_way_that_breaks_off_or_answers_tls_itself_is_no_way() {
    for blocked in [
        Cause::Tls(TlsCause::BrokenOff),
        Cause::Tls(TlsCause::NotTls),
        Cause::Proxy(ProxyCause::Closed),
    ] {
        let mut bench = Bench::new(config());
        assert_eq!(next_attempt(&mut bench, blocked.clone()), "open 443");
        assert!(!next_attempt(&mut bench, blocked).contains("443"));
    }
    // These are the server's own words, or a fault of the certificates: the same on every port.
    for told in [
        TlsCause::UnknownIssuer,
        TlsCause::WrongName,
        TlsCause::Expired,
        TlsCause::NotYetValid,
        TlsCause::BadCertificate("…".into()),
        TlsCause::ClientCertificateRejected("UnknownCA".into()),
        TlsCause::NothingInCommon("HandshakeFailure".into()),
        TlsCause::Other("…".into()),
    ] {
        let mut bench = Bench::new(config());
        assert_eq!(next_attempt(&mut bench, Cause::Tls(told)), "open");
    }
}

/// TCP gets through, and what comes after does not, as where large packets are lost.
#[test]
fn where_one_family_leads_into_silence_the_other_begins() {
    let stalled = Cause::ConnectTimeout;
    let mut bench = Bench::new(config());
    for next in [
        "open 443",
        "open, other family",
        "open 443, other family",
        "open",
        "open 443",
        "open, other family",
    ] {
        assert_eq!(next_attempt(&mut bench, stalled.clone()), next);
    }
    // What works is kept.
    bench.connect();
    bench.actions();
    for end in [Cause::KeepAlive, Cause::Unreachable] {
        assert_eq!(next_attempt(&mut bench, end), "open, other family");
        bench.connect();
        bench.actions();
    }
    // One silence among other failures is enough, and no silence says nothing about the family.
    let mut bench = Bench::new(config());
    assert_eq!(next_attempt(&mut bench, stalled.clone()), "open 443");
    let refused = Cause::Refused;
    assert_eq!(
        next_attempt(&mut bench, refused.clone()),
        "open, other family"
    );
    let next = next_attempt(&mut bench, refused.clone());
    assert_eq!(next, "open 443, other family");
    assert_eq!(next_attempt(&mut bench, refused), "open, other family");
    // Without another port it is the next attempt.
    let mut config = config();
    config.fallback_port = FallbackPort::Never;
    let mut bench = Bench::new(config);
    assert_eq!(
        next_attempt(&mut bench, stalled.clone()),
        "open, other family"
    );
    assert_eq!(next_attempt(&mut bench, stalled), "open");
}

#[test]
fn a_stranger_on_the_other_port_does_not_hold_it_there() {
    for stranger in [
        Cause::Tls(TlsCause::NothingInCommon("ALPN".into())),
        Cause::Tls(TlsCause::UnknownIssuer),
        Cause::Protocol("HTTP/1.1 400 Bad Request".into()),
        Cause::Closed { soon: false },
        Cause::Io("something".into()),
    ] {
        let mut bench = Bench::new(config());
        assert_eq!(next_attempt(&mut bench, Cause::Refused), "open 443");
        assert_eq!(next_attempt(&mut bench, stranger.clone()), "open");
        // On the main port it says nothing about the way.
        assert_eq!(next_attempt(&mut bench, stranger), "open");
    }
    // These are the server's own words, or of the way to either port.
    for other in [
        Cause::NotAccepted(ReasonCode::NOT_AUTHORIZED),
        Cause::NameNotFound,
        Cause::Proxy(ProxyCause::Authentication),
    ] {
        let mut bench = Bench::new(config());
        assert_eq!(next_attempt(&mut bench, Cause::Refused), "open 443");
        assert_eq!(next_attempt(&mut bench, other), "open 443");
    }
    // Once it has been the server that answered there, it is kept.
    let mut bench = Bench::new(config());
    assert_eq!(next_attempt(&mut bench, Cause::Refused), "open 443");
    bench.connect();
    let closed = Cause::Closed { soon: false };
    assert_eq!(next_attempt(&mut bench, closed), "open 443");
}

#[test]
fn a_stranger_on_the_other_port_does_not_delay_the_main_one() {
    let wait = |cause: TlsCause| {
        let mut bench = Bench::new(config());
        assert_eq!(next_attempt(&mut bench, Cause::Refused), "open 443");
        bench.event(LinkEvent::Lost(Cause::Tls(cause)));
        bench.wait_until_due()
    };
    // A web server, most likely, while the broker was started anew.
    for stranger in [TlsCause::UnknownIssuer, TlsCause::WrongName] {
        assert_eq!(wait(stranger), 4 * SECOND);
    }
    // Only the server looks at our certificate.
    let rejected = TlsCause::ClientCertificateRejected("CertificateRevoked".into());
    assert_eq!(wait(rejected), 64 * SECOND);
}

#[test]
fn no_other_port_beside_one_that_was_chosen() {
    for (port, fallback_port) in [(8884, FallbackPort::Auto), (8883, FallbackPort::Never)] {
        let mut config = config();
        (config.port, config.fallback_port) = (port, fallback_port);
        let mut bench = Bench::new(config);
        assert_eq!(next_attempt(&mut bench, Cause::Refused), "open");
    }
}

#[test]
fn a_clock_jump_ends_the_connection() {
    let mut bench = Bench::online(config());
    bench.now += 3600 * SECOND;
    bench.core.clock_jumped(8 * 3600 * SECOND, bench.now);
    assert_eq!(bench.cause(), Cause::ClockJump(8 * 3600 * SECOND));
    bench.core.hooks_finished(bench.now);
    assert_eq!(bench.wait_until_due(), 2 * SECOND);
    assert_eq!(bench.actions(), ["connecting 2", "open"]);
}

#[test]
fn a_clock_jump_shortens_the_wait() {
    let mut bench = Bench::new(config());
    bench.event(LinkEvent::Lost(Cause::NotAccepted(
        ReasonCode::NOT_AUTHORIZED,
    )));
    bench.actions();
    bench.core.clock_jumped(3600 * SECOND, bench.now);
    assert_eq!(bench.wait_until_due(), 2 * SECOND);
    assert_eq!(bench.actions(), ["connecting 2", "open"]);
    // Nothing to do while connecting, which has its limit.
    bench.core.clock_jumped(3600 * SECOND, bench.now);
    assert_eq!(bench.wait_until_due(), 21 * SECOND);
}

#[test]
fn the_port_of_last_time_is_tried_first() {
    for (last, first) in [(443, "open 443"), (8883, "open"), (8884, "open")] {
        let mut config = config();
        config.last_port = Some(last);
        let mut bench = Bench::new(config);
        assert_eq!(bench.actions(), ["connecting 1", first]);
    }
    let mut config = config();
    config.last_port = Some(443);
    let mut bench = Bench::new(config);
    assert_eq!(bench.core.port(), 443);
    assert_eq!(next_attempt(&mut bench, Cause::Refused), "open");
    assert_eq!(bench.core.port(), 8883);
}

#[test]
fn a_proxy_that_lets_443_through_only() {
    let mut bench = Bench::new(config());
    let refused = Cause::Proxy(ProxyCause::Refused { status: 403 });
    assert_eq!(next_attempt(&mut bench, refused), "open 443");
    // Without the password there is no way to either.
    let password = Cause::Proxy(ProxyCause::Authentication);
    assert_eq!(next_attempt(&mut bench, password), "open 443");
}

#[test]
fn a_changed_network_shows_a_dead_connection_within_seconds() {
    let mut bench = Bench::online(config());
    bench.wait(10 * SECOND);
    bench.core.network_changed(bench.now);
    bench.core.network_changed(bench.now);
    assert_eq!(bench.actions(), ["ping"]);
    bench.event(LinkEvent::Pinged);
    assert_eq!(bench.wait_until_due(), 5 * SECOND);
    assert_eq!(bench.cause(), Cause::KeepAlive);

    // One that is alive stays.
    let mut bench = Bench::online(config());
    bench.core.network_changed(bench.now);
    bench.event(LinkEvent::Pinged);
    bench.event(LinkEvent::Ponged);
    bench.wait(10 * SECOND);
    assert_eq!(bench.actions(), ["ping"]);
}

#[test]
fn a_changed_network_ends_a_wait_for_it_but_no_other() {
    let mut bench = Bench::new(config());
    bench.actions();
    bench.event(LinkEvent::Lost(Cause::Unreachable));
    bench.core.network_changed(bench.now);
    assert_eq!(
        bench.wait_until_due(),
        SECOND,
        "no two attempts in a second"
    );
    assert!(bench.actions().contains(&"open 443".to_owned()));

    let mut bench = Bench::new(config());
    let refused = Cause::NotAccepted(ReasonCode::NOT_AUTHORIZED);
    bench.event(LinkEvent::Lost(refused));
    bench.core.network_changed(bench.now);
    assert_eq!(bench.wait_until_due(), 32 * SECOND);
}

#[test]
fn a_changed_network_gives_an_attempt_that_is_under_way_little_time() {
    let mut bench = Bench::new(config());
    bench.core.network_changed(bench.now);
    assert_eq!(bench.wait_until_due(), 5 * SECOND);
    assert_eq!(bench.cause(), Cause::ConnectTimeout);
}

#[test]
fn a_network_that_keeps_changing_lets_a_slow_attempt_end() {
    let mut bench = Bench::new(config());
    bench.actions();
    let mut begun = bench.now;
    for _ in 0..20 {
        bench.core.network_changed(bench.now);
        let next = bench.now + 4 * SECOND;
        while let Some(due) = bench.core.next_deadline().filter(|due| *due <= next) {
            bench.now = due;
            bench.core.handle_timeout(due);
            if bench.actions().contains(&"open".to_owned()) {
                begun = due;
            }
        }
        bench.now = next;
        // A handshake that takes seven seconds.
        if matches!(bench.core.phase, Phase::Connecting { .. }) && bench.now - begun >= 7 * SECOND {
            return;
        }
    }
    panic!("no attempt has lasted for seven seconds");
}

#[test]
fn a_connack_without_room_for_any_packet_costs_no_message() {
    let mut bench = Bench::new(config());
    let mut receipt = bench.publish("1");
    bench.event(LinkEvent::Connected(ServerTerms {
        maximum_packet: Some(0),
        ..terms()
    }));
    assert!(matches!(bench.cause(), Cause::Protocol(_)));
    assert_eq!(outcome(&mut receipt), None);
}

#[test]
fn a_server_that_takes_bytes_slowly_is_there_and_waited_for() {
    let mut bench = Bench::online(config());
    let mut receipt = bench.publish("1");
    bench.event(LinkEvent::Written(2));
    bench.actions();
    // Nothing is received for several times the limit.
    for _ in 0..10 {
        bench.wait(20 * SECOND);
        bench.event(LinkEvent::Progress);
    }
    let done = bench.actions();
    assert!(!done.contains(&"close".to_owned()), "{done:?}");
    bench.event(LinkEvent::Acknowledged(2, ReasonCode::SUCCESS));
    assert!(outcome(&mut receipt).unwrap().is_ok());
}
