//! Where and when the next attempt is made, depending on the cause.

use super::*;
use crate::session::config::FallbackPort;
use crate::{ProxyError, ProxyFailure, ProxyReply, TlsCause};

fn proxy(failure: ProxyFailure) -> Cause {
    Cause::Proxy(ProxyError::new("server:8883", "proxy:3128", failure))
}

/// Fails the attempt and returns the action of the next one.
fn next_attempt(harness: &mut Harness, cause: Cause) -> String {
    harness.event(ConnectionEvent::Lost(cause));
    harness.core.handle_hooks_finished(harness.now);
    harness.wait_until_due();
    harness.actions().pop().unwrap()
}

#[test]
fn fallback_port_is_tried_and_kept() {
    let mut harness = Harness::new(config());
    assert_eq!(harness.actions(), ["connecting 1", "open"]);
    // A refusal by the server is no reason to change the port.
    let refusal = not_accepted(0x87);
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
    // The endpoint works, so it is kept while it works.
    assert_eq!(next_attempt(&mut harness, Cause::KeepAlive), "open 443");
    harness.connect();
    assert_eq!(
        next_attempt(&mut harness, Cause::Closed { soon: false }),
        "open 443"
    );
    assert_eq!(next_attempt(&mut harness, Cause::Refused), "open");
}

#[test]
fn aborted_or_foreign_tls_makes_endpoint_unreachable() {
    for blocked in [
        Cause::Tls(TlsCause::HandshakeAborted),
        Cause::Tls(TlsCause::NotTls),
        proxy(ProxyFailure::Closed),
    ] {
        let mut harness = Harness::new(config());
        assert_eq!(next_attempt(&mut harness, blocked.clone()), "open 443");
        assert!(!next_attempt(&mut harness, blocked).contains("443"));
    }
    // Refusals by the server, or certificate errors: the same on every port.
    for failure in [
        TlsCause::UnknownIssuer,
        TlsCause::WrongName,
        TlsCause::Expired,
        TlsCause::NotYetValid,
        TlsCause::BadCertificate("…".into()),
        TlsCause::ClientCertificateRejected("UnknownCA".into()),
        TlsCause::NoCommonParameters("HandshakeFailure".into()),
        TlsCause::Other("…".into()),
    ] {
        let mut harness = Harness::new(config());
        assert_eq!(next_attempt(&mut harness, Cause::Tls(failure)), "open");
    }
}

