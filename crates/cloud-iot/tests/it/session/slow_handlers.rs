//! Handlers that take long, or never end: what they delay, and what not.

use std::sync::Arc;
use std::time::Duration;

use cloud_iot::{Acknowledge, BoxError, Message, RouteOptions, Router, Session};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PingResp, Publish};
use tokio::sync::{Semaphore, mpsc};
use tower::service_fn;

use crate::common::*;

/// Half of it is less than a handler's default timeout, so the handler still runs.
const KEEP_ALIVE: Duration = Duration::from_secs(40);

/// Stops a paused clock until this is dropped: it would otherwise run ahead of the sockets. It
/// releases the clock after a limit, so that no wait lasts forever.
fn standstill() -> std::sync::mpsc::Sender<()> {
    let (held, dropped) = std::sync::mpsc::channel();
    // The clock does not advance during blocking work.
    tokio::task::spawn_blocking(move || dropped.recv_timeout(PATIENCE));
    held
}

#[tokio::test(start_paused = true)]
async fn keep_alive_continues_during_slow_handler() {
    for acknowledge in [Acknowledge::OnReceipt, Acknowledge::AfterHandlers] {
        let standstill = standstill();
        let (pki, peer) = scripted().await;
        let mut config = config(&pki, peer.port, "device");
        config.acknowledge = acknowledge;
        config.keep_alive = KEEP_ALIVE;
        let gate = Arc::new(Semaphore::new(0));
        let (started, mut handling) = mpsc::unbounded_channel();
        let closed = Arc::clone(&gate);
        let handler = service_fn(move |_: Message| {
            let (closed, started) = (Arc::clone(&closed), started.clone());
            async move {
                started.send(())?;
                closed.acquire().await?.forget();
                Ok::<(), BoxError>(())
            }
        });
        let router = Router::new().route("in/#", handler).unwrap();
        let session = Session::builder(config).router(router).start().unwrap();
        let mut link = peer.online(&session).await;
        let mut message = Publish::new("in/x", QoS::AtLeastOnce, "1", None);
        message.pkid = 1;
        link.write(Packet::Publish(message)).await;
        soon(handling.recv()).await.unwrap();
        if acknowledge == Acknowledge::OnReceipt {
            assert!(link.summary().await.starts_with("PubAck"));
        }
        // Half an interval without data, plus the rounding of timers.
        tokio::time::advance(KEEP_ALIVE / 2 + Duration::from_millis(1)).await;
        let quiet = tokio::time::Instant::now();
        assert_eq!(link.summary().await, "ping");
        assert_eq!(quiet.elapsed(), Duration::ZERO, "no later than that");
        link.write(Packet::PingResp(PingResp)).await;
        if acknowledge == Acknowledge::AfterHandlers {
            gate.add_permits(1);
            assert!(link.summary().await.starts_with("PubAck"));
        }
        assert!(session.state().borrow().is_online());
        drop(standstill);
        session.stop(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn handler_timeout_unblocks_its_topic() {
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
    let options = RouteOptions::new()
        .concurrency(2)
        .timeout(Duration::from_millis(300));
    let router = Router::new().route_with("in/#", options, handler).unwrap();
    let session = site.routed(router).await;
    // Both slots are occupied until a timeout ends the handlers.
    for (topic, payload) in [
        ("in/a", "stuck"),
        ("in/b", "stuck"),
        ("in/a", "after"),
        ("in/c", "other"),
    ] {
        publish(&session, topic, payload).await;
    }
    let mut ended = [
        soon(handled.recv()).await.unwrap(),
        soon(handled.recv()).await.unwrap(),
    ];
    ended.sort();
    assert_eq!(ended, ["after", "other"]);
    session.stop(STOP).await;
}
