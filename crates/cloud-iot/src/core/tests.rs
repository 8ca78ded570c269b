//! The core on virtual time: its actions, their order, and their times.

mod added_subscriptions;
mod backoff;
mod capabilities;
mod harness;
mod hostile_server;
mod long_run;
#[cfg(feature = "metrics")]
mod metrics;
mod pacer;
mod persistent_sessions;
mod poison;
mod reconnect;
mod shutdown;
mod subscribe;
mod throttle;

use harness::*;
use tokio::sync::oneshot;

use super::*;
use crate::core::connection_event::ServerCapabilities;
use crate::error::{DeliveryError, PublishError, RequestError};
use crate::mqtt::message::{Message, PublishOptions, QoS, Subscription};
use crate::mqtt::reason_code::ReasonCode;
use crate::session::config::SessionConfig;
use crate::session::receipt::{Ack, Receipt};

#[test]
fn order_on_each_connection() {
    let mut harness = Harness::new(config());
    let _one = harness.publish("1");
    let _two = harness.publish("2");
    assert_eq!(harness.actions(), ["connecting 1", "open"]);
    harness.event(ConnectionEvent::Connected(capabilities()));
    assert_eq!(harness.actions(), ["subscribe 2"]);
    harness.granted(&[1, 1]);
    assert_eq!(harness.actions(), ["connect hooks"]);
    harness.core.handle_hooks_finished(harness.now);
    assert_eq!(
        harness.actions(),
        [
            "publish ONLINE",
            "publish 1",
            "publish 2",
            "online",
            "connected"
        ]
    );
    let _three = harness.publish("3");
    assert_eq!(harness.actions(), ["publish 3"]);
}

#[test]
fn missing_connack_grows_the_back_off() {
    let mut harness = Harness::new(config());
    harness.actions();
    let mut waits = Vec::new();
    for _ in 0..6 {
        assert_eq!(harness.wait_until_due(), 21 * SECOND);
        assert_eq!(harness.cause(), Cause::ConnectTimeout);
        waits.push(harness.wait_until_due().as_secs());
        harness.actions();
    }
    assert_eq!(waits, [2, 4, 8, 16, 16, 16]);
}

#[test]
fn immediate_disconnect_grows_the_back_off() {
    let mut harness = Harness::new(config());
    let mut waits = Vec::new();
    for _ in 0..4 {
        harness.connect();
        harness.wait(SECOND);
        harness.event(ConnectionEvent::Lost(Cause::Closed { soon: false }));
        assert_eq!(harness.cause(), Cause::Closed { soon: true });
        harness.core.handle_hooks_finished(harness.now);
        waits.push(harness.wait_until_due().as_secs());
    }
    assert_eq!(waits, [2, 4, 8, 16]);
    // A minute online resets the back-off.
    harness.connect();
    harness.now += 60 * SECOND;
    harness.event(ConnectionEvent::Lost(Cause::Closed { soon: false }));
    assert_eq!(harness.cause(), Cause::Closed { soon: false });
    harness.core.handle_hooks_finished(harness.now);
    assert_eq!(harness.wait_until_due(), 2 * SECOND);
}

#[test]
fn missing_responses_reconnect_in_time() {
    let mut harness = Harness::new(config());
    harness.event(ConnectionEvent::Connected(capabilities()));
    harness.actions();
    assert_eq!(harness.wait_until_due(), 30 * SECOND);
    assert_eq!(harness.cause(), Cause::SubscribeTimeout);

    let mut harness = Harness::online(config());
    let _receipt = harness.publish("1");
    harness.event(ConnectionEvent::Written(2));
    assert_eq!(harness.wait_until_due(), 30 * SECOND);
    assert_eq!(harness.cause(), Cause::AcknowledgeTimeout);

    // One PINGREQ in total, after half an interval.
    let mut harness = Harness::online(config());
    assert_eq!(harness.wait_until_due(), 30 * SECOND);
    assert_eq!(harness.actions(), ["ping"]);
    harness.event(ConnectionEvent::PingWritten);
    harness.wait(SECOND);
    harness.event(ConnectionEvent::PingResp);
    assert_eq!(harness.wait_until_due(), 29 * SECOND);
    assert_eq!(harness.actions(), ["ping"]);
    harness.event(ConnectionEvent::PingWritten);
    assert_eq!(harness.wait_until_due(), 30 * SECOND);
    assert_eq!(harness.cause(), Cause::KeepAlive);
}

