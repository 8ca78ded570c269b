//! Messages leave no faster than the server takes them, and not after they have expired.

use std::time::Duration;

use super::*;

fn published(actions: &[String]) -> usize {
    actions.iter().filter(|a| a.starts_with("publish")).count()
}

#[test]
fn the_rest_of_a_burst_follows_by_itself() {
    let mut config = config();
    config.birth = None;
    config.limits.in_flight = 1000;
    let mut bench = Bench::online(config);
    let start = bench.now;
    let _receipts: Vec<_> = (0..100).map(|n| bench.publish(&n.to_string())).collect();
    let mut sent = published(&bench.actions());
    assert_eq!(sent, 10, "a tenth of the rate at once");
    while sent < 100 {
        let waited = bench.wait_until_due();
        assert!(waited < SECOND / 50, "{waited:?}");
        // As the event loop does, or the window fills up.
        sent += published(&bench.actions());
    }
    let time = (bench.now - start).as_secs_f64();
    assert!((time - 1.0).abs() < 0.001, "{time}: 90 a second");
    // No further wake-ups but for keep-alive.
    assert_eq!(bench.core.next_deadline(), Some(start + 30 * SECOND));
}

#[test]
fn a_stop_keeps_the_pace_too() {
    let mut bench = Bench::online(config());
    let _receipts: Vec<_> = (0..20).map(|n| bench.publish(&n.to_string())).collect();
    bench.core.stop(bench.now + 10 * SECOND, bench.now);
    let mut sent = published(&bench.actions());
    assert!(sent < 20, "{sent}");
    while sent < 20 {
        assert!(bench.wait_until_due() < SECOND);
        sent += published(&bench.actions());
    }
}

#[test]
fn an_expired_message_is_told_without_a_connection() {
    let mut bench = Bench::new(config());
    let options = PublishOptions::new().expires_in(3 * SECOND);
    let message = Message::new("t", "late");
    let mut late = bench.core.publish(message, options, bench.now).unwrap();
    let for_ever = PublishOptions::new().expires_in(Duration::MAX);
    let message = Message::new("t", "never");
    let mut never = bench.core.publish(message, for_ever, bench.now).unwrap();
    assert_eq!(bench.wait_until_due(), 3 * SECOND);
    assert_eq!(outcome(&mut late), Some(Err(DeliveryError::Expired)));
    bench.connect();
    let actions = bench.actions();
    assert!(actions.contains(&"publish never".to_owned()), "{actions:?}");
    assert_eq!(outcome(&mut never), None);
}
