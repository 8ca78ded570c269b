//! Handover to a new tunnel, on virtual time.

use super::tests::{HOUR, Harness, secs};
use super::*;

/// Returns a harness whose tunnel is up and busy, and which has a newer token.
fn refreshed(seconds: u64, single_use: bool) -> (Harness, Id) {
    let (mut harness, tunnel) = Harness::up(seconds, single_use);
    refresh(&mut harness, seconds, single_use);
    (harness, tunnel)
}

fn refresh(harness: &mut Harness, seconds: u64, single_use: bool) {
    let (_, actions) = harness.expect(secs(seconds));
    let [Action::RequestToken(id)] = actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(
        harness.accepted_token(id, seconds, single_use),
        [],
        "a busy tunnel stays"
    );
}

fn up(harness: &Harness) -> Id {
    let TunnelPhase::Up { id, .. } = harness.core.tunnel() else {
        panic!("{:?}", harness.core.tunnel())
    };
    id
}

#[test]
fn handover_at_first_idle_moment_after_refresh() {
    for single_use in [false, true] {
        let (mut harness, old) = refreshed(24 * HOUR, single_use);
        assert_eq!(harness.until_action(secs(60)), None);
        harness.idle = true;
        let (after, actions) = harness.expect(secs(60));
        let [Action::StartHandover { id, forced: false }] = actions[..] else {
            panic!("{actions:?}")
        };
        assert!(after <= IDLE_CHECK_INTERVAL, "{after:?}");
        assert_eq!(
            up(&harness),
            old,
            "the old one serves until the new one does"
        );
        assert_eq!(harness.step(Event::TunnelUp { id }), []);
        assert_eq!(up(&harness), id);
        assert_eq!(harness.step(Event::TunnelLost { id: old }), []);
        assert_eq!(up(&harness), id);
        assert_eq!(
            harness.until_action(secs(HOUR)),
            None,
            "one handover is enough"
        );
    }
}

#[test]
fn busy_tunnel_stays_until_relay_check() {
    // The relay checks every four hours, counted from the connection. The last check within a
    // token's lifetime may find it expired if the lifetime is a multiple of four hours.
    for (lifetime, check) in [(HOUR, 4), (5 * HOUR, 8), (24 * HOUR, 24), (25 * HOUR, 28)] {
        let (mut harness, _) = Harness::up(lifetime, false);
        let check = harness.elapsed + secs(check * HOUR);
        loop {
            let (_, actions) = harness.expect(secs(30 * HOUR));
            match actions[..] {
                [Action::RequestToken(id)] => {
                    let actions = harness.accepted_token(id, lifetime, false);
                    assert_eq!(actions, []);
                }
                [Action::StartHandover { forced: true, .. }] => break,
                _ => panic!("{actions:?}"),
            }
        }
        assert!(
            harness.elapsed <= check - CONNECT_TIMEOUT,
            "{:?}",
            harness.elapsed
        );
        assert!(harness.elapsed >= check - secs(61), "{:?}", harness.elapsed);
    }
}

#[test]
fn no_handover_without_newer_token() {
    let (mut harness, tunnel) = Harness::up(HOUR, false);
    harness.idle = true;
    harness.step(Event::Online(false));
    let (_, actions) = harness.expect(secs(2 * HOUR));
    assert_eq!(actions, [Action::DropToken]);
    assert_eq!(harness.until_action(secs(5 * HOUR)), None);
    assert_eq!(up(&harness), tunnel);
}

#[test]
fn failed_handover_keeps_tunnel_and_retries_with_backoff() {
    let (mut harness, tunnel) = refreshed(24 * HOUR, false);
    harness.idle = true;
    let mut delays = Vec::new();
    for _ in 0..12 {
        let (delay, actions) = harness.expect(secs(600));
        let [Action::StartHandover { id, .. }] = actions[..] else {
            panic!("{actions:?}")
        };
        delays.push(delay);
        let fault = ConnectFault::Unreachable;
        assert_eq!(harness.step(Event::TunnelFailed { id, fault }), []);
        assert_eq!(up(&harness), tunnel);
    }
    assert!(delays[1..].iter().all(|delay| *delay >= secs(1)));
    assert!(
        delays[1] <= secs(15) && delays[5..].iter().any(|delay| *delay > secs(15)),
        "{delays:?}"
    );
}

#[test]
fn busy_handover_retries_soon_with_same_token() {
    let (mut harness, _) = refreshed(24 * HOUR, true);
    harness.idle = true;
    for _ in 0..3 {
        let (after, actions) = harness.expect(secs(60));
        let [Action::StartHandover { id, .. }] = actions[..] else {
            panic!("{actions:?}")
        };
        assert!(after <= IDLE_CHECK_INTERVAL, "{after:?}");
        let fault = ConnectFault::Busy;
        assert_eq!(harness.step(Event::TunnelFailed { id, fault }), []);
    }
}

#[test]
fn busy_handover_retries_slow_down() {
    let (mut harness, _) = refreshed(24 * HOUR, false);
    harness.idle = true;
    let (end, mut calls) = (harness.elapsed + secs(HOUR), 0);
    while let Some((_, actions)) = harness.until_action(end - harness.elapsed) {
        let [Action::StartHandover { id, .. }] = actions[..] else {
            panic!("{actions:?}")
        };
        calls += 1;
        let fault = ConnectFault::Busy;
        assert_eq!(harness.step(Event::TunnelFailed { id, fault }), []);
    }
    assert!((200..=250).contains(&calls), "{calls} in an hour");
}

#[test]
fn token_refused_in_handover_is_replaced_tunnel_stays() {
    let (mut harness, tunnel) = refreshed(24 * HOUR, false);
    harness.idle = true;
    for round in 0..2 {
        let (_, actions) = harness.expect(secs(60));
        let [Action::StartHandover { id, .. }] = actions[..] else {
            panic!("{actions:?}")
        };
        let fault = ConnectFault::Refused;
        let actions = harness.step(Event::TunnelFailed { id, fault });
        assert_eq!(actions.contains(&Action::DropToken), round == 1);
    }
    let (after, actions) = harness.expect(secs(60));
    assert!(matches!(actions[..], [Action::RequestToken(_)]));
    assert!(after >= secs(1), "{after:?}");
    assert_eq!(up(&harness), tunnel);
}

#[test]
fn handover_times_out_after_30_s() {
    let (mut harness, tunnel) = refreshed(24 * HOUR, false);
    harness.idle = true;
    let (_, actions) = harness.expect(secs(60));
    let [Action::StartHandover { id, .. }] = actions[..] else {
        panic!("{actions:?}")
    };
    let (after, actions) = harness.expect(secs(60));
    assert_eq!(
        (after, actions),
        (CONNECT_TIMEOUT, vec![Action::CancelConnect(id)])
    );
    assert_eq!(harness.step(Event::TunnelUp { id }), [], "too late");
    assert_eq!(up(&harness), tunnel);
}

#[test]
fn tunnel_lost_during_handover_waits_for_new_one() {
    let (mut harness, old) = refreshed(24 * HOUR, false);
    harness.idle = true;
    let (_, actions) = harness.expect(secs(60));
    let [Action::StartHandover { id, .. }] = actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(harness.step(Event::TunnelLost { id: old }), []);
    assert!(matches!(
        harness.core.tunnel(),
        TunnelPhase::Connecting { .. }
    ));
    assert_eq!(harness.step(Event::TunnelUp { id }), []);
    assert_eq!(up(&harness), id);
}
