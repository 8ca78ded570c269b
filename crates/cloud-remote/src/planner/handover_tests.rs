//! Moving to a new tunnel, on a clock that is moved by hand.

use super::tests::{Bench, HOUR, secs};
use super::*;

/// A bench whose tunnel is up, in use, and has a newer token to move to.
fn refreshed(seconds: u64, single_use: bool) -> (Bench, Id) {
    let (mut bench, tunnel) = Bench::up(seconds, single_use);
    refresh(&mut bench, seconds, single_use);
    (bench, tunnel)
}

fn refresh(bench: &mut Bench, seconds: u64, single_use: bool) {
    let (_, actions) = bench.expect(secs(seconds));
    let [Action::RequestToken(id)] = actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(
        bench.token(id, seconds, single_use),
        [Action::KeepToken(id)],
        "a tunnel in use is left alone"
    );
}

fn up(bench: &Bench) -> Id {
    let TunnelPhase::Up { id, .. } = bench.planner.tunnel() else {
        panic!("{:?}", bench.planner.tunnel())
    };
    id
}

#[test]
fn the_first_quiet_moment_after_a_refresh_is_used() {
    for single_use in [false, true] {
        let (mut bench, old) = refreshed(24 * HOUR, single_use);
        assert_eq!(bench.until_action(secs(60)), None);
        bench.quiet = true;
        let (after, actions) = bench.expect(secs(60));
        let [Action::HandOver { id, forced: false }] = actions[..] else {
            panic!("{actions:?}")
        };
        assert!(after <= QUIET_CHECK, "{after:?}");
        assert_eq!(up(&bench), old, "the old one serves until the new one does");
        assert_eq!(bench.step(Event::TunnelUp { id }), []);
        assert_eq!(up(&bench), id);
        assert_eq!(bench.step(Event::TunnelLost { id: old }), []);
        assert_eq!(up(&bench), id);
        assert_eq!(bench.until_action(secs(HOUR)), None, "once is enough");
    }
}

#[test]
fn a_tunnel_in_use_is_left_alone_up_to_the_relays_look() {
    // The relay looks each four hours from the connection on. A token of a whole number of them may be found expired by
    // the last one.
    for (lifetime, look) in [(HOUR, 4), (5 * HOUR, 8), (24 * HOUR, 24), (25 * HOUR, 28)] {
        let (mut bench, _) = Bench::up(lifetime, false);
        let look = bench.elapsed + secs(look * HOUR);
        loop {
            let (_, actions) = bench.expect(secs(30 * HOUR));
            match actions[..] {
                [Action::RequestToken(id)] => {
                    let actions = bench.token(id, lifetime, false);
                    assert_eq!(actions, [Action::KeepToken(id)]);
                }
                [Action::HandOver { forced: true, .. }] => break,
                _ => panic!("{actions:?}"),
            }
        }
        assert!(bench.elapsed <= look - CONNECT_LIMIT, "{:?}", bench.elapsed);
        assert!(bench.elapsed >= look - secs(61), "{:?}", bench.elapsed);
    }
}

#[test]
fn without_a_newer_token_there_is_no_move() {
    let (mut bench, tunnel) = Bench::up(HOUR, false);
    bench.quiet = true;
    bench.step(Event::Messaging(false));
    let (_, actions) = bench.expect(secs(2 * HOUR));
    assert_eq!(actions, [Action::DropToken]);
    assert_eq!(bench.until_action(secs(5 * HOUR)), None);
    assert_eq!(up(&bench), tunnel);
}

