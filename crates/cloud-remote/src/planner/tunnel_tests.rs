//! Connecting the tunnel, on a clock that is moved by hand.

use super::tests::{Bench, HOUR, secs};
use super::tunnel::STABLE;
use super::*;

#[test]
fn a_lost_tunnel_comes_back_after_one_to_fifteen_seconds_with_the_same_token() {
    let (mut bench, id) = Bench::up(24 * HOUR, false);
    bench.elapsed += secs(HOUR);
    assert_eq!(bench.step(Event::TunnelLost { id }), []);
    let (after, actions) = bench.expect(secs(60));
    assert!(matches!(actions[..], [Action::Connect(_)]), "{actions:?}");
    assert!(after >= secs(1) && after <= secs(15), "{after:?}");
}

#[test]
fn tunnel_delays_grow_with_failures_and_only_time_connected_resets_them() {
    let (mut bench, id) = Bench::up(24 * HOUR, false);
    let mut longest = Duration::ZERO;
    let mut current = id;
    for _ in 0..20 {
        // Connected for a moment each time: no reason to be impatient.
        bench.elapsed += secs(1);
        assert_eq!(bench.step(Event::TunnelLost { id: current }), []);
        let (after, actions) = bench.expect(secs(600));
        let [Action::Connect(next)] = actions[..] else {
            panic!("{actions:?}")
        };
        bench.step(Event::TunnelUp { id: next });
        assert!(after <= secs(60));
        longest = longest.max(after);
        current = next;
    }
    assert!(longest > secs(15), "{longest:?}");
    bench.elapsed += STABLE;
    bench.step(Event::TunnelLost { id: current });
    assert!(bench.expect(secs(600)).0 <= secs(15));
}

#[test]
fn a_connection_attempt_has_thirty_seconds() {
    let (mut bench, id) = Bench::online();
    let actions = bench.token(id, 24 * HOUR, false);
    let [_, Action::Connect(attempt)] = actions[..] else {
        panic!("{actions:?}")
    };
    let (after, actions) = bench.expect(secs(60));
    assert_eq!(
        (after, actions),
        (CONNECT_LIMIT, vec![Action::AbandonConnect(attempt)])
    );
    assert_eq!(bench.step(Event::TunnelUp { id: attempt }), []);
    assert!(
        matches!(bench.planner.tunnel(), TunnelPhase::Waiting { .. }),
        "a late success does not count"
    );
}

#[test]
fn an_expired_token_is_replaced_before_the_next_attempt() {
    let (mut bench, id) = Bench::up(HOUR, false);
    bench.step(Event::Messaging(false));
    bench.elapsed += secs(2 * HOUR);
    assert_eq!(bench.step(Event::TunnelLost { id }), [Action::DropToken]);
    assert_eq!(bench.until_action(secs(HOUR)), None);
    let actions = bench.step(Event::Messaging(true));
    let [Action::RequestToken(id)] = actions[..] else {
        panic!("{actions:?}")
    };
    assert!(matches!(
        bench.token(id, HOUR, false)[..],
        [Action::KeepToken(_), Action::Connect(_)]
    ));
}

#[test]
fn an_unreachable_relay_does_not_cost_tokens() {
    let (mut bench, id) = Bench::online();
    let actions = bench.token(id, 24 * HOUR, false);
    let [_, Action::Connect(mut attempt)] = actions[..] else {
        panic!("{actions:?}")
    };
    for _ in 0..50 {
        assert_eq!(
            bench.step(Event::TunnelFailed {
                id: attempt,
                fault: ConnectFault::Unreachable
            }),
            []
        );
        let (_, actions) = bench.expect(secs(600));
        let [Action::Connect(next)] = actions[..] else {
            panic!("{actions:?}")
        };
        attempt = next;
    }
}

#[test]
fn a_token_refused_twice_is_replaced_with_growing_delays() {
    let (mut bench, mut request) = Bench::online();
    let mut delays = Vec::new();
    for _ in 0..8 {
        let actions = bench.token(request, 24 * HOUR, false);
        let [_, Action::Connect(attempt)] = actions[..] else {
            panic!("{actions:?}")
        };
        assert_eq!(
            bench.step(Event::TunnelFailed {
                id: attempt,
                fault: ConnectFault::Refused
            }),
            []
        );
        let (_, actions) = bench.expect(secs(200));
        let [Action::Connect(attempt)] = actions[..] else {
            panic!("{actions:?}")
        };
        let actions = bench.step(Event::TunnelFailed {
            id: attempt,
            fault: ConnectFault::Refused,
        });
        assert_eq!(actions, [Action::DropToken]);
        let (delay, actions) = bench.expect(secs(600));
        let [Action::RequestToken(next)] = actions[..] else {
            panic!("{actions:?}")
        };
        delays.push(delay);
        request = next;
    }
    assert!(delays[0] <= secs(5) && delays[7] >= secs(150), "{delays:?}");
}

#[test]
fn a_lost_tunnel_has_a_token_asked_for_soon_though_they_live_for_a_minute() {
    for noticed_before in [true, false] {
        let (mut bench, id) = Bench::up(60, true);
        bench.elapsed += secs(60);
        if noticed_before {
            assert_eq!(bench.step(Event::Tick), [Action::DropToken]);
        }
        bench.elapsed += secs(40);
        let mut actions = bench.step(Event::TunnelLost { id });
        if !matches!(actions[..], [.., Action::RequestToken(_)]) {
            let (after, next) = bench.expect(secs(60));
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
fn a_single_use_token_is_replaced_before_each_connection() {
    let (mut bench, id) = Bench::up(24 * HOUR, true);
    assert_eq!(
        bench.until_action(secs(HOUR)),
        None,
        "no new one is needed while the tunnel is up"
    );
    let actions = bench.step(Event::TunnelLost { id });
    let [Action::RequestToken(request)] = actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(
        bench.token(request, 24 * HOUR, true),
        [Action::KeepToken(request)]
    );
    let (after, actions) = bench.expect(secs(60));
    let [Action::Connect(attempt)] = actions[..] else {
        panic!("{actions:?}")
    };
    assert!(after <= secs(15));
    let actions = bench.step(Event::TunnelFailed {
        id: attempt,
        fault: ConnectFault::Unreachable,
    });
    assert_eq!(actions, [], "its keys are as good as new");
    let (_, actions) = bench.expect(secs(300));
    let [Action::Connect(attempt)] = actions[..] else {
        panic!("{actions:?}")
    };
    let actions = bench.step(Event::TunnelFailed {
        id: attempt,
        fault: ConnectFault::Broken,
    });
    assert!(
        matches!(actions[..], [Action::RequestToken(_)]),
        "its keys may have been used: {actions:?}"
    );
}