/// TCP connects and TLS does not complete, as when large packets are lost.
#[test]
fn timeout_switches_address_family() {
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
    // An endpoint that works is kept.
    harness.connect();
    harness.actions();
    for end in [Cause::KeepAlive, Cause::Unreachable] {
        assert_eq!(next_attempt(&mut harness, end), "open, other family");
        harness.connect();
        harness.actions();
    }
    // One timeout among other failures is enough; without a timeout the family is kept.
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
    // Without a fallback port it is the next attempt.
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
fn other_service_on_fallback_port_is_left() {
    for other_service in [
        Cause::Tls(TlsCause::NoCommonParameters("ALPN".into())),
        Cause::Tls(TlsCause::UnknownIssuer),
        Cause::Protocol("HTTP/1.1 400 Bad Request".into()),
        Cause::Closed { soon: false },
        Cause::Io("something".into()),
    ] {
        let mut harness = Harness::new(config());
        assert_eq!(next_attempt(&mut harness, Cause::Refused), "open 443");
        assert_eq!(next_attempt(&mut harness, other_service.clone()), "open");
        // On the main port this does not make the endpoint unreachable.
        assert_eq!(next_attempt(&mut harness, other_service), "open");
    }
    // Refusals by the server, or failures on the way to either port.
    for other in [
        not_accepted(0x87),
        Cause::NameNotFound,
        proxy(ProxyFailure::Authentication),
    ] {
        let mut harness = Harness::new(config());
        assert_eq!(next_attempt(&mut harness, Cause::Refused), "open 443");
        assert_eq!(next_attempt(&mut harness, other), "open 443");
    }
    // After the server has answered there once, the port is kept.
    let mut harness = Harness::new(config());
    assert_eq!(next_attempt(&mut harness, Cause::Refused), "open 443");
    harness.connect();
    let closed = Cause::Closed { soon: false };
    assert_eq!(next_attempt(&mut harness, closed), "open 443");
}

#[test]
fn other_service_on_fallback_port_does_not_delay_main_port() {
    let wait = |cause: TlsCause| {
        let mut harness = Harness::new(config());
        assert_eq!(next_attempt(&mut harness, Cause::Refused), "open 443");
        harness.event(ConnectionEvent::Lost(Cause::Tls(cause)));
        harness.wait_until_due()
    };
    // Probably a web server, while the broker restarted.
    for other_service in [TlsCause::UnknownIssuer, TlsCause::WrongName] {
        assert_eq!(wait(other_service), 4 * SECOND);
    }
    // Only the server verifies the client certificate.
    let rejected = TlsCause::ClientCertificateRejected("CertificateRevoked".into());
    assert_eq!(wait(rejected), 64 * SECOND);
}

#[test]
fn no_fallback_port_for_configured_port() {
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
    harness
        .core
        .handle_clock_jump(8 * 3600 * SECOND, harness.now);
    assert_eq!(harness.cause(), Cause::ClockJump(8 * 3600 * SECOND));
    harness.core.handle_hooks_finished(harness.now);
    assert_eq!(harness.wait_until_due(), 2 * SECOND);
    assert_eq!(harness.actions(), ["connecting 2", "open"]);
}

#[test]
fn a_clock_jump_shortens_the_wait() {
    let mut harness = Harness::new(config());
    harness.event(ConnectionEvent::Lost(not_accepted(0x87)));
    harness.actions();
    harness.core.handle_clock_jump(3600 * SECOND, harness.now);
    assert_eq!(harness.wait_until_due(), 2 * SECOND);
    assert_eq!(harness.actions(), ["connecting 2", "open"]);
    // Nothing changes while connecting, which has its own timeout.
    harness.core.handle_clock_jump(3600 * SECOND, harness.now);
    assert_eq!(harness.wait_until_due(), 21 * SECOND);
}

#[test]
fn preferred_port_is_tried_first() {
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
fn proxy_that_allows_only_443() {
    let mut harness = Harness::new(config());
    let refused = proxy(ProxyFailure::Refused {
        reply: ProxyReply::HttpStatus(403),
    });
    assert_eq!(next_attempt(&mut harness, refused), "open 443");
    // Without the password the proxy allows neither.
    let password = proxy(ProxyFailure::Authentication);
    assert_eq!(next_attempt(&mut harness, password), "open 443");
}

#[test]
fn network_change_probes_the_connection() {
    let mut harness = Harness::online(config());
    harness.wait(10 * SECOND);
    harness.core.handle_network_change(harness.now);
    harness.core.handle_network_change(harness.now);
    assert_eq!(harness.actions(), ["ping"]);
    harness.event(ConnectionEvent::PingWritten);
    assert_eq!(harness.wait_until_due(), 5 * SECOND);
    assert_eq!(harness.cause(), Cause::KeepAlive);

    // A connection that responds is kept.
    let mut harness = Harness::online(config());
    harness.core.handle_network_change(harness.now);
    harness.event(ConnectionEvent::PingWritten);
    harness.event(ConnectionEvent::PingResp);
    harness.wait(10 * SECOND);
    assert_eq!(harness.actions(), ["ping"]);
}

#[test]
fn network_change_ends_network_back_off_only() {
    let mut harness = Harness::new(config());
    harness.actions();
    harness.event(ConnectionEvent::Lost(Cause::Unreachable));
    harness.core.handle_network_change(harness.now);
    assert_eq!(
        harness.wait_until_due(),
        SECOND,
        "no two attempts in a second"
    );
    assert!(harness.actions().contains(&"open 443".to_owned()));

    let mut harness = Harness::new(config());
    let refused = not_accepted(0x87);
    harness.event(ConnectionEvent::Lost(refused));
    harness.core.handle_network_change(harness.now);
    assert_eq!(harness.wait_until_due(), 32 * SECOND);
}

#[test]
fn network_change_shortens_connection_attempt() {
    let mut harness = Harness::new(config());
    harness.core.handle_network_change(harness.now);
    assert_eq!(harness.wait_until_due(), 5 * SECOND);
    assert_eq!(harness.cause(), Cause::ConnectTimeout);
}

#[test]
fn repeated_network_changes_let_slow_attempt_complete() {
    let mut harness = Harness::new(config());
    harness.actions();
    let mut started = harness.now;
    for _ in 0..20 {
        harness.core.handle_network_change(harness.now);
        let next = harness.now + 4 * SECOND;
        while let Some(due) = harness.core.poll_timeout().filter(|due| *due <= next) {
            harness.now = due;
            harness.core.handle_timeout(due);
            if harness.actions().contains(&"open".to_owned()) {
                started = due;
            }
        }
        harness.now = next;
        // A handshake of seven seconds.
        if matches!(harness.core.phase, Phase::Connecting { .. })
            && harness.now - started >= 7 * SECOND
        {
            return;
        }
    }
    panic!("no attempt has lasted for seven seconds");
}

#[test]
fn zero_limits_in_connack_drop_no_message() {
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
fn slow_server_is_kept_while_bytes_flow() {
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
