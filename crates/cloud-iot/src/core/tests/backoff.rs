//! Where and when the next attempt is made, by what ended the last one.

use super::*;
use crate::ProxyCause;
use crate::TlsCause;
use crate::session::config::FallbackPort;

/// Lets the attempt fail and returns what the next one does.
fn next_attempt(harness: &mut Harness, cause: Cause) -> String {
    harness.event(ConnectionEvent::Lost(cause));
    harness.core.hooks_finished(harness.now);
    harness.wait_until_due();
    harness.actions().pop().unwrap()
}

#[test]
fn the_other_port_is_tried_and_remembered() {
    let mut harness = Harness::new(config());
    assert_eq!(harness.actions(), ["connecting 1", "open"]);
    // A refusal by the server itself is no reason.
    let refusal = Cause::NotAccepted(ReasonCode::NOT_AUTHORIZED);
    assert_eq!(next_attempt(&mut harness, refusal), "open");
    assert_eq!(next_attempt(&mut harness, Cause::NameNotFound), "open");
    assert_eq!(next_attempt(&mut harness, Cause::Refused), "open 443");
    assert_eq!(next_attempt(&mut harness, Cause::Unreachable), "open");
    assert_eq!(
        next_attempt(&mut harness, Cause::ConnectTimeout),
        "open 443"
    );
    harness.connect();
    harness.actions();
    // It works there, so it is taken again as long as it works.
    assert_eq!(next_attempt(&mut harness, Cause::KeepAlive), "open 443");
    harness.connect();
    assert_eq!(
        next_attempt(&mut harness, Cause::Closed { soon: false }),
        "open 443"
    );
    assert_eq!(next_attempt(&mut harness, Cause::Refused), "open");
}

#[test]
fn a_way_that_breaks_off_or_answers_tls_itself_is_no_way() {
    for blocked in [
        Cause::Tls(TlsCause::HandshakeAborted),
        Cause::Tls(TlsCause::NotTls),
        Cause::Proxy(ProxyCause::Closed),
    ] {
        let mut harness = Harness::new(config());
        assert_eq!(next_attempt(&mut harness, blocked.clone()), "open 443");
        assert!(!next_attempt(&mut harness, blocked).contains("443"));
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
        let mut harness = Harness::new(config());
        assert_eq!(next_attempt(&mut harness, Cause::Tls(told)), "open");
    }
}

/// TCP gets through, and what comes after does not, as where large packets are lost.
#[test]
fn where_one_family_leads_into_silence_the_other_begins() {
    let stalled = Cause::ConnectTimeout;
    let mut harness = Harness::new(config());
    for next in [
        "open 443",
        "open, other family",
        "open 443, other family",
        "open",
        "open 443",
        "open, other family",
    ] {
        assert_eq!(next_attempt(&mut harness, stalled.clone()), next);
    }
    // What works is kept.
    harness.connect();
    harness.actions();
    for end in [Cause::KeepAlive, Cause::Unreachable] {
        assert_eq!(next_attempt(&mut harness, end), "open, other family");
        harness.connect();
        harness.actions();
    }
    // One silence among other failures is enough, and no silence says nothing about the family.
    let mut harness = Harness::new(config());
    assert_eq!(next_attempt(&mut harness, stalled.clone()), "open 443");
    let refused = Cause::Refused;
    assert_eq!(
        next_attempt(&mut harness, refused.clone()),
        "open, other family"
    );
    let next = next_attempt(&mut harness, refused.clone());
    assert_eq!(next, "open 443, other family");
    assert_eq!(next_attempt(&mut harness, refused), "open, other family");
    // Without another port it is the next attempt.
    let mut config = config();
    config.fallback_port = FallbackPort::Never;
    let mut harness = Harness::new(config);
    assert_eq!(
        next_attempt(&mut harness, stalled.clone()),
        "open, other family"
    );
    assert_eq!(next_attempt(&mut harness, stalled), "open");
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
        let mut harness = Harness::new(config());
        assert_eq!(next_attempt(&mut harness, Cause::Refused), "open 443");
        assert_eq!(next_attempt(&mut harness, stranger.clone()), "open");
        // On the main port it says nothing about the way.
        assert_eq!(next_attempt(&mut harness, stranger), "open");
    }
    // These are the server's own words, or of the way to either port.
    for other in [
        Cause::NotAccepted(ReasonCode::NOT_AUTHORIZED),
        Cause::NameNotFound,
        Cause::Proxy(ProxyCause::Authentication),
    ] {
        let mut harness = Harness::new(config());
        assert_eq!(next_attempt(&mut harness, Cause::Refused), "open 443");
        assert_eq!(next_attempt(&mut harness, other), "open 443");
    }
    // Once it has been the server that answered there, it is kept.
    let mut harness = Harness::new(config());
    assert_eq!(next_attempt(&mut harness, Cause::Refused), "open 443");
    harness.connect();
    let closed = Cause::Closed { soon: false };
    assert_eq!(next_attempt(&mut harness, closed), "open 443");
}

