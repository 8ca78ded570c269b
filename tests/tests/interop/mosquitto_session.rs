//! The session alone against the real mosquitto: broker crashes, persistent sessions, duplicate
//! client identifiers, and a wrong CA.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use cloud_iot::{
    Acknowledge, Backoff, BoxError, Cause, Message, MessageProperties, MessageStream,
    PublishOptions, QoS, Receipt, RetainHandling, Router, Session, SessionConfig, SessionEvent,
    Subscription, TlsCause, tls,
};
use integration_tests::mosquitto::Mosquitto;
use integration_tests::proxy::Line;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use testkit::pki::Authority;
use testkit::wait::timeout;
use tokio::sync::{broadcast, mpsc};

use crate::peers;

const STOP: Duration = Duration::from_secs(5);

/// A broker and the authorities of its server and its clients.
struct Site {
    broker: Mosquitto,
    servers: Authority,
    devices: Authority,
}

impl Site {
    async fn new() -> anyhow::Result<Self> {
        Self::with("").await
    }

    /// A broker with more lines in its configuration.
    async fn with(settings: &str) -> anyhow::Result<Self> {
        let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
        let certificate = servers.server(&["localhost"]);
        let program = peers::mosquitto()?;
        let broker =
            Mosquitto::start_with(&program, &certificate, &devices.pem(), settings).await?;
        Ok(Self {
            broker,
            servers,
            devices,
        })
    }

    /// A client without a rate limit that reconnects quickly.
    fn config(&self, client_id: &str, filter: &str) -> anyhow::Result<SessionConfig> {
        let own = self.devices.client(client_id);
        let root = CertificateDer::from_pem_slice(self.servers.pem().as_bytes())?;
        let certificate = CertificateDer::from_pem_slice(own.certificate.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes())?;
        let tls = tls::client_config([root], vec![certificate], key)?;
        let mut config = SessionConfig::new("localhost", client_id, tls);
        config.port = self.broker.port();
        config.subscriptions = vec![Subscription::new(filter)?.qos(QoS::AtMostOnce)];
        config.backoff = Backoff::new()
            .base_delay(Duration::from_millis(20))
            .jitter(Duration::from_millis(5));
        config.limits.publishes_per_second = None;
        config.limits.bytes_per_second = None;
        config.limits.outbox_messages = 20_000;
        config.limits.stream_messages = 50_000;
        config.limits.stream_bytes = 64 << 20;
        Ok(config)
    }
}

async fn online(session: &Session) -> anyhow::Result<()> {
    timeout(
        "online",
        session.state().wait_for(|state| state.is_online()),
    )
    .await?;
    Ok(())
}

async fn next(messages: &mut MessageStream) -> anyhow::Result<String> {
    let message = timeout("a message", messages.recv())
        .await
        .context("the session has stopped")??;
    Ok(String::from_utf8_lossy(&message.payload).into_owned())
}

async fn offline(session: &Session) -> anyhow::Result<()> {
    let mut state = session.state();
    timeout("offline", state.wait_for(|state| !state.is_online())).await?;
    Ok(())
}

async fn lost(
    events: &mut broadcast::Receiver<SessionEvent>,
) -> anyhow::Result<(Arc<Cause>, Duration)> {
    loop {
        if let SessionEvent::Disconnected { reason, retry_in } =
            timeout("a disconnection", events.recv()).await?
        {
            return Ok((reason, retry_in));
        }
    }
}

/// Collects numbers by topic, in the order of their first arrival, until there are so many.
async fn collect(mut messages: MessageStream, count: usize) -> anyhow::Result<Numbers> {
    let mut seen = Numbers::new();
    let mut left = count;
    while left > 0 {
        let message = messages
            .recv()
            .await
            .context("the listener has stopped")??;
        let number: usize = std::str::from_utf8(&message.payload)?.parse()?;
        let numbers = seen.entry(message.topic).or_default();
        // Only what was in flight comes again, so that it is found near the end.
        if !numbers.iter().rev().take(500).any(|old| *old == number) {
            numbers.push(number);
            left -= 1;
        }
    }
    Ok(seen)
}

