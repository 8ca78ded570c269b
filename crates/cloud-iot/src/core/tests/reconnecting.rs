//! Where and when the next attempt is made, by what ended the last one.

use super::*;
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
    assert_eq!(next_attempt(&mut bench, Cause::ConnectTimeout), "open");
    assert_eq!(next_attempt(&mut bench, Cause::Unreachable), "open 443");
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
