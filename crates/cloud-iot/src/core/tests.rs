//! The core on virtual time: what it wants done, in which order, and when.

mod bench;
mod blame;
mod deferral;
mod hostile;
mod long_run;
#[cfg(feature = "metrics")]
mod measures;
mod pace;
mod reconnecting;
mod renewing;
mod sessions;
mod stopping;
mod subscribing;

use bench::*;
use tokio::sync::oneshot;

use super::*;
use crate::config::SessionConfig;
use crate::error::{DeliveryError, PublishError, RequestError};
use crate::link::ServerTerms;
use crate::message::{Message, PublishOptions, QoS, Subscription};
use crate::reason::ReasonCode;
use crate::receipt::{Ack, Receipt};

#[test]
fn order_on_each_connection() {
    let mut bench = Bench::new(config());
    let _one = bench.publish("1");
    let _two = bench.publish("2");
    assert_eq!(bench.actions(), ["connecting 1", "open"]);
    bench.event(LinkEvent::Connected(terms()));
    assert_eq!(bench.actions(), ["subscribe 2"]);
    bench.granted(&[1, 1]);
    assert_eq!(bench.actions(), ["connect hooks"]);
    bench.core.hooks_finished(bench.now);
    assert_eq!(
        bench.actions(),
        [
            "publish ONLINE",
            "publish 1",
            "publish 2",
            "online",
            "connected"
        ]
    );
    let _three = bench.publish("3");
    assert_eq!(bench.actions(), ["publish 3"]);
}

#[test]
fn a_withheld_connack_grows_the_wait_each_time() {
    let mut bench = Bench::new(config());
    bench.actions();
    let mut waits = Vec::new();
    for _ in 0..6 {
        assert_eq!(bench.wait_until_due(), 21 * SECOND);
        assert_eq!(bench.cause(), Cause::ConnectTimeout);
        waits.push(bench.wait_until_due().as_secs());
        bench.actions();
    }
    assert_eq!(waits, [2, 4, 8, 16, 16, 16]);
}

#[test]
fn accepted_and_dropped_at_once_grows_the_wait_too() {
    let mut bench = Bench::new(config());
    let mut waits = Vec::new();
    for _ in 0..4 {
        bench.connect();
        bench.wait(SECOND);
        bench.event(LinkEvent::Lost(Cause::Closed { soon: false }));
        assert_eq!(bench.cause(), Cause::Closed { soon: true });
        bench.core.hooks_finished(bench.now);
        waits.push(bench.wait_until_due().as_secs());
    }
    assert_eq!(waits, [2, 4, 8, 16]);
    // A minute of peace, and it begins anew.
    bench.connect();
    bench.now += 60 * SECOND;
    bench.event(LinkEvent::Lost(Cause::Closed { soon: false }));
    assert_eq!(bench.cause(), Cause::Closed { soon: false });
    bench.core.hooks_finished(bench.now);
    assert_eq!(bench.wait_until_due(), 2 * SECOND);
}

#[test]
fn withheld_answers_end_in_a_reconnect_in_time() {
    let mut bench = Bench::new(config());
    bench.event(LinkEvent::Connected(terms()));
    bench.actions();
    assert_eq!(bench.wait_until_due(), 30 * SECOND);
    assert_eq!(bench.cause(), Cause::SubscribeTimeout);

    let mut bench = Bench::online(config());
    let _receipt = bench.publish("1");
    bench.event(LinkEvent::Written(2));
    assert_eq!(bench.wait_until_due(), 30 * SECOND);
    assert_eq!(bench.cause(), Cause::AcknowledgeTimeout);

    // The ping goes out after half an interval: one in all.
    let mut bench = Bench::online(config());
    assert_eq!(bench.wait_until_due(), 30 * SECOND);
    assert_eq!(bench.actions(), ["ping"]);
    bench.event(LinkEvent::Pinged);
    bench.wait(SECOND);
    bench.event(LinkEvent::Ponged);
    assert_eq!(bench.wait_until_due(), 29 * SECOND);
    assert_eq!(bench.actions(), ["ping"]);
    bench.event(LinkEvent::Pinged);
    assert_eq!(bench.wait_until_due(), 30 * SECOND);
    assert_eq!(bench.cause(), Cause::KeepAlive);
}

