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
    let mut harness = Harness::online(config);
    let start = harness.now;
    let _receipts: Vec<_> = (0..100).map(|n| harness.publish(&n.to_string())).collect();
    let mut sent = published(&harness.actions());
    assert_eq!(sent, 10, "a tenth of the rate at once");
    while sent < 100 {
        let waited = harness.wait_until_due();
        assert!(waited < SECOND / 50, "{waited:?}");
        // As the event loop does, or the packet_ids fills up.
        sent += published(&harness.actions());
    }
    let time = (harness.now - start).as_secs_f64();
    assert!((time - 1.0).abs() < 0.001, "{time}: 90 a second");
    // No further wake-ups but for keep-alive.
    assert_eq!(harness.core.next_deadline(), Some(start + 30 * SECOND));
}

#[test]
fn a_stop_keeps_the_pace_too() {
    let mut harness = Harness::online(config());
    let _receipts: Vec<_> = (0..20).map(|n| harness.publish(&n.to_string())).collect();
    harness.core.stop(harness.now + 10 * SECOND, harness.now);
    let mut sent = published(&harness.actions());
    assert!(sent < 20, "{sent}");
    while sent < 20 {
        assert!(harness.wait_until_due() < SECOND);
        sent += published(&harness.actions());
    }
}

#[test]
fn an_expired_message_is_told_without_a_connection() {
    let mut harness = Harness::new(config());
    let options = PublishOptions::new().expires_in(3 * SECOND);
    let message = Message::new("t", "late");
    let mut late = harness.core.publish(message, options, harness.now).unwrap();
    let for_ever = PublishOptions::new().expires_in(Duration::MAX);
    let message = Message::new("t", "never");
    let mut never = harness
        .core
        .publish(message, for_ever, harness.now)
        .unwrap();
    assert_eq!(harness.wait_until_due(), 3 * SECOND);
    assert_eq!(outcome(&mut late), Some(Err(DeliveryError::Expired)));
    harness.connect();
    let actions = harness.actions();
    assert!(actions.contains(&"publish never".to_owned()), "{actions:?}");
    assert_eq!(outcome(&mut never), None);
}
