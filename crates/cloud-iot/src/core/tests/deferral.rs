//! Messages that the server does not take now.

use super::*;

/// The messages that leave, in order.
fn published(bench: &mut Bench) -> Vec<String> {
    let actions = bench.actions().into_iter();
    actions.filter(|word| word.starts_with("publish")).collect()
}

fn answer(bench: &mut Bench, id: u16, code: u8) {
    bench.event(LinkEvent::Written(id));
    bench.event(LinkEvent::Acknowledged(id, ReasonCode(code)));
}

/// Waits for the end of the pause, with the server there all the time, and returns how long that took.
fn pause(bench: &mut Bench) -> u64 {
    let begun = bench.now;
    while bench.core.resume_at.is_some() {
        bench.wait_until_due();
        bench.event(LinkEvent::Pinged);
        bench.event(LinkEvent::Ponged);
    }
    (bench.now - begun).as_secs()
}

#[test]
fn is_published_anew_after_a_pause() {
    for code in [0x89, 0x91, 0x96, 0x97] {
        let mut bench = Bench::online(config());
        let mut receipt = bench.publish("1");
        answer(&mut bench, 2, code);
        assert_eq!(published(&mut bench), ["publish 1"]);
        assert_eq!(outcome(&mut receipt), None);
        let _later = bench.publish("2");
        assert_eq!(published(&mut bench), [""; 0], "nothing leaves meanwhile");
        assert_eq!(pause(&mut bench), 8);
        // Not "again": the packet was answered, and has come to its end.
        assert_eq!(published(&mut bench), ["publish 1", "publish 2"]);
        answer(&mut bench, 3, 0);
        assert_eq!(outcome(&mut receipt), Some(Ok(Ack::Acknowledged)));
    }
}

#[test]
fn a_burst_keeps_its_order_and_is_one_refusal() {
    let mut bench = Bench::online(config());
    let _receipts: Vec<_> = (1..=4).map(|n| bench.publish(&n.to_string())).collect();
    published(&mut bench);
    for id in 2..=5 {
        bench.event(LinkEvent::Written(id));
    }
    for id in [3, 2, 5] {
        bench.wait(SECOND);
        bench.event(LinkEvent::Acknowledged(id, ReasonCode::QUOTA_EXCEEDED));
    }
    // Over a loss as well, which ends no pause.
    bench.event(LinkEvent::Lost(Cause::KeepAlive));
    bench.core.hooks_finished(bench.now);
    bench.wait_until_due();
    bench.connect();
    assert_eq!(published(&mut bench), ["publish ONLINE"]);
    assert_eq!(pause(&mut bench), 4, "of 8 s four have passed");
    let again = ["publish 1", "publish 2", "publish 3", "publish 4"];
    assert_eq!(published(&mut bench), again);
}

#[test]
fn a_server_that_takes_nothing_is_waited_for_and_ever_longer() {
    let mut bench = Bench::online(config());
    let mut receipt = bench.publish("1");
    let mut pauses = Vec::new();
    for id in 2..=100 {
        answer(&mut bench, id, 0x97);
        assert_eq!(published(&mut bench), ["publish 1"]);
        pauses.push(pause(&mut bench));
    }
    assert_eq!(pauses[..4], [8, 16, 16, 16]);
    assert_eq!(outcome(&mut receipt), None);
    published(&mut bench);
    bench.event(LinkEvent::Written(1));
    bench.event(LinkEvent::Acknowledged(1, ReasonCode::SUCCESS));
    assert_eq!(outcome(&mut receipt), Some(Ok(Ack::Acknowledged)));
    // It takes messages again: the next refusal is a first one.
    let _next = bench.publish("2");
    answer(&mut bench, 2, 0x97);
    assert_eq!(pause(&mut bench), 8);
}

#[test]
fn one_that_is_refused_while_others_are_taken_is_given_up() {
    let mut bench = Bench::online(config());
    let mut refused = bench.publish("bad");
    let mut id = 1;
    let mut rounds = 0;
    while outcome(&mut refused).is_none() {
        rounds += 1;
        assert!(rounds < 20);
        let mut taken = bench.publish("good");
        assert_eq!(published(&mut bench), ["publish bad", "publish good"]);
        bench.event(LinkEvent::Written(id % 100 + 1));
        bench.event(LinkEvent::Written(id % 100 + 2));
        bench.event(LinkEvent::Acknowledged(id % 100 + 1, ReasonCode(0x97)));
        bench.event(LinkEvent::Acknowledged(id % 100 + 2, ReasonCode(0)));
        assert_eq!(outcome(&mut taken), Some(Ok(Ack::Acknowledged)));
        id += 2;
        pause(&mut bench);
    }
    assert_eq!(rounds, 9, "the first one does not count");
}

#[test]
fn a_stored_one_stays_stored() {
    let mut bench = Bench::new(config());
    bench.core.restore(vec![Restored {
        id: 7,
        message: Message::new("t", "stored"),
        expires: None,
    }]);
    bench.connect();
    bench.actions();
    answer(&mut bench, 2, 0x97);
    // A stop has nothing to wait for, as the pause is longer.
    bench.core.stop(bench.now + 8 * SECOND, bench.now);
    assert_eq!(published(&mut bench), ["publish OFFLINE"]);
    bench.event(LinkEvent::Written(0));
    bench.event(LinkEvent::Disconnected);
    bench.core.hooks_finished(bench.now);
    let report = bench.core.report();
    assert_eq!(
        (report.clean, report.undelivered, report.kept),
        (true, 1, 1)
    );
}

#[test]
fn a_stop_waits_for_a_pause_that_ends_in_time() {
    let mut bench = Bench::online(config());
    let mut receipt = bench.publish("1");
    answer(&mut bench, 2, 0x97);
    bench.actions();
    bench.core.stop(bench.now + 12 * SECOND, bench.now);
    assert_eq!(published(&mut bench), [""; 0]);
    assert_eq!(pause(&mut bench), 8);
    assert_eq!(published(&mut bench), ["publish 1"]);
    answer(&mut bench, 3, 0);
    assert_eq!(outcome(&mut receipt), Some(Ok(Ack::Acknowledged)));
    assert_eq!(published(&mut bench), ["publish OFFLINE"]);
}

#[test]
fn one_that_is_not_wanted_any_more_is_not_kept() {
    let mut bench = Bench::online(config());
    let options = PublishOptions::new().expires_in(3 * SECOND);
    let message = Message::new("t", "late");
    let mut late = bench.core.publish(message, options, bench.now).unwrap();
    answer(&mut bench, 2, 0x97);
    bench.wait(3 * SECOND);
    assert_eq!(outcome(&mut late), Some(Err(DeliveryError::Expired)));

    let (sender, _answer) = oneshot::channel();
    let request = Message::new("a/req", "q");
    let asked = bench
        .core
        .request(request, "a/res".into(), sender, bench.now);
    let (id, _receipt) = asked.unwrap();
    pause(&mut bench);
    bench.event(LinkEvent::Written(3));
    bench.core.forget_request(id, bench.now);
    bench.event(LinkEvent::Acknowledged(3, ReasonCode::QUOTA_EXCEEDED));
    assert!(bench.core.outbox.is_empty());
}
