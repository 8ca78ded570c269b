//! Received messages: routes and streams.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud_iot::{
    Acknowledge, BoxError, Json, Lagged, Message, RouteOptions, Router, Session, SessionEvent,
    StreamError,
};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use tokio::sync::{Semaphore, mpsc};
use tower::service_fn;

use crate::common::*;

#[tokio::test]
async fn routes_by_filter_in_order() {
    let site = Site::new().await;
    let (sender, mut handled) = mpsc::unbounded_channel();
    let route = |name: &'static str| {
        let sender = sender.clone();
        service_fn(move |message: Message| {
            let sender = sender.clone();
            async move {
                sender.send((name, String::from_utf8(message.payload.to_vec())?))?;
                Ok::<(), BoxError>(())
            }
        })
    };
    let router = Router::new()
        .route("in/+/req", route("req"))
        .unwrap()
        .route("in/broadcast", route("broadcast"))
        .unwrap();
    let session = site.routed(router).await;
    for n in 0..20 {
        publish(&session, "in/a/req", &n.to_string()).await;
    }
    publish(&session, "in/other", "no route").await;
    publish(&session, "in/broadcast", "all").await;
    let mut requests = Vec::new();
    let mut broadcasts = Vec::new();
    for _ in 0..21 {
        match soon(handled.recv()).await.unwrap() {
            ("req", payload) => requests.push(payload),
            (_, payload) => broadcasts.push(payload),
        }
    }
    assert_eq!(requests, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(broadcasts, ["all"]);
    session.stop(STOP).await;
}

#[tokio::test]
async fn slow_handler_delays_no_other_and_reports_overflow() {
    let site = Site::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let (slow, mut handled) = gated(&gate);
    let options = RouteOptions::new().queue_messages(4);
    let router = Router::new().route_with("in/slow", options, slow).unwrap();
    let session = site.routed(router).await;
    let mut events = session.events();
    let mut other = session.messages("in/other").unwrap();
    for n in 0..10 {
        publish(&session, "in/slow", &n.to_string()).await;
        publish(&session, "in/other", &n.to_string()).await;
        assert_eq!(next(&mut other).await, n.to_string());
    }
    let overflow = soon(events.recv()).await.unwrap();
    assert!(
        matches!(overflow, SessionEvent::RouteOverflow { .. }),
        "{overflow:?}"
    );
    gate.add_permits(100);
    for n in 0..4 {
        assert_eq!(soon(handled.recv()).await.unwrap().payload, n.to_string());
    }
    session.stop(STOP).await;
}

#[derive(serde::Deserialize)]
struct Step {
    number: u32,
}

#[tokio::test]
async fn json_is_parsed_and_malformed_payload_reported() {
    let site = Site::new().await;
    let (sender, mut handled) = mpsc::unbounded_channel();
    let handler = service_fn(move |Json { topic, value }: Json<Step>| {
        let sent = sender.send((topic, value.number));
        async move { sent }
    });
    let router = Router::new().json("in/#", handler).unwrap();
    let session = site.routed(router).await;
    let mut events = session.events();
    for (n, (payload, json)) in [("{\"number\":\"secret\"}", true), ("secret", false)]
        .into_iter()
        .enumerate()
    {
        publish(&session, "in/a", payload).await;
        match soon(events.recv()).await.unwrap() {
            SessionEvent::RouteMalformed { error, count, .. } => {
                assert_eq!((error.is_json, count), (json, n as u64 + 1));
                assert!(!error.to_string().contains("secret"), "{error}");
            }
            event => panic!("{event:?}"),
        }
    }
    publish(&session, "in/a", "{\"number\":7}").await;
    let (topic, number) = soon(handled.recv()).await.unwrap();
    assert_eq!((topic.as_str(), number), ("in/a", 7));
    session.stop(STOP).await;
}

#[tokio::test]
async fn concurrent_route_keeps_order_per_topic() {
    let site = Site::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let (sender, mut handled) = mpsc::unbounded_channel();
    let handler = {
        let gate = Arc::clone(&gate);
        service_fn(move |message: Message| {
            let (gate, sender) = (Arc::clone(&gate), sender.clone());
            async move {
                if message.topic == "in/slow" {
                    gate.acquire().await?.forget();
                }
                if message.payload == "panic" {
                    panic!("a handler of a test panics");
                }
                sender.send((message.topic, message.payload))?;
                Ok::<(), BoxError>(())
            }
        })
    };
    let options = RouteOptions::new().concurrency(3);
    let router = Router::new().route_with("in/#", options, handler).unwrap();
    let session = site.routed(router).await;
    for n in 0..5 {
        publish(&session, "in/slow", &n.to_string()).await;
    }
    publish(&session, "in/slow", "panic").await;
    publish(&session, "in/slow", "5").await;
    for n in 0..5 {
        publish(&session, "in/quick", &n.to_string()).await;
    }
    let mut expect = async |topic: &str, n: usize| {
        let (on, payload) = soon(handled.recv()).await.unwrap();
        assert_eq!((on.as_str(), payload), (topic, n.to_string().into()));
    };
    for n in 0..5 {
        expect("in/quick", n).await;
    }
    gate.add_permits(100);
    for n in 0..6 {
        expect("in/slow", n).await;
    }
    session.stop(STOP).await;
}