#[test]
fn unacknowledged_messages_are_resent_in_order() {
    let mut harness = Harness::online(config());
    let mut receipts: Vec<_> = (1..=3).map(|n| harness.publish(&n.to_string())).collect();
    for id in 2..=4 {
        harness.event(ConnectionEvent::Written(id));
    }
    harness.event(ConnectionEvent::Acknowledged(3, ReasonCode::SUCCESS));
    assert_eq!(outcome(&mut receipts[1]), Some(Ok(Ack::Acknowledged)));
    harness.event(ConnectionEvent::Lost(Cause::KeepAlive));
    receipts.push(harness.publish("4"));
    harness.actions();
    harness.core.handle_hooks_finished(harness.now);
    harness.wait_until_due();
    harness.connect();
    let published: Vec<_> = harness
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
fn disconnect_hooks_run_once_after_connect_hooks() {
    let mut harness = Harness::new(config());
    harness.actions();
    harness.event(ConnectionEvent::Lost(Cause::Refused));
    assert_eq!(harness.actions(), ["close", "waiting 2s", "disconnected"]);
    harness.event(ConnectionEvent::Lost(Cause::Refused));
    assert_eq!(harness.actions(), [""; 0]);

    let mut harness = Harness::online(config());
    harness.event(ConnectionEvent::Lost(Cause::KeepAlive));
    assert_eq!(
        harness.actions(),
        ["close", "waiting 2s", "disconnected", "disconnect hooks"]
    );
    // Hooks that outlast the back-off delay the next attempt.
    assert_eq!(harness.core.poll_timeout(), None);
    harness.now += 5 * SECOND;
    harness.core.handle_hooks_finished(harness.now);
    assert_eq!(harness.actions(), ["connecting 2", "open"]);
}

#[test]
fn server_capabilities_are_respected() {
    let mut harness = Harness::new(SessionConfig {
        birth: None,
        ..config()
    });
    let _receipts: Vec<_> = (1..=5).map(|n| harness.publish(&n.to_string())).collect();
    harness.actions();
    harness.event(ConnectionEvent::Connected(ServerCapabilities {
        receive_maximum: 2,
        ..capabilities()
    }));
    harness.granted(&[1, 1]);
    harness.core.handle_hooks_finished(harness.now);
    // The SUBSCRIBE used packet identifier 1.
    assert_eq!(
        harness.actions(),
        [
            "subscribe 2",
            "connect hooks",
            "publish 1",
            "publish 2",
            "online",
            "connected"
        ]
    );
    harness.event(ConnectionEvent::Written(2));
    harness.event(ConnectionEvent::Written(1));
    harness.event(ConnectionEvent::Acknowledged(2, ReasonCode::SUCCESS));
    assert_eq!(harness.actions(), ["publish 3"]);

    let mut harness = Harness::new(config());
    harness.event(ConnectionEvent::Connected(ServerCapabilities {
        receive_maximum: 0,
        ..capabilities()
    }));
    assert!(matches!(harness.cause(), Cause::Protocol(_)));
}

#[test]
fn unsendable_message_is_not_accepted() {
    let mut harness = Harness::new(config());
    let large = Message::new("t", vec![0; (128 << 10) + 1]);
    assert_eq!(
        harness.try_publish(large).unwrap_err(),
        PublishError::TooLarge {
            size: 131_073,
            limit: 131_072
        }
    );
    assert!(matches!(
        harness.try_publish(Message::new("t/+", "")).unwrap_err(),
        PublishError::Topic(_)
    ));
}

#[test]
fn an_answer_goes_to_its_request() {
    let mut harness = Harness::online(config());
    let (sender, mut answer) = oneshot::channel();
    let request = Message::new("req", "?");
    let (id, _receipt) = harness
        .core
        .request(request.clone(), "a/res".into(), sender, harness.now)
        .unwrap();
    let (second, _) = oneshot::channel();
    assert_eq!(
        harness
            .core
            .request(request, "a/res".into(), second, harness.now)
            .unwrap_err(),
        RequestError::Busy("a/res".into())
    );
    let message = Message::new("a/res", "!");
    harness.receive(message.clone(), 0, false);
    harness.event(ConnectionEvent::Written(2));
    harness.receive(message.clone(), 0, false);
    harness.receive(message.clone(), 0, false);
    assert_eq!(
        harness.actions(),
        [
            "publish ?",
            "deliver false",
            "deliver true",
            "deliver false"
        ]
    );
    assert_eq!(answer.try_recv().unwrap(), Ok(message));
    harness.core.cancel_request(id, harness.now);
}

#[test]
fn request_cancelled_offline_is_never_sent() {
    let mut harness = Harness::new(config());
    let (sender, _answer) = oneshot::channel();
    let (id, _receipt) = harness
        .core
        .request(
            Message::new("req", "?"),
            "a/res".into(),
            sender,
            harness.now,
        )
        .unwrap();
    harness.core.cancel_request(id, harness.now);
    harness.actions();
    harness.connect();
    assert!(!harness.actions().contains(&"publish ?".to_owned()));
}

#[test]
fn cancelled_request_is_not_resent() {
    let written: [fn(&mut Harness); 2] =
        [|_| {}, |harness| harness.event(ConnectionEvent::Written(2))];
    for (qos, written) in [
        (QoS::AtMostOnce, written[0]),
        (QoS::AtLeastOnce, written[0]),
        (QoS::AtLeastOnce, written[1]),
    ] {
        let mut harness = Harness::online(config());
        let request = Message::new("req", "?").qos(qos);
        let (sender, _answer) = oneshot::channel();
        let requested = harness
            .core
            .request(request, "a/res".into(), sender, harness.now);
        let (id, _receipt) = requested.unwrap();
        assert_eq!(harness.actions(), ["publish ?"]);
        written(&mut harness);
        harness.core.cancel_request(id, harness.now);
        harness.event(ConnectionEvent::Lost(Cause::WriteStalled));
        harness.core.handle_hooks_finished(harness.now);
        harness.wait_until_due();
        harness.actions();
        harness.connect();
        let done = harness.actions();
        assert!(!done.contains(&"publish ?".to_owned()), "{done:?}");
        assert!(harness.core.outbox.is_empty());
    }
}

#[test]
fn takeover_by_same_client_id_backs_off() {
    let mut harness = Harness::new(config());
    let mut waits = Vec::new();
    for _ in 0..4 {
        harness.connect();
        harness.now += 100 * SECOND;
        let reason = ReasonCode::SESSION_TAKEN_OVER;
        harness.event(ConnectionEvent::Lost(Cause::Disconnected {
            reason,
            message: None,
        }));
        harness.core.handle_hooks_finished(harness.now);
        waits.push(harness.wait_until_due().as_secs());
    }
    assert_eq!(waits, [32, 64, 128, 256]);
}

#[test]
fn slow_but_steady_is_not_dead() {
    let mut harness = Harness::online(config());
    let _receipts: Vec<_> = (0..4).map(|n| harness.publish(&n.to_string())).collect();
    for id in 2..=5 {
        harness.event(ConnectionEvent::Written(id));
    }
    // One acknowledgement every 20 seconds, with a timeout of 30 s each; PINGRESP arrives last.
    for id in 2..=4 {
        harness.wait(20 * SECOND);
        harness.event(ConnectionEvent::PingWritten);
        harness.event(ConnectionEvent::Acknowledged(id, ReasonCode::SUCCESS));
    }
    assert_eq!(harness.wait_until_due(), 30 * SECOND);
    assert!(matches!(
        harness.cause(),
        Cause::AcknowledgeTimeout | Cause::KeepAlive
    ));

    // Acknowledgements of later messages do not extend the timeout of the missing one.
    let mut harness = Harness::online(config());
    let _receipts: Vec<_> = (0..4).map(|n| harness.publish(&n.to_string())).collect();
    for id in 2..=5 {
        harness.event(ConnectionEvent::Written(id));
    }
    harness.wait(20 * SECOND);
    harness.event(ConnectionEvent::Acknowledged(3, ReasonCode::SUCCESS));
    assert_eq!(harness.wait_until_due(), 10 * SECOND);
    assert_eq!(harness.cause(), Cause::AcknowledgeTimeout);
}