type Numbers = HashMap<String, Vec<usize>>;

/// The session's own messages at QoS 1 and retained, with a will.
fn announcing(mut config: SessionConfig) -> SessionConfig {
    let own = |payload| Message::new("status/device", payload).retained();
    config.will = Some(own("LOST"));
    config.birth = Some(own("ONLINE"));
    config.goodbye = Some(own("OFFLINE"));
    config
}

/// A broker refuses a CONNECT whose will it does not support, and drops what exceeds its limits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_messages_fit_a_broker_with_less() -> anyhow::Result<()> {
    for settings in [
        "max_qos 0\n",
        "retain_available false\n",
        "max_qos 0\nretain_available false\n",
    ] {
        let site = Site::with(settings).await?;
        let watcher = Session::builder(site.config("watcher", "status/#")?).start()?;
        online(&watcher).await?;
        let mut messages = watcher.messages("status/#")?;
        let session = Session::builder(announcing(site.config("device", "in/#")?)).start()?;
        online(&session).await.context(settings)?;
        assert_eq!(next(&mut messages).await?, "ONLINE", "{settings}");
        assert!(session.stop(STOP).await.clean);
        assert_eq!(next(&mut messages).await?, "OFFLINE", "{settings}");
        watcher.stop(STOP).await;
    }
    Ok(())
}

/// A planned reconnection leaves the retained status at ONLINE if the will is delayed, and a stop
/// says goodbye all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planned_reconnection_with_delayed_will_reads_online() -> anyhow::Result<()> {
    let site = Site::new().await?;
    let watcher = Session::builder(site.config("watcher", "status/#")?).start()?;
    online(&watcher).await?;
    let mut messages = watcher.messages("status/#")?;
    let config = announcing(site.config("device", "in/#")?)
        .session_expiry(Duration::from_secs(3600))
        .will_delay(Duration::from_secs(600));
    let tls = Arc::clone(&config.tls);
    let session = Session::builder(config).start()?;
    online(&session).await?;
    assert_eq!(next(&mut messages).await?, "ONLINE");
    session.reconnect_with(tls);
    assert_eq!(next(&mut messages).await?, "ONLINE");
    online(&session).await?;
    assert!(session.stop(STOP).await.clean);
    assert_eq!(next(&mut messages).await?, "OFFLINE");
    watcher.stop(STOP).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscription_options_and_properties_reach_the_broker() -> anyhow::Result<()> {
    let site = Site::new().await?;
    let config = |id, subscription: fn(Subscription) -> Subscription| {
        let mut config = site.config(id, "t/#")?;
        config.subscriptions = vec![subscription(Subscription::new("t/#")?)];
        anyhow::Ok(config)
    };
    let publisher = Session::builder(config("publisher", Subscription::no_local)?).start()?;
    let mut own = publisher.messages("t/#")?;
    online(&publisher).await?;
    let retained = Message::new("t/retained", "first").retained();
    timeout("a receipt", publisher.publish(retained)?).await?;

    let plain = Session::builder(config("plain", |plain| plain)?).start()?;
    let mut plain_messages = plain.messages("t/#")?;
    let same = Session::builder(config("same", |s| {
        s.retain_as_published()
            .retain_handling(RetainHandling::Never)
    })?)
    .start()?;
    let mut same_messages = same.messages("t/#")?;
    online(&plain).await?;
    online(&same).await?;
    assert_eq!(next(&mut plain_messages).await?, "first");
    let properties = MessageProperties::new()
        .content_type("text/plain")
        .response_topic("t/answer")
        .correlation_data("7")
        .user_property("unit", "K");
    let second = Message::new("t/retained", "second")
        .retained()
        .with_properties(properties.clone());
    let options = PublishOptions::new().expires_in(Duration::from_secs(600));
    timeout("a receipt", publisher.publish_with(second, options)?).await?;
    for (messages, retain) in [(&mut plain_messages, false), (&mut same_messages, true)] {
        let message = timeout("a message", messages.recv())
            .await
            .context("stopped")??;
        assert_eq!(
            (&message.payload[..], message.retain),
            (&b"second"[..], retain)
        );
        let received = *message.properties.context("properties")?;
        let left = received.expires_in.context("an expiry")?;
        assert!(left <= Duration::from_secs(600) && left > Duration::from_secs(500));
        let mut expected = properties.clone();
        expected.expires_in = Some(left);
        assert!(received == expected);
    }
    // Its own messages would have come before that of another client.
    timeout(
        "a receipt",
        plain.publish(Message::new("t/other", "other"))?,
    )
    .await?;
    assert_eq!(next(&mut own).await?, "other");
    for session in [publisher, plain, same] {
        session.stop(STOP).await;
    }
    Ok(())
}