#[tokio::test]
async fn failing_handlers_are_reported_and_isolated() {
    let site = Site::new().await;
    let handled = Arc::new(Mutex::new(Vec::new()));
    let handler = {
        let handled = Arc::clone(&handled);
        service_fn(move |message: Message| {
            let handled = Arc::clone(&handled);
            async move {
                match &message.payload[..] {
                    b"fail" => return Err::<(), BoxError>("it failed".into()),
                    b"panic" => panic!("a handler of a test panics"),
                    b"hang" => std::future::pending().await,
                    _ => handled.lock().unwrap().push(message),
                }
                Ok(())
            }
        })
    };
    let options = RouteOptions::new().timeout(Duration::from_millis(50));
    let router = Router::new().route_with("in/#", options, handler).unwrap();
    let session = site.routed(router).await;
    let mut events = session.events();
    for (payload, expected) in [
        ("fail", "it failed"),
        ("panic", "panicked"),
        ("hang", "longer than"),
    ] {
        publish(&session, "in/x", payload).await;
        match soon(events.recv()).await.unwrap() {
            SessionEvent::RouteFailed { error, .. } => {
                assert!(error.as_str().contains(expected), "{error}");
            }
            event => panic!("{event:?}"),
        }
    }
    publish(&session, "in/x", "good").await;
    soon(async {
        while handled.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    session.stop(STOP).await;
}

#[tokio::test]
async fn streams_are_bounded_and_end_with_the_session() {
    let site = Site::new().await;
    let mut config = site.config("device");
    config.limits.stream_messages = 3;
    config.limits.streams = 2;
    let session = Session::builder(config).start().unwrap();
    online(&session).await;
    assert!(matches!(
        session.messages("elsewhere/#"),
        Err(StreamError::NotSubscribed(_))
    ));
    assert!(matches!(
        session.messages("in/#/x"),
        Err(StreamError::Filter(_))
    ));
    let mut lazy = session.messages("in/+").unwrap();
    let mut eager = session.messages("in/a").unwrap();
    assert!(matches!(
        session.messages("in/b"),
        Err(StreamError::TooMany(2))
    ));
    for n in 0..5 {
        publish(&session, "in/a", &n.to_string()).await;
        assert_eq!(next(&mut eager).await, n.to_string());
    }
    drop(eager);
    let mut third = session.messages("in/b").unwrap();
    assert_eq!(soon(lazy.recv()).await.unwrap(), Err(Lagged { dropped: 2 }));
    for n in 0..3 {
        assert_eq!(next(&mut lazy).await, n.to_string());
    }
    session.stop(STOP).await;
    assert!(soon(lazy.recv()).await.is_none());
    assert!(soon(third.recv()).await.is_none());
    assert!(matches!(
        session.messages("in/b"),
        Err(StreamError::Stopped)
    ));
}

/// A broker that keeps the session would resend it on every connection.
#[tokio::test]
async fn message_without_topic_is_acknowledged_and_not_delivered() {
    for acknowledge in [Acknowledge::OnReceipt, Acknowledge::AfterHandlers] {
        let (pki, peer) = scripted().await;
        let mut config = config(&pki, peer.port, "device");
        config.acknowledge = acknowledge;
        config.session_expiry = Some(Duration::from_secs(3600));
        let gate = Arc::new(Semaphore::new(0));
        let (handler, mut handled) = gated(&gate);
        let router = Router::new().route("#", handler).unwrap();
        let session = Session::builder(config).router(router).start().unwrap();
        let mut link = peer.online(&session).await;
        let mut last = session.messages("in/last").unwrap();
        for (topic, id) in [
            (&b"in/x"[..], 0),
            (b"", 0),
            (b"in/x", 1),
            (b"", 2),
            (b"in/\xFF", 3),
            (b"in/x", 4),
            (b"in/last", 0),
        ] {
            let qos = if id == 0 {
                QoS::AtMostOnce
            } else {
                QoS::AtLeastOnce
            };
            let mut message = Publish::new("", qos, id.to_string(), None);
            (message.topic, message.pkid) = (topic.to_vec().into(), id);
            link.write(Packet::Publish(message)).await;
        }
        assert_eq!(next(&mut last).await, "0", "all have come");
        if acknowledge == Acknowledge::AfterHandlers {
            gate.add_permits(100);
        }
        for id in 1..=4 {
            let packet = link.read().await;
            assert!(
                matches!(&packet, Some(Packet::PubAck(puback)) if puback.pkid == id),
                "{acknowledge:?} {id}: {packet:?}"
            );
        }
        gate.add_permits(100);
        for payload in ["0", "1", "4", "0"] {
            assert_eq!(soon(handled.recv()).await.unwrap().payload, payload);
        }
        assert!(session.state().borrow().is_online());
        session.stop(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn events_do_not_wait_for_slow_readers() {
    let site = Site::new().await;
    let handler = service_fn(|_| async { Err::<(), BoxError>("no".into()) });
    let options = RouteOptions::new().queue_messages(1000);
    let router = Router::new().route_with("in/#", options, handler).unwrap();
    let session = site.routed(router).await;
    let mut lazy = session.events();
    let mut last = None;
    for n in 0..300 {
        last = Some(
            session
                .publish(Message::new("in/x", n.to_string()))
                .unwrap(),
        );
    }
    soon(last.unwrap()).await.unwrap();
    let mut watching = session.messages("in/done").unwrap();
    publish(&session, "in/done", "done").await;
    next(&mut watching).await;
    session.stop(STOP).await;
    let first = lazy.recv().await;
    assert!(
        matches!(
            first,
            Err(tokio::sync::broadcast::error::RecvError::Lagged(1..))
        ),
        "{first:?}"
    );
}
