//! The session's own messages, on servers that support less than others.

use super::*;
use crate::core::connect_options::ConnectOptions;

fn retained() -> SessionConfig {
    let own = |payload| Message::new("status", payload).retained();
    let mut config = config();
    config.will = Some(own("LOST"));
    config.birth = Some(own("ONLINE"));
    config.goodbye = Some(own("OFFLINE"));
    config
}

/// Performs actions until the next connection opens.
fn opened(harness: &mut Harness) -> ConnectOptions {
    std::iter::from_fn(|| harness.core.poll_action())
        .find_map(|action| match action {
            Action::Open(options) => Some(options),
            _ => None,
        })
        .expect("an attempt")
}

fn published(harness: &mut Harness) -> Vec<(String, QoS, bool)> {
    std::iter::from_fn(|| harness.core.poll_action())
        .filter_map(|action| match action {
            Action::Publish(out) => {
                let payload = String::from_utf8_lossy(&out.message.payload).into_owned();
                Some((payload, out.message.qos, out.message.retain))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn own_messages_fit_the_server() {
    for (at_least_once, retain) in [(true, false), (false, true), (false, false)] {
        let qos = if at_least_once {
            QoS::AtLeastOnce
        } else {
            QoS::AtMostOnce
        };
        let mut harness = Harness::new(retained());
        let first = opened(&mut harness);
        assert!(!first.will_at_most_once && !first.will_not_retained);
        harness.event(ConnectionEvent::Connected(ServerCapabilities {
            at_least_once,
            retain,
            ..capabilities()
        }));
        harness.granted(&[0, 0]);
        harness.core.handle_hooks_finished(harness.now);
        assert_eq!(published(&mut harness), [("ONLINE".into(), qos, retain)]);
        if at_least_once {
            harness.event(ConnectionEvent::Written(2));
            harness.event(ConnectionEvent::Acknowledged(2, ReasonCode::SUCCESS));
        } else {
            harness.event(ConnectionEvent::Written(0));
        }
        harness.core.reconnect(harness.now);
        assert_eq!(published(&mut harness), [("OFFLINE".into(), qos, retain)]);
        harness.event(ConnectionEvent::Lost(Cause::Closed { soon: false }));
        harness.core.handle_hooks_finished(harness.now);
        harness.wait_until_due();
        let next = opened(&mut harness);
        assert_eq!(
            (next.will_at_most_once, next.will_not_retained),
            (!at_least_once, !retain)
        );

        // The server supports everything now.
        harness.connect();
        harness.actions();
        harness.event(ConnectionEvent::Lost(Cause::KeepAlive));
        harness.core.handle_hooks_finished(harness.now);
        harness.wait_until_due();
        let next = opened(&mut harness);
        assert!(!next.will_at_most_once && !next.will_not_retained);
    }
}

#[test]
fn refused_will_is_lowered_at_once_and_only_once() {
    let mut harness = Harness::new(retained());
    let refused = |code| ConnectionEvent::Lost(not_accepted(code));
    opened(&mut harness);
    for (code, lowered) in [(0x9A, (false, true)), (0x9B, (true, true))] {
        harness.event(refused(code));
        assert!(harness.wait_until_due() <= SECOND);
        let next = opened(&mut harness);
        assert_eq!((next.will_at_most_once, next.will_not_retained), lowered);
    }
    let before = harness.core.failures.count();
    harness.event(refused(0x9B));
    assert_eq!(harness.core.failures.count(), before + 1);
}

#[test]
fn violation_makes_the_next_connections_lenient() {
    let mut harness = Harness::new(config());
    assert!(!opened(&mut harness).lenient);
    harness.event(ConnectionEvent::Lost(Cause::Protocol("a fault".into())));
    harness.wait_until_due();
    assert!(opened(&mut harness).lenient);
}