#[test]
fn what_was_not_acknowledged_is_sent_again_in_order() {
    let mut bench = Bench::online(config());
    let mut receipts: Vec<_> = (1..=3).map(|n| bench.publish(&n.to_string())).collect();
    for id in 2..=4 {
        bench.event(LinkEvent::Written(id));
    }
    bench.event(LinkEvent::Acknowledged(3, ReasonCode::SUCCESS));
    assert_eq!(outcome(&mut receipts[1]), Some(Ok(Ack::Acknowledged)));
    bench.event(LinkEvent::Lost(Cause::KeepAlive));
    receipts.push(bench.publish("4"));
    bench.actions();
    bench.core.hooks_finished(bench.now);
    bench.wait_until_due();
    bench.connect();
    let published: Vec<_> = bench
        .actions()
        .into_iter()
        .filter(|action| action.starts_with("publish"))
        .collect();
    assert_eq!(
        published,
        ["publish ONLINE", "publish 1", "publish 3", "publish 4"]
    );
}

#[test]
fn a_loss_runs_the_hooks_once_and_only_after_greeting() {
    let mut bench = Bench::new(config());
    bench.actions();
    bench.event(LinkEvent::Lost(Cause::Refused));
    assert_eq!(bench.actions(), ["close", "waiting 2s", "disconnected"]);
    bench.event(LinkEvent::Lost(Cause::Refused));
    assert_eq!(bench.actions(), [""; 0]);

    let mut bench = Bench::online(config());
    bench.event(LinkEvent::Lost(Cause::KeepAlive));
    assert_eq!(
        bench.actions(),
        ["close", "waiting 2s", "disconnected", "disconnect hooks"]
    );
    // Hooks that outlast the wait delay the next attempt.
    assert_eq!(bench.core.next_deadline(), None);
    bench.now += 5 * SECOND;
    bench.core.hooks_finished(bench.now);
    assert_eq!(bench.actions(), ["connecting 2", "open"]);
}

#[test]
fn the_servers_terms_are_kept() {
    let mut bench = Bench::new(SessionConfig {
        birth: None,
        ..config()
    });
    let _receipts: Vec<_> = (1..=5).map(|n| bench.publish(&n.to_string())).collect();
    bench.actions();
    bench.event(LinkEvent::Connected(ServerTerms {
        receive_maximum: 2,
        ..terms()
    }));
    bench.granted(&[1, 1]);
    bench.core.hooks_finished(bench.now);
    // The SUBSCRIBE took packet id 1.
    assert_eq!(
        bench.actions(),
        [
            "subscribe 2",
            "connect hooks",
            "publish 1",
            "publish 2",
            "online",
            "connected"
        ]
    );
    bench.event(LinkEvent::Written(2));
    bench.event(LinkEvent::Written(1));
    bench.event(LinkEvent::Acknowledged(2, ReasonCode::SUCCESS));
    assert_eq!(bench.actions(), ["publish 3"]);

    let mut bench = Bench::new(config());
    bench.event(LinkEvent::Connected(ServerTerms {
        receive_maximum: 0,
        ..terms()
    }));
    assert!(matches!(bench.cause(), Cause::Protocol(_)));
}

#[test]
fn what_cannot_be_sent_is_not_accepted() {
    let mut bench = Bench::new(config());
    let large = Message::new("t", vec![0; (128 << 10) + 1]);
    assert_eq!(
        bench.try_publish(large).unwrap_err(),
        PublishError::TooLarge {
            size: 131_073,
            limit: 131_072
        }
    );
    assert!(matches!(
        bench.try_publish(Message::new("t/+", "")).unwrap_err(),
        PublishError::Topic(_)
    ));
}

