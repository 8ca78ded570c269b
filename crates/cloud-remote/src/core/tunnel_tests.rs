//! Tunnel connection and back-off, on virtual time.

use super::tests::{HOUR, Harness, secs};
use super::tunnel::STABLE;
use super::*;

#[test]
fn lost_tunnel_reconnects_in_1_to_15_s_with_same_token() {
    let (mut harness, id) = Harness::up(24 * HOUR, false);
    harness.elapsed += secs(HOUR);
    assert_eq!(harness.step(Event::TunnelLost { id }), []);
    let (after, actions) = harness.expect(secs(60));
    assert!(matches!(actions[..], [Action::Connect(_)]), "{actions:?}");
    assert!(after >= secs(1) && after <= secs(15), "{after:?}");
}

#[test]
fn tunnel_backoff_grows_and_resets_by_time_connected() {
    let (mut harness, id) = Harness::up(24 * HOUR, false);
    let mut longest = Duration::ZERO;
    let mut current = id;
    for _ in 0..20 {
        // Each connection is too short to reset the back-off.
        harness.elapsed += secs(1);
        assert_eq!(harness.step(Event::TunnelLost { id: current }), []);
        let (after, actions) = harness.expect(secs(600));
        let [Action::Connect(next)] = actions[..] else {
            panic!("{actions:?}")
        };
        harness.step(Event::TunnelUp { id: next });
        assert!(after <= secs(60));
        longest = longest.max(after);
        current = next;
    }
    assert!(longest > secs(15), "{longest:?}");
    harness.elapsed += STABLE;
    harness.step(Event::TunnelLost { id: current });
    assert!(harness.expect(secs(600)).0 <= secs(15));
}

#[test]
fn connect_times_out_after_30_s() {
    let (mut harness, id) = Harness::online();
    let actions = harness.accepted_token(id, 24 * HOUR, false);
    let [Action::Connect(attempt)] = actions[..] else {
        panic!("{actions:?}")
    };
    let (after, actions) = harness.expect(secs(60));
    assert_eq!(
        (after, actions),
        (CONNECT_TIMEOUT, vec![Action::CancelConnect(attempt)])
    );
    assert_eq!(harness.step(Event::TunnelUp { id: attempt }), []);
    assert!(
        matches!(harness.core.tunnel(), TunnelPhase::Waiting { .. }),
        "a late success does not count"
    );
}

#[test]
fn expired_token_is_replaced_before_reconnect() {
    let (mut harness, id) = Harness::up(HOUR, false);
    harness.step(Event::Online(false));
    harness.elapsed += secs(2 * HOUR);
    assert_eq!(harness.step(Event::TunnelLost { id }), [Action::DropToken]);
    assert_eq!(harness.until_action(secs(HOUR)), None);
    let actions = harness.step(Event::Online(true));
    let [Action::RequestToken(id)] = actions[..] else {
        panic!("{actions:?}")
    };
    assert!(matches!(
        harness.accepted_token(id, HOUR, false)[..],
        [Action::Connect(_)]
    ));
}

#[test]
fn unreachable_relay_uses_no_tokens() {
    let (mut harness, id) = Harness::online();
    let actions = harness.accepted_token(id, 24 * HOUR, false);
    let [Action::Connect(mut attempt)] = actions[..] else {
        panic!("{actions:?}")
    };
    for _ in 0..50 {
        assert_eq!(
            harness.step(Event::TunnelFailed {
                id: attempt,
                fault: ConnectFault::Unreachable
            }),
            []
        );
        let (_, actions) = harness.expect(secs(600));
        let [Action::Connect(next)] = actions[..] else {
            panic!("{actions:?}")
        };
        attempt = next;
    }
}

#[test]
fn twice_refused_token_is_replaced_with_backoff() {
    let (mut harness, mut request) = Harness::online();
    let mut delays = Vec::new();
    for _ in 0..8 {
        let actions = harness.accepted_token(request, 24 * HOUR, false);
        let [Action::Connect(attempt)] = actions[..] else {
            panic!("{actions:?}")
        };
        assert_eq!(
            harness.step(Event::TunnelFailed {
                id: attempt,
                fault: ConnectFault::Refused
            }),
            []
        );
        let (_, actions) = harness.expect(secs(200));
        let [Action::Connect(attempt)] = actions[..] else {
            panic!("{actions:?}")
        };
        let actions = harness.step(Event::TunnelFailed {
            id: attempt,
            fault: ConnectFault::Refused,
        });
        assert_eq!(actions, [Action::DropToken]);
        let (delay, actions) = harness.expect(secs(600));
        let [Action::RequestToken(next)] = actions[..] else {
            panic!("{actions:?}")
        };
        delays.push(delay);
        request = next;
    }
    assert!(delays[0] <= secs(5) && delays[7] >= secs(150), "{delays:?}");
}

#[test]
fn lost_tunnel_requests_token_soon_with_1_min_tokens() {
    for noticed_before in [true, false] {
        let (mut harness, id) = Harness::up(60, true);
        harness.elapsed += secs(60);
        if noticed_before {
            assert_eq!(harness.step(Event::Tick), [Action::DropToken]);
        }
        harness.elapsed += secs(40);
        let mut actions = harness.step(Event::TunnelLost { id });
        if !matches!(actions[..], [.., Action::RequestToken(_)]) {
            let (after, next) = harness.expect(secs(60));
            assert!(after <= secs(5), "{after:?}");
            actions = next;
        }
        assert!(
            matches!(actions[..], [.., Action::RequestToken(_)]),
            "{actions:?}"
        );
    }
}

#[test]
fn single_use_token_is_replaced_before_each_connect() {
    let (mut harness, id) = Harness::up(24 * HOUR, true);
    assert_eq!(
        harness.until_action(secs(HOUR)),
        None,
        "no new one is needed while the tunnel is up"
    );
    let actions = harness.step(Event::TunnelLost { id });
    let [Action::RequestToken(request)] = actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(harness.accepted_token(request, 24 * HOUR, true), []);
    let (after, actions) = harness.expect(secs(60));
    let [Action::Connect(attempt)] = actions[..] else {
        panic!("{actions:?}")
    };
    assert!(after <= secs(15));
    let actions = harness.step(Event::TunnelFailed {
        id: attempt,
        fault: ConnectFault::Unreachable,
    });
    assert_eq!(actions, [], "its keys are unused");
    let (_, actions) = harness.expect(secs(300));
    let [Action::Connect(attempt)] = actions[..] else {
        panic!("{actions:?}")
    };
    let actions = harness.step(Event::TunnelFailed {
        id: attempt,
        fault: ConnectFault::Broken,
    });
    assert!(
        matches!(actions[..], [Action::RequestToken(_)]),
        "its keys may have been used: {actions:?}"
    );
}