#[test]
fn a_stranger_on_the_other_port_does_not_delay_the_main_one() {
    let wait = |cause: TlsCause| {
        let mut harness = Harness::new(config());
        assert_eq!(next_attempt(&mut harness, Cause::Refused), "open 443");
        harness.event(ConnectionEvent::Lost(Cause::Tls(cause)));
        harness.wait_until_due()
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
        let mut harness = Harness::new(config);
        assert_eq!(next_attempt(&mut harness, Cause::Refused), "open");
    }
}

#[test]
fn a_clock_jump_ends_the_connection() {
    let mut harness = Harness::online(config());
    harness.now += 3600 * SECOND;
    harness.core.clock_jumped(8 * 3600 * SECOND, harness.now);
    assert_eq!(harness.cause(), Cause::ClockJump(8 * 3600 * SECOND));
    harness.core.hooks_finished(harness.now);
    assert_eq!(harness.wait_until_due(), 2 * SECOND);
    assert_eq!(harness.actions(), ["connecting 2", "open"]);
}

#[test]
fn a_clock_jump_shortens_the_wait() {
    let mut harness = Harness::new(config());
    harness.event(ConnectionEvent::Lost(Cause::NotAccepted(
        ReasonCode::NOT_AUTHORIZED,
    )));
    harness.actions();
    harness.core.clock_jumped(3600 * SECOND, harness.now);
    assert_eq!(harness.wait_until_due(), 2 * SECOND);
    assert_eq!(harness.actions(), ["connecting 2", "open"]);
    // Nothing to do while connecting, which has its limit.
    harness.core.clock_jumped(3600 * SECOND, harness.now);
    assert_eq!(harness.wait_until_due(), 21 * SECOND);
}

#[test]
fn the_port_of_last_time_is_tried_first() {
    for (last, first) in [(443, "open 443"), (8883, "open"), (8884, "open")] {
        let mut config = config();
        config.preferred_port = Some(last);
        let mut harness = Harness::new(config);
        assert_eq!(harness.actions(), ["connecting 1", first]);
    }
    let mut config = config();
    config.preferred_port = Some(443);
    let mut harness = Harness::new(config);
    assert_eq!(harness.core.port(), 443);
    assert_eq!(next_attempt(&mut harness, Cause::Refused), "open");
    assert_eq!(harness.core.port(), 8883);
}

#[test]
fn a_proxy_that_lets_443_through_only() {
    let mut harness = Harness::new(config());
    let refused = Cause::Proxy(ProxyCause::Refused { status: 403 });
    assert_eq!(next_attempt(&mut harness, refused), "open 443");
    // Without the password there is no way to either.
    let password = Cause::Proxy(ProxyCause::Authentication);
    assert_eq!(next_attempt(&mut harness, password), "open 443");
}