/// Mosquitto drops a connection that sends more than it has announced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maximum_packet_size_holds_for_subscribe() -> anyhow::Result<()> {
    let site = Site::with("max_packet_size 200\n").await?;
    let mut config = announcing(site.config("device", "in/#")?);
    for n in 0..8 {
        let filter = format!("in/{n}/{}", "x".repeat(60));
        config.subscriptions.push(Subscription::new(filter)?);
    }
    let session = Session::builder(config).start()?;
    let mut events = session.events();
    online(&session).await?;
    let mut messages = session.messages("in/#")?;
    let topic = format!("in/7/{}", "x".repeat(60));
    timeout("a receipt", session.publish(Message::new(topic, "hello"))?).await?;
    assert_eq!(next(&mut messages).await?, "hello");
    while let Ok(event) = events.try_recv() {
        assert_eq!(event, SessionEvent::Connected);
    }
    session.stop(STOP).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_messages_survive_ten_broker_crashes() -> anyhow::Result<()> {
    const ROUNDS: usize = 10;
    const EACH: usize = 1000;
    const TOPICS: usize = 10;
    let mut site = Site::new().await?;
    let line = Line::to(([127, 0, 0, 1], site.broker.port()).into()).await?;
    // At QoS 0 the listener sends nothing, so that nothing unread makes the dying broker's system
    // discard what is in flight. Mosquitto writes to subscribers before it acknowledges.
    let listener = Session::builder(site.config("listener", "load/#")?).start()?;
    let messages = listener.messages("load/#")?;
    online(&listener).await?;
    let collected = tokio::spawn(collect(messages, ROUNDS * EACH));

    let mut config = site.config("device", "in/#")?;
    config.port = line.address().port();
    let device = Session::builder(config).start()?;
    online(&device).await?;
    let mut open: Vec<Receipt> = Vec::new();
    for round in 0..ROUNDS {
        let mut receipts = Vec::with_capacity(EACH);
        for n in round * EACH..(round + 1) * EACH {
            let topic = format!("load/{}", n % TOPICS);
            receipts.push(device.publish(Message::new(topic, n.to_string()))?);
        }
        // Some are through, many are on their way.
        let rest = receipts.split_off(300);
        for receipt in open.drain(..).chain(receipts) {
            timeout("an acknowledgement", receipt).await?;
        }
        open = rest;
        line.hold(true);
        site.broker.kill().await?;
        offline(&device).await?;
        offline(&listener).await?;
        site.broker.restart().await?;
        online(&listener).await?;
        line.hold(false);
    }
    for receipt in open {
        timeout("an acknowledgement", receipt).await?;
    }
    let seen = timeout("all messages", collected).await??;
    assert_eq!(seen.len(), TOPICS);
    for topic in 0..TOPICS {
        let expected: Vec<_> = (topic..ROUNDS * EACH).step_by(TOPICS).collect();
        assert!(
            seen[&format!("load/{topic}")] == expected,
            "load/{topic}: one is missing or out of order"
        );
    }
    device.stop(STOP).await;
    listener.stop(STOP).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn persistent_session_survives_device_restart() -> anyhow::Result<()> {
    let site = Site::new().await?;
    let (sender, mut handled) = mpsc::unbounded_channel();
    let start = || -> anyhow::Result<Session> {
        let sender = sender.clone();
        let handler = tower::service_fn(move |message: Message| {
            let sent = sender.send(message.payload);
            async move { Ok::<(), BoxError>(sent?) }
        });
        let mut config = site.config("device", "in/#")?;
        config.subscriptions = vec![Subscription::new("in/#")?];
        config.session_expiry = Some(Duration::from_secs(3600));
        config.acknowledge = Acknowledge::AfterHandlers;
        let router = Router::new().route("in/#", handler)?;
        Ok(Session::builder(config).router(router).start()?)
    };
    let platform = Session::builder(site.config("platform", "x/#")?).start()?;
    let device = start()?;
    online(&device).await?;
    device.stop(STOP).await;

    for n in 0..50 {
        let receipt = platform.publish(Message::new("in/stored", n.to_string()))?;
        timeout("an acknowledgement", receipt).await?;
    }
    let device = start()?;
    let mut stored = Vec::new();
    while stored.len() < 50 {
        let payload = timeout("a stored message", handled.recv()).await;
        let number: usize = std::str::from_utf8(&payload.context("a handler")?)?.parse()?;
        stored.push(number);
    }
    assert_eq!(stored, (0..50).collect::<Vec<_>>());
    online(&device).await?;
    device.stop(STOP).await;

    // All were acknowledged: nothing comes again.
    let device = start()?;
    online(&device).await?;
    let receipt = platform.publish(Message::new("in/last", "last"))?;
    timeout("an acknowledgement", receipt).await?;
    let payload = timeout("the last message", handled.recv()).await;
    assert_eq!(payload.context("a handler")?, "last");
    device.stop(STOP).await;
    platform.stop(STOP).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_with_same_id_back_off() -> anyhow::Result<()> {
    let site = Site::new().await?;
    let first = Session::builder(site.config("twin", "in/#")?).start()?;
    let mut events = first.events();
    online(&first).await?;
    let second = Session::builder(site.config("twin", "in/#")?).start()?;
    let mut last = Duration::ZERO;
    for _ in 0..4 {
        let (cause, retry_in) = lost(&mut events).await?;
        assert!(cause.is_takeover(), "{cause:?}");
        assert!(retry_in > last, "{retry_in:?} after {last:?}");
        last = retry_in;
    }
    first.stop(STOP).await;
    online(&second).await?;
    second.stop(STOP).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_certificate_of_other_ca_is_refused() -> anyhow::Result<()> {
    let mut site = Site::new().await?;
    let device = Session::builder(site.config("device", "in/#")?).start()?;
    online(&device).await?;
    let mut events = device.events();

    site.broker.kill().await?;
    let foreign = Authority::new("foreign").server(&["localhost"]);
    site.broker.exchange_certificate(&foreign)?;
    site.broker.restart().await?;
    let receipt = device.publish(Message::new("out", "kept"))?;
    loop {
        let (cause, _) = lost(&mut events).await?;
        match &*cause {
            Cause::Tls(tls) => {
                assert_eq!(*tls, TlsCause::UnknownIssuer);
                break;
            }
            // While it was down.
            Cause::Refused | Cause::Closed { .. } => {}
            other => anyhow::bail!("{other}"),
        }
    }
    site.broker.kill().await?;
    let own = site.servers.server(&["localhost"]);
    site.broker.exchange_certificate(&own)?;
    site.broker.restart().await?;
    online(&device).await?;
    timeout("the kept message", receipt).await?;
    device.stop(STOP).await;
    Ok(())
}
