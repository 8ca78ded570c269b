//! Messages that the server does not take now.

use super::*;

/// The messages that leave, in order.
fn published(harness: &mut Harness) -> Vec<String> {
    let actions = harness.actions().into_iter();
    actions.filter(|word| word.starts_with("publish")).collect()
}

fn answer(harness: &mut Harness, id: u16, code: u8) {
    harness.event(ConnectionEvent::Written(id));
    harness.event(ConnectionEvent::Acknowledged(id, ReasonCode(code)));
}

/// Waits for the end of the pause, with the server there all the time, and returns how long that took.
fn pause(harness: &mut Harness) -> u64 {
    let begun = harness.now;
    while harness.core.resume_at.is_some() {
        harness.wait_until_due();
        harness.event(ConnectionEvent::PingWritten);
        harness.event(ConnectionEvent::PingResp);
    }
    (harness.now - begun).as_secs()
}

#[test]
fn is_published_anew_after_a_pause() {
    for code in [0x89, 0x91, 0x96, 0x97] {
        let mut harness = Harness::online(config());
        let mut receipt = harness.publish("1");
        answer(&mut harness, 2, code);
        assert_eq!(published(&mut harness), ["publish 1"]);
        assert_eq!(outcome(&mut receipt), None);
        let _later = harness.publish("2");
        assert_eq!(published(&mut harness), [""; 0], "nothing leaves meanwhile");
        assert_eq!(pause(&mut harness), 8);
        // Not "again": the packet was answered, and has come to its end.
        assert_eq!(published(&mut harness), ["publish 1", "publish 2"]);
        answer(&mut harness, 3, 0);
        assert_eq!(outcome(&mut receipt), Some(Ok(Ack::Acknowledged)));
    }
}

#[test]
fn a_burst_keeps_its_order_and_is_one_refusal() {
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
    // Over a loss as well, which ends no pause.
    harness.event(ConnectionEvent::Lost(Cause::KeepAlive));
    harness.core.hooks_finished(harness.now);
    harness.wait_until_due();
    harness.connect();
    assert_eq!(published(&mut harness), ["publish ONLINE"]);
    assert_eq!(pause(&mut harness), 4, "of 8 s four have passed");
    let again = ["publish 1", "publish 2", "publish 3", "publish 4"];
    assert_eq!(published(&mut harness), again);
}

#[test]
fn a_server_that_takes_nothing_is_waited_for_and_ever_longer() {
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
    // It takes messages again: the next refusal is a first one.
    let _next = harness.publish("2");
    answer(&mut harness, 2, 0x97);
    assert_eq!(pause(&mut harness), 8);
}

#[test]
fn one_that_is_refused_while_others_are_taken_is_given_up() {
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
fn a_stored_one_stays_stored() {
    let mut harness = Harness::new(config());
    harness.core.restore(vec![Restored {
        id: 7,
        message: Message::new("t", "stored"),
        expires: None,
    }]);
    harness.connect();
    harness.actions();
    answer(&mut harness, 2, 0x97);
    // A stop has nothing to wait for, as the pause is longer.
    harness.core.stop(harness.now + 8 * SECOND, harness.now);
    assert_eq!(published(&mut harness), ["publish OFFLINE"]);
    harness.event(ConnectionEvent::Written(0));
    harness.event(ConnectionEvent::Disconnected);
    harness.core.hooks_finished(harness.now);
    let report = harness.core.report();
    assert_eq!(
        (report.clean, report.undelivered, report.kept),
        (true, 1, 1)
    );
}

#[test]
fn a_stop_waits_for_a_pause_that_ends_in_time() {
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
fn one_that_is_not_wanted_any_more_is_not_kept() {
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
    harness.core.forget_request(id, harness.now);
    harness.event(ConnectionEvent::Acknowledged(3, ReasonCode::QUOTA_EXCEEDED));
    assert!(harness.core.outbox.is_empty());
}
