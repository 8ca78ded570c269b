//! Requests over MQTT, and matching of responses.

use std::time::Duration;

use cloud_iot::{BoxError, Message, Request, RequestError, Router, Session};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use tokio::sync::mpsc;
use tower::service_fn;

use crate::common::*;

fn ask(timeout: Duration) -> Request {
    Request::new("ask/req", "?", "in/ask/res").timeout(timeout)
}

#[tokio::test]
async fn requests_and_answers() {
    let site = Site::new().await;
    let (platform, mut asked) = site.watcher().await;
    let (sender, mut unasked) = mpsc::unbounded_channel();
    let handler = service_fn(move |message: Message| {
        let sender = sender.clone();
        async move {
            sender.send(message)?;
            Ok::<(), BoxError>(())
        }
    });
    let router = Router::new().route("in/ask/res", handler).unwrap();
    let session = site.routed(router).await;

    let answered = tokio::spawn({
        let session = session.clone();
        async move { session.request(ask(PATIENCE)).await }
    });
    assert_eq!(next(&mut asked).await, "?");
    assert!(matches!(
        session.request(ask(PATIENCE)).await,
        Err(RequestError::Busy(_))
    ));
    publish(&platform, "in/ask/res", "!").await;
    assert_eq!(soon(answered).await.unwrap().unwrap().payload, "!");
    assert_eq!(next(&mut asked).await, "!");

    // No response; then a late one, which is treated like any message.
    let limit = Duration::from_millis(50);
    assert_eq!(
        session.request(ask(limit)).await,
        Err(RequestError::Timeout(limit))
    );
    publish(&platform, "in/ask/res", "late").await;
    assert_eq!(soon(unasked.recv()).await.unwrap().payload, "late");

    let mut elsewhere = ask(limit);
    elsewhere.reply_topic = "elsewhere".into();
    assert!(matches!(
        session.request(elsewhere).await,
        Err(RequestError::NotSubscribed(_))
    ));

    let stopped = tokio::spawn({
        let session = session.clone();
        async move { session.request(ask(PATIENCE)).await }
    });
    assert_eq!(next(&mut asked).await, "?");
    assert_eq!(next(&mut asked).await, "late");
    assert_eq!(next(&mut asked).await, "?");
    session.stop(STOP).await;
    assert_eq!(soon(stopped).await.unwrap(), Err(RequestError::Stopped));
    platform.stop(STOP).await;
}

#[tokio::test]
async fn dropped_request_frees_its_slot_and_ignores_late_response() {
    let site = Site::new().await;
    let (platform, mut asked) = site.watcher().await;
    let mut config = site.config("device");
    config.limits.requests = 1;
    let session = Session::builder(config).start().unwrap();
    online(&session).await;
    let mut unasked = session.messages("in/ask/res").unwrap();
    let request = |session: Session| async move { session.request(ask(PATIENCE)).await };

    let dropped = tokio::spawn(request(session.clone()));
    assert_eq!(next(&mut asked).await, "?");
    let refused = request(session.clone()).await;
    assert!(matches!(refused, Err(RequestError::Busy(_))), "{refused:?}");
    dropped.abort();
    assert!(soon(dropped).await.unwrap_err().is_cancelled());
    publish(&platform, "in/ask/res", "late").await;
    assert_eq!(next(&mut asked).await, "late");
    assert_eq!(next(&mut unasked).await, "late");

    let answered = tokio::spawn(request(session.clone()));
    assert_eq!(next(&mut asked).await, "?");
    publish(&platform, "in/ask/res", "!").await;
    assert_eq!(soon(answered).await.unwrap().unwrap().payload, "!");
    session.stop(STOP).await;
    platform.stop(STOP).await;
}

#[tokio::test]
async fn message_before_request_is_not_its_response() {
    let (peer, session) = started(|config| config).await;
    let mut stream = session.messages("in/#").unwrap();
    let waiting = tokio::spawn({
        let session = session.clone();
        async move { session.request(ask(PATIENCE)).await }
    });
    let mut link = peer.connected().await;
    let answer = |text| Packet::Publish(Publish::new("in/ask/res", QoS::AtMostOnce, text, None));
    link.write(answer("old")).await;
    assert_eq!(next(&mut stream).await, "old");
    link.suback(None).await;
    assert_eq!(link.publish(None).await, "?");
    link.write(answer("new")).await;
    assert_eq!(soon(waiting).await.unwrap().unwrap().payload, "new");
    session.stop(Duration::from_millis(200)).await;
}
