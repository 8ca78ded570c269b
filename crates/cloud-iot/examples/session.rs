//! The life of a session: online, a message acknowledged, one handled, a request answered, a lost
//! connection, a message queued meanwhile and delivered afterwards, a goodbye message.
//!
//! It has no prerequisites: the broker and the CA run in this process.
//!
//! ```text
//! cargo run -p cloud-iot --example session
//! ```

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::Duration;

use cloud_iot::{
    BoxError, Message, QoS, Request, Router, Session, SessionConfig, SessionEvent, SessionState,
    Subscription,
};
use support::broker::Broker;
use support::pki::{Flaw, Pki};
use tower::service_fn;

/// Longer than any step takes.
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), BoxError> {
    let pki = Pki::new();
    let broker = Broker::start(pki.server(Flaw::None)).await;
    tokio::time::timeout(LIMIT, device(&pki, &broker)).await?
}

async fn device(pki: &Pki, broker: &Broker) -> Result<(), BoxError> {
    // The other side answers every request.
    let mut config = SessionConfig::new("localhost", "platform", pki.device());
    config.port = broker.side_port;
    config.subscriptions = vec![Subscription::new("device/7/+/req")?];
    let platform = Session::builder(config).start()?;
    let mut questions = platform.messages("device/7/+/req")?;
    online(&mut platform.state()).await?;
    let answering = {
        let platform = platform.clone();
        tokio::spawn(async move {
            while let Some(Ok(question)) = questions.recv().await {
                let topic = question.topic.replace("/req", "/res");
                platform.publish(Message::new(topic, "42"))?.await?;
            }
            Ok::<(), BoxError>(())
        })
    };

    // The device.
    let mut config = SessionConfig::new("localhost", "device-7", pki.device());
    config.port = broker.port;
    config.will = Some(Message::new("device/7/status", "OFFLINE").qos(QoS::AtMostOnce));
    config.birth = Some(Message::new("device/7/status", "ONLINE").qos(QoS::AtMostOnce));
    config.goodbye = config.will.clone();
    config.subscriptions = vec![
        Subscription::new("all")?,
        Subscription::new("device/7/+/res")?,
    ];
    config.backoff.base_delay = Duration::from_millis(100);
    config.backoff.jitter = Duration::from_millis(100);
    let handler = service_fn(|message: Message| async move {
        println!(
            "handled {} bytes on {}",
            message.payload.len(),
            message.topic
        );
        Ok::<(), BoxError>(())
    });
    let session = Session::builder(config)
        .router(Router::new().route("all", handler)?)
        .on_connect(|| async {
            println!("connected");
            Ok(())
        })
        .on_disconnect(|cause| async move {
            println!(
                "disconnected: {}",
                cause.map_or("stopped".into(), |cause| cause.to_string())
            );
            Ok(())
        })
        .start()?;
    let mut events = session.events();
    online(&mut session.state()).await?;

    let ack = session
        .publish(Message::new("device/7/note", "hello"))?
        .await?;
    println!("delivered: {ack:?}");
    platform
        .publish(Message::new("all", "to everybody"))?
        .await?;

    let request = Request::new("device/7/question/req", "?", "device/7/question/res");
    let answer = session.request(request).await?;
    println!("answered: {}", String::from_utf8_lossy(&answer.payload));

    broker.cut();
    while !matches!(events.recv().await?, SessionEvent::Disconnected { .. }) {}
    let queued = session.publish(Message::new("device/7/note", "written while offline"))?;
    println!("queued, and delivered: {:?}", queued.await?);

    println!("{:?}", session.stop(LIMIT).await);
    platform.stop(LIMIT).await;
    answering.await??;
    println!("the broker saw {:?}", broker.received("device/7/status"));
    Ok(())
}

async fn online(state: &mut tokio::sync::watch::Receiver<SessionState>) -> Result<(), BoxError> {
    state.wait_for(SessionState::is_online).await?;
    Ok(())
}
