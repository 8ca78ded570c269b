//! Messages that the server does not accept now.

use super::*;

/// Returns the messages that are sent, in order.
fn published(harness: &mut Harness) -> Vec<String> {
    let actions = harness.actions().into_iter();
    actions
        .filter(|action| action.starts_with("publish"))
        .collect()
}

fn answer(harness: &mut Harness, id: u16, code: u8) {
    harness.event(ConnectionEvent::Written(id));
    harness.event(ConnectionEvent::Acknowledged(id, ReasonCode(code)));
}

/// Waits for the end of the pause while the server responds, and returns how long that took.
fn pause(harness: &mut Harness) -> u64 {
    let started = harness.now;
    while harness.core.resume_at.is_some() {
        harness.wait_until_due();
        harness.event(ConnectionEvent::PingWritten);
        harness.event(ConnectionEvent::PingResp);
    }
    (harness.now - started).as_secs()
}

#[test]
fn deferred_message_is_published_after_pause() {
    for code in [0x89, 0x91, 0x96, 0x97] {
        let mut harness = Harness::online(config());
        let mut receipt = harness.publish("1");
        answer(&mut harness, 2, code);
        assert_eq!(published(&mut harness), ["publish 1"]);
        assert_eq!(outcome(&mut receipt), None);
        let _later = harness.publish("2");
        assert_eq!(
            published(&mut harness),
            [""; 0],
            "nothing is sent during the pause"
        );
        assert_eq!(pause(&mut harness), 8);
        // Not "again": the packet was answered and is complete.
        assert_eq!(published(&mut harness), ["publish 1", "publish 2"]);
        answer(&mut harness, 3, 0);
        assert_eq!(outcome(&mut receipt), Some(Ok(Ack::Acknowledged)));
    }
}

#[test]
fn burst_of_refusals_keeps_order_and_counts_once() {
    let mut harness = Harness::online(config());
    let _receipts: Vec<_> = (1..=4).map(|n| harness.publish(&n.to_string())).collect();
    published(&mut harness);
    for id in 2..=5 {
        harness.event(ConnectionEvent::Written(id));
    }
    for id in [3, 2, 5] {
        harness.wait(SECOND);
        harness.event(ConnectionEvent::Acknowledged(
            id,
            ReasonCode::QUOTA_EXCEEDED,
        ));
    }
    // A lost connection does not end the pause.
    harness.event(ConnectionEvent::Lost(Cause::KeepAlive));
    harness.core.handle_hooks_finished(harness.now);
    harness.wait_until_due();
    harness.connect();
    assert_eq!(published(&mut harness), ["publish ONLINE"]);
    assert_eq!(pause(&mut harness), 4, "of 8 s four have passed");
    let again = ["publish 1", "publish 2", "publish 3", "publish 4"];
    assert_eq!(published(&mut harness), again);
}

#[test]
fn pause_grows_while_server_accepts_nothing() {
    let mut harness = Harness::online(config());
    let mut receipt = harness.publish("1");
    let mut pauses = Vec::new();
    for id in 2..=100 {
        answer(&mut harness, id, 0x97);
        assert_eq!(published(&mut harness), ["publish 1"]);
        pauses.push(pause(&mut harness));
    }
    assert_eq!(pauses[..4], [8, 16, 16, 16]);
    assert_eq!(outcome(&mut receipt), None);
    published(&mut harness);
    harness.event(ConnectionEvent::Written(1));
    harness.event(ConnectionEvent::Acknowledged(1, ReasonCode::SUCCESS));
    assert_eq!(outcome(&mut receipt), Some(Ok(Ack::Acknowledged)));
    // The server accepts messages again: the next refusal counts as the first.
    let _next = harness.publish("2");
    answer(&mut harness, 2, 0x97);
    assert_eq!(pause(&mut harness), 8);
}

#[test]
fn repeatedly_refused_message_is_dropped() {
    let mut harness = Harness::online(config());
    let mut refused = harness.publish("bad");
    let mut id = 1;
    let mut rounds = 0;
    while outcome(&mut refused).is_none() {
        rounds += 1;
        assert!(rounds < 20);
        let mut taken = harness.publish("good");
        assert_eq!(published(&mut harness), ["publish bad", "publish good"]);
        harness.event(ConnectionEvent::Written(id % 100 + 1));
        harness.event(ConnectionEvent::Written(id % 100 + 2));
        harness.event(ConnectionEvent::Acknowledged(
            id % 100 + 1,
            ReasonCode(0x97),
        ));
        harness.event(ConnectionEvent::Acknowledged(id % 100 + 2, ReasonCode(0)));
        assert_eq!(outcome(&mut taken), Some(Ok(Ack::Acknowledged)));
        id += 2;
        pause(&mut harness);
    }
    assert_eq!(rounds, 9, "the first one does not count");
}

#[test]
fn deferred_message_stays_stored() {
    let mut harness = Harness::new(config());
    harness.core.restore(vec![Restored {
        id: 7,
        message: Message::new("t", "stored"),
        expires: None,
    }]);
    harness.connect();
    harness.actions();
    answer(&mut harness, 2, 0x97);
    // A stop does not wait for a pause that is longer.
    harness.core.stop(harness.now + 8 * SECOND, harness.now);
    assert_eq!(published(&mut harness), ["publish OFFLINE"]);
    harness.event(ConnectionEvent::Written(0));
    harness.event(ConnectionEvent::Disconnected);
    harness.core.handle_hooks_finished(harness.now);
    let report = harness.core.report();
    assert_eq!(
        (report.clean, report.undelivered, report.stored),
        (true, 1, 1)
    );
}

#[test]
fn stop_waits_for_short_pause() {
    let mut harness = Harness::online(config());
    let mut receipt = harness.publish("1");
    answer(&mut harness, 2, 0x97);
    harness.actions();
    harness.core.stop(harness.now + 12 * SECOND, harness.now);
    assert_eq!(published(&mut harness), [""; 0]);
    assert_eq!(pause(&mut harness), 8);
    assert_eq!(published(&mut harness), ["publish 1"]);
    answer(&mut harness, 3, 0);
    assert_eq!(outcome(&mut receipt), Some(Ok(Ack::Acknowledged)));
    assert_eq!(published(&mut harness), ["publish OFFLINE"]);
}

#[test]
fn withdrawn_message_is_not_resent() {
    let mut harness = Harness::online(config());
    let options = PublishOptions::new().expires_in(3 * SECOND);
    let message = Message::new("t", "late");
    let mut late = harness.core.publish(message, options, harness.now).unwrap();
    answer(&mut harness, 2, 0x97);
    harness.wait(3 * SECOND);
    assert_eq!(outcome(&mut late), Some(Err(DeliveryError::Expired)));

    let (sender, _answer) = oneshot::channel();
    let request = Message::new("a/req", "q");
    let asked = harness
        .core
        .request(request, "a/res".into(), sender, harness.now);
    let (id, _receipt) = asked.unwrap();
    pause(&mut harness);
    harness.event(ConnectionEvent::Written(3));
    harness.core.cancel_request(id, harness.now);
    harness.event(ConnectionEvent::Acknowledged(3, ReasonCode::QUOTA_EXCEEDED));
    assert!(harness.core.outbox.is_empty());
}