#[test]
fn an_answer_goes_to_its_request() {
    let mut bench = Bench::online(config());
    let (sender, mut answer) = oneshot::channel();
    let request = Message::new("req", "?");
    let (id, _receipt) = bench
        .core
        .request(request.clone(), "a/res".into(), sender, bench.now)
        .unwrap();
    let (second, _) = oneshot::channel();
    assert_eq!(
        bench
            .core
            .request(request, "a/res".into(), second, bench.now)
            .unwrap_err(),
        RequestError::Busy("a/res".into())
    );
    let message = Message::new("a/res", "!");
    bench.receive(message.clone(), 0, false);
    bench.event(LinkEvent::Written(2));
    bench.receive(message.clone(), 0, false);
    bench.receive(message.clone(), 0, false);
    assert_eq!(
        bench.actions(),
        [
            "publish ?",
            "deliver false",
            "deliver true",
            "deliver false"
        ]
    );
    assert_eq!(answer.try_recv().unwrap(), message);
    bench.core.forget_request(id, bench.now);
}

#[test]
fn a_request_given_up_offline_never_leaves() {
    let mut bench = Bench::new(config());
    let (sender, _answer) = oneshot::channel();
    let (id, _receipt) = bench
        .core
        .request(Message::new("req", "?"), "a/res".into(), sender, bench.now)
        .unwrap();
    bench.core.forget_request(id, bench.now);
    bench.actions();
    bench.connect();
    assert!(!bench.actions().contains(&"publish ?".to_owned()));
}

#[test]
fn a_request_given_up_is_not_sent_on_another_connection() {
    let written: [fn(&mut Bench); 2] = [|_| {}, |bench| bench.event(LinkEvent::Written(2))];
    for (qos, written) in [
        (QoS::AtMostOnce, written[0]),
        (QoS::AtLeastOnce, written[0]),
        (QoS::AtLeastOnce, written[1]),
    ] {
        let mut bench = Bench::online(config());
        let request = Message::new("req", "?").qos(qos);
        let (sender, _answer) = oneshot::channel();
        let requested = bench
            .core
            .request(request, "a/res".into(), sender, bench.now);
        let (id, _receipt) = requested.unwrap();
        assert_eq!(bench.actions(), ["publish ?"]);
        written(&mut bench);
        bench.core.forget_request(id, bench.now);
        bench.event(LinkEvent::Lost(Cause::Stalled));
        bench.core.hooks_finished(bench.now);
        bench.wait_until_due();
        bench.actions();
        bench.connect();
        let done = bench.actions();
        assert!(!done.contains(&"publish ?".to_owned()), "{done:?}");
        assert!(bench.core.outbox.is_empty());
    }
}

#[test]
fn two_clients_with_one_id_do_not_keep_up_their_pace() {
    let mut bench = Bench::new(config());
    let mut waits = Vec::new();
    for _ in 0..4 {
        bench.connect();
        bench.now += 100 * SECOND;
        let reason = ReasonCode::SESSION_TAKEN_OVER;
        bench.event(LinkEvent::Lost(Cause::Disconnected {
            reason,
            message: None,
        }));
        bench.core.hooks_finished(bench.now);
        waits.push(bench.wait_until_due().as_secs());
    }
    assert_eq!(waits, [32, 64, 128, 256]);
}

#[test]
fn slow_but_steady_is_not_dead() {
    let mut bench = Bench::online(config());
    let _receipts: Vec<_> = (0..4).map(|n| bench.publish(&n.to_string())).collect();
    for id in 2..=5 {
        bench.event(LinkEvent::Written(id));
    }
    // One answer every 20 seconds, where each may take 30, and the ping's comes last.
    for id in 2..=4 {
        bench.wait(20 * SECOND);
        bench.event(LinkEvent::Pinged);
        bench.event(LinkEvent::Acknowledged(id, ReasonCode::SUCCESS));
    }
    assert_eq!(bench.wait_until_due(), 30 * SECOND);
    assert!(matches!(
        bench.cause(),
        Cause::AcknowledgeTimeout | Cause::KeepAlive
    ));

    // Answers to later messages do not excuse the one that is left out.
    let mut bench = Bench::online(config());
    let _receipts: Vec<_> = (0..4).map(|n| bench.publish(&n.to_string())).collect();
    for id in 2..=5 {
        bench.event(LinkEvent::Written(id));
    }
    bench.wait(20 * SECOND);
    bench.event(LinkEvent::Acknowledged(3, ReasonCode::SUCCESS));
    assert_eq!(bench.wait_until_due(), 10 * SECOND);
    assert_eq!(bench.cause(), Cause::AcknowledgeTimeout);
}