#[test]
fn a_changed_network_shows_a_dead_connection_within_seconds() {
    let mut harness = Harness::online(config());
    harness.wait(10 * SECOND);
    harness.core.network_changed(harness.now);
    harness.core.network_changed(harness.now);
    assert_eq!(harness.actions(), ["ping"]);
    harness.event(ConnectionEvent::PingWritten);
    assert_eq!(harness.wait_until_due(), 5 * SECOND);
    assert_eq!(harness.cause(), Cause::KeepAlive);

    // One that is alive stays.
    let mut harness = Harness::online(config());
    harness.core.network_changed(harness.now);
    harness.event(ConnectionEvent::PingWritten);
    harness.event(ConnectionEvent::PingResp);
    harness.wait(10 * SECOND);
    assert_eq!(harness.actions(), ["ping"]);
}

#[test]
fn a_changed_network_ends_a_wait_for_it_but_no_other() {
    let mut harness = Harness::new(config());
    harness.actions();
    harness.event(ConnectionEvent::Lost(Cause::Unreachable));
    harness.core.network_changed(harness.now);
    assert_eq!(
        harness.wait_until_due(),
        SECOND,
        "no two attempts in a second"
    );
    assert!(harness.actions().contains(&"open 443".to_owned()));

    let mut harness = Harness::new(config());
    let refused = Cause::NotAccepted(ReasonCode::NOT_AUTHORIZED);
    harness.event(ConnectionEvent::Lost(refused));
    harness.core.network_changed(harness.now);
    assert_eq!(harness.wait_until_due(), 32 * SECOND);
}

#[test]
fn a_changed_network_gives_an_attempt_that_is_under_way_little_time() {
    let mut harness = Harness::new(config());
    harness.core.network_changed(harness.now);
    assert_eq!(harness.wait_until_due(), 5 * SECOND);
    assert_eq!(harness.cause(), Cause::ConnectTimeout);
}

#[test]
fn a_network_that_keeps_changing_lets_a_slow_attempt_end() {
    let mut harness = Harness::new(config());
    harness.actions();
    let mut begun = harness.now;
    for _ in 0..20 {
        harness.core.network_changed(harness.now);
        let next = harness.now + 4 * SECOND;
        while let Some(due) = harness.core.next_deadline().filter(|due| *due <= next) {
            harness.now = due;
            harness.core.handle_timeout(due);
            if harness.actions().contains(&"open".to_owned()) {
                begun = due;
            }
        }
        harness.now = next;
        // A handshake that takes seven seconds.
        if matches!(harness.core.phase, Phase::Connecting { .. })
            && harness.now - begun >= 7 * SECOND
        {
            return;
        }
    }
    panic!("no attempt has lasted for seven seconds");
}

#[test]
fn a_connack_without_room_for_any_packet_costs_no_message() {
    let mut harness = Harness::new(config());
    let mut receipt = harness.publish("1");
    harness.event(ConnectionEvent::Connected(ServerCapabilities {
        maximum_packet: Some(0),
        ..capabilities()
    }));
    assert!(matches!(harness.cause(), Cause::Protocol(_)));
    assert_eq!(outcome(&mut receipt), None);
}

#[test]
fn a_server_that_takes_bytes_slowly_is_there_and_waited_for() {
    let mut harness = Harness::online(config());
    let mut receipt = harness.publish("1");
    harness.event(ConnectionEvent::Written(2));
    harness.actions();
    // Nothing is received for several times the limit.
    for _ in 0..10 {
        harness.wait(20 * SECOND);
        harness.event(ConnectionEvent::Progress);
    }
    let done = harness.actions();
    assert!(!done.contains(&"close".to_owned()), "{done:?}");
    harness.event(ConnectionEvent::Acknowledged(2, ReasonCode::SUCCESS));
    assert!(outcome(&mut receipt).unwrap().is_ok());
}
