//! Pacing and expiry of messages.

use std::time::Duration;

use super::*;

fn published(actions: &[String]) -> usize {
    actions.iter().filter(|a| a.starts_with("publish")).count()
}

#[test]
fn rest_of_a_burst_is_paced() {
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
        // Writes them, so that the receive maximum is not reached.
        sent += published(&harness.actions());
    }
    let time = (harness.now - start).as_secs_f64();
    assert!((time - 1.0).abs() < 0.001, "{time}: 90 a second");
    // The only other deadline is keep-alive.
    assert_eq!(harness.core.poll_timeout(), Some(start + 30 * SECOND));
}

#[test]
fn stop_respects_the_pacer() {
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
fn message_expires_while_offline() {
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