#[test]
fn a_move_that_fails_leaves_the_tunnel_and_is_tried_again_with_growing_delays() {
    let (mut bench, tunnel) = refreshed(24 * HOUR, false);
    bench.quiet = true;
    let mut delays = Vec::new();
    for _ in 0..12 {
        let (delay, actions) = bench.expect(secs(600));
        let [Action::HandOver { id, .. }] = actions[..] else {
            panic!("{actions:?}")
        };
        delays.push(delay);
        let fault = ConnectFault::Unreachable;
        assert_eq!(bench.step(Event::TunnelFailed { id, fault }), []);
        assert_eq!(up(&bench), tunnel);
    }
    assert!(delays[1..].iter().all(|delay| *delay >= secs(1)));
    assert!(
        delays[1] <= secs(15) && delays[5..].iter().any(|delay| *delay > secs(15)),
        "{delays:?}"
    );
}

#[test]
fn a_tunnel_that_is_in_use_after_all_is_asked_again_soon_with_the_same_token() {
    let (mut bench, _) = refreshed(24 * HOUR, true);
    bench.quiet = true;
    for _ in 0..3 {
        let (after, actions) = bench.expect(secs(60));
        let [Action::HandOver { id, .. }] = actions[..] else {
            panic!("{actions:?}")
        };
        assert!(after <= QUIET_CHECK, "{after:?}");
        let fault = ConnectFault::NotQuiet;
        assert_eq!(bench.step(Event::TunnelFailed { id, fault }), []);
    }
}

#[test]
fn a_tunnel_that_is_never_quiet_for_long_does_not_have_the_relay_called_each_second() {
    let (mut bench, _) = refreshed(24 * HOUR, false);
    bench.quiet = true;
    let (end, mut calls) = (bench.elapsed + secs(HOUR), 0);
    while let Some((_, actions)) = bench.until_action(end - bench.elapsed) {
        let [Action::HandOver { id, .. }] = actions[..] else {
            panic!("{actions:?}")
        };
        calls += 1;
        let fault = ConnectFault::NotQuiet;
        assert_eq!(bench.step(Event::TunnelFailed { id, fault }), []);
    }
    assert!((200..=250).contains(&calls), "{calls} in an hour");
}

#[test]
fn a_token_that_is_refused_twice_is_replaced_while_the_tunnel_goes_on() {
    let (mut bench, tunnel) = refreshed(24 * HOUR, false);
    bench.quiet = true;
    for round in 0..2 {
        let (_, actions) = bench.expect(secs(60));
        let [Action::HandOver { id, .. }] = actions[..] else {
            panic!("{actions:?}")
        };
        let fault = ConnectFault::Refused;
        let actions = bench.step(Event::TunnelFailed { id, fault });
        assert_eq!(actions.contains(&Action::DropToken), round == 1);
    }
    let (after, actions) = bench.expect(secs(60));
    assert!(matches!(actions[..], [Action::RequestToken(_)]));
    assert!(after >= secs(1), "{after:?}");
    assert_eq!(up(&bench), tunnel);
}

#[test]
fn a_move_has_thirty_seconds() {
    let (mut bench, tunnel) = refreshed(24 * HOUR, false);
    bench.quiet = true;
    let (_, actions) = bench.expect(secs(60));
    let [Action::HandOver { id, .. }] = actions[..] else {
        panic!("{actions:?}")
    };
    let (after, actions) = bench.expect(secs(60));
    assert_eq!(
        (after, actions),
        (CONNECT_LIMIT, vec![Action::AbandonConnect(id)])
    );
    assert_eq!(bench.step(Event::TunnelUp { id }), [], "too late");
    assert_eq!(up(&bench), tunnel);
}

#[test]
fn a_tunnel_lost_during_a_move_waits_for_the_new_one() {
    let (mut bench, old) = refreshed(24 * HOUR, false);
    bench.quiet = true;
    let (_, actions) = bench.expect(secs(60));
    let [Action::HandOver { id, .. }] = actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(bench.step(Event::TunnelLost { id: old }), []);
    assert!(matches!(
        bench.planner.tunnel(),
        TunnelPhase::Connecting { .. }
    ));
    assert_eq!(bench.step(Event::TunnelUp { id }), []);
    assert_eq!(up(&bench), id);
}
