//! Handlers that take long, or for ever: whom they hold up, and whom not.

use std::sync::Arc;
use std::time::Duration;

use cloud_iot::{Acknowledge, BoxError, Message, RouteOptions, Router, Session};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PingResp, Publish};
use tokio::sync::{Semaphore, mpsc};
use tower::service_fn;

use crate::common::*;

#[tokio::test]
async fn the_keep_alive_goes_on_beside_a_slow_handler() {
    for acknowledge in [Acknowledge::OnReceipt, Acknowledge::AfterHandlers] {
        let (pki, peer) = scripted().await;
        let mut config = config(&pki, peer.port, "device");
        config.acknowledge = acknowledge;
        config.keep_alive = Duration::from_secs(5);
        let gate = Arc::new(Semaphore::new(0));
        let (begun, mut handling) = mpsc::unbounded_channel();
        let closed = Arc::clone(&gate);
        let handler = service_fn(move |_: Message| {
            let (closed, begun) = (Arc::clone(&closed), begun.clone());
            async move {
                begun.send(())?;
                closed.acquire().await?.forget();
                Ok::<(), BoxError>(())
            }
        });
        let router = Router::new().route("in/#", handler).unwrap();
        let session = Session::builder(config).router(router).start().unwrap();
        let mut link = peer.connected().await;
        link.suback(None).await;
        online(&session).await;
        let mut message = Publish::new("in/x", QoS::AtLeastOnce, "1", None);
        message.pkid = 1;
        link.write(Packet::Publish(message)).await;
        soon(handling.recv()).await.unwrap();
        if acknowledge == Acknowledge::OnReceipt {
            assert!(link.word().await.starts_with("PubAck"));
        }
        let quiet = std::time::Instant::now();
        assert_eq!(link.word().await, "ping");
        // Half an interval; the rest is for a slow machine.
        let took = quiet.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        link.write(Packet::PingResp(PingResp)).await;
        if acknowledge == Acknowledge::AfterHandlers {
            gate.add_permits(1);
            assert!(link.word().await.starts_with("PubAck"));
        }
        assert!(session.state().borrow().is_online());
        session.stop(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_handler_that_never_ends_is_given_up_in_its_time_and_its_topic_goes_on() {
    let site = Site::new().await;
    let (sender, mut handled) = mpsc::unbounded_channel();
    let handler = service_fn(move |message: Message| {
        let sender = sender.clone();
        async move {
            if message.payload == "stuck" {
                std::future::pending::<()>().await;
            }
            sender.send(message.payload)?;
            Ok::<(), BoxError>(())
        }
    });
    let options = RouteOptions {
        concurrency: 2,
        timeout: Duration::from_millis(300),
        ..RouteOptions::default()
    };
    let router = Router::new().route_with("in/#", options, handler).unwrap();
    let session = Session::builder(site.config("device"))
        .router(router)
        .start()
        .unwrap();
    online(&session).await;
    // Both places are taken for good, if nobody ends them.
    for (topic, payload) in [
        ("in/a", "stuck"),
        ("in/b", "stuck"),
        ("in/a", "after"),
        ("in/c", "other"),
    ] {
        let receipt = session.publish(Message::new(topic, payload)).unwrap();
        soon(receipt).await.unwrap();
    }
    let mut ended = [
        soon(handled.recv()).await.unwrap(),
        soon(handled.recv()).await.unwrap(),
    ];
    ended.sort();
    assert_eq!(ended, ["after", "other"]);
    session.stop(STOP).await;
}
