//! Our device against the real mosquitto in place of the platform's broker.

use std::time::Duration;

use anyhow::Context;
use cloud_facade::config::{DeviceConfig, PemParts, Store};
use cloud_facade::iot::{Message, MessageStream, Session, SessionConfig, Subscription, tls};
use cloud_facade::{ClesydeCloud, CloudBuilder};
use integration_tests::mosquitto::Mosquitto;
use integration_tests::proxy::Line;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use testkit::pki::{Authority, Pair};
use testkit::wait::timeout;

use crate::peers;

const SERIAL: &str = "SN-MOSQ";

/// A broker, a device whose directory leads to it, and a client that receives what the device
/// publishes.
pub(crate) struct Scene {
    broker: Mosquitto,
    /// Between device and broker.
    line: Line,
    pub(crate) cloud: ClesydeCloud,
    listener: Session,
    _base: tempfile::TempDir,
}

impl Scene {
    async fn set(subscription: &str) -> anyhow::Result<(Self, MessageStream)> {
        Self::with(subscription, |builder, _| builder).await
    }

    pub(crate) async fn with(
        subscription: &str,
        configure: impl FnOnce(CloudBuilder, &Authority) -> CloudBuilder,
    ) -> anyhow::Result<(Self, MessageStream)> {
        let (servers, devices) = (Authority::new("servers"), Authority::new("devices"));
        let broker = Mosquitto::start(
            &peers::mosquitto()?,
            &servers.server(&["localhost"]),
            &devices.pem(),
        )
        .await?;
        let line = Line::to(([127, 0, 0, 1], broker.port()).into()).await?;

        let base = tempfile::tempdir()?;
        let (iot, remote) = (
            devices.client(SERIAL),
            servers.server(&["device.example.com"]),
        );
        Store::new(base.path()).save(&DeviceConfig::from_pem_parts(PemParts {
            iot_thing_name: SERIAL,
            iot_endpoint: &format!("localhost:{}", line.address().port()),
            remote_endpoint: "relay.example.com",
            access_point: "device.example.com",
            iot_ca: &servers.pem(),
            iot_cert: &iot.certificate,
            iot_key: &iot.key,
            remote_cert: &remote.certificate,
            remote_key: &remote.key,
        })?)?;
        let api_url = "https://api.example.com";
        let builder = ClesydeCloud::builder(SERIAL.parse()?, base.path(), api_url);
        let cloud = configure(builder, &devices).build();

        let listener = listen(&broker, &servers, &devices.client("listener"), subscription)?;
        let messages = listener.messages(subscription)?;
        timeout(
            "the listener",
            listener.state().wait_for(|state| state.is_online()),
        )
        .await?;
        Ok((
            Self {
                broker,
                line,
                cloud,
                listener,
                _base: base,
            },
            messages,
        ))
    }

    pub(crate) async fn end(self) {
        timeout("the device to stop", self.cloud.stop()).await;
        self.listener.stop(Duration::from_secs(5)).await;
    }
}

fn listen(
    broker: &Mosquitto,
    servers: &Authority,
    own: &Pair,
    filter: &str,
) -> anyhow::Result<Session> {
    let root = CertificateDer::from_pem_slice(servers.pem().as_bytes())?;
    let certificate = CertificateDer::from_pem_slice(own.certificate.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes())?;
    let tls = tls::client_config([root], vec![certificate], key)?;
    let mut config = SessionConfig::new("localhost", "listener", tls);
    config.port = broker.port();
    config.subscriptions = vec![Subscription::new(filter)?];
    Ok(Session::builder(config).start()?)
}

async fn next(messages: &mut MessageStream) -> anyhow::Result<Message> {
    Ok(timeout("a message", messages.recv())
        .await
        .context("the session has stopped")??)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn online_and_offline() -> anyhow::Result<()> {
    let (scene, mut messages) = Scene::set("c/d/SN-MOSQ/status").await?;
    scene.cloud.initialize().await?;
    assert_eq!(next(&mut messages).await?.payload, r#"{"state":"ONLINE"}"#);
    scene.cloud.stop().await;
    assert_eq!(next(&mut messages).await?.payload, r#"{"state":"OFFLINE"}"#);
    scene.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn will_is_published_when_connection_is_killed() -> anyhow::Result<()> {
    let (scene, mut messages) = Scene::set("c/d/SN-MOSQ/status").await?;
    let mut status = scene.cloud.watch_status();
    scene.cloud.initialize().await?;
    assert_eq!(next(&mut messages).await?.payload, r#"{"state":"ONLINE"}"#);
    timeout(
        "the device to be online",
        status.wait_for(|status| status.iot.connected),
    )
    .await?;
    scene.line.cut();
    let will = next(&mut messages).await?;
    assert_eq!(will.payload, r#"{"state":"OFFLINE"}"#, "the will");
    // The device reconnects.
    assert_eq!(next(&mut messages).await?.payload, r#"{"state":"ONLINE"}"#);
    scene.end().await;
    Ok(())
}

/// Returns a change of the session that delays the will.
fn will_delay(seconds: u64) -> impl Fn(SessionConfig) -> SessionConfig + Send + Sync + 'static {
    move |session| {
        session
            .session_expiry(Duration::from_secs(3600))
            .will_delay(Duration::from_secs(seconds))
    }
}

/// Starts a device whose will is delayed, and waits until it and the broker know that it is online.
async fn online_with_delayed_will(seconds: u64) -> anyhow::Result<(Scene, MessageStream)> {
    let (scene, mut messages) = Scene::with("c/d/SN-MOSQ/status", |builder, _| {
        builder.session(will_delay(seconds))
    })
    .await?;
    let mut status = scene.cloud.watch_status();
    scene.cloud.initialize().await?;
    assert_eq!(next(&mut messages).await?.payload, r#"{"state":"ONLINE"}"#);
    let connected = status.wait_for(|status| status.iot.connected);
    timeout("the device to be online", connected).await?;
    Ok((scene, messages))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_break_leaves_status_online() -> anyhow::Result<()> {
    let (scene, mut messages) = online_with_delayed_will(600).await?;
    scene.line.cut();
    assert_eq!(next(&mut messages).await?.payload, r#"{"state":"ONLINE"}"#);
    scene.cloud.stop().await;
    assert_eq!(next(&mut messages).await?.payload, r#"{"state":"OFFLINE"}"#);
    scene.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_break_publishes_delayed_will() -> anyhow::Result<()> {
    let (scene, mut messages) = online_with_delayed_will(1).await?;
    scene.line.hold(true);
    scene.line.cut();
    assert_eq!(next(&mut messages).await?.payload, r#"{"state":"OFFLINE"}"#);
    scene.line.hold(false);
    assert_eq!(next(&mut messages).await?.payload, r#"{"state":"ONLINE"}"#);
    scene.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_published_during_break_arrives_within_session_expiry() -> anyhow::Result<()> {
    const TOPIC: &str = "c/d/SN-MOSQ/news/res";
    let (scene, _messages) = Scene::with("c/d/SN-MOSQ/status", |builder, _| {
        builder.session(will_delay(600))
    })
    .await?;
    let mut status = scene.cloud.watch_status();
    scene.cloud.initialize().await?;
    let mut news = scene.cloud.iot()?.messages(TOPIC)?;
    let connected = status.wait_for(|status| status.iot.connected);
    timeout("the device to be online", connected).await?;
    scene.line.hold(true);
    scene.line.cut();
    let lost = status.wait_for(|status| !status.iot.connected);
    timeout("the loss to be noticed", lost).await?;
    let published = scene.listener.publish(Message::new(TOPIC, "while away"))?;
    timeout("an acknowledgement", published).await?;
    scene.line.hold(false);
    assert_eq!(next(&mut news).await?.payload, "while away");
    scene.end().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_messages_survive_broker_restart() -> anyhow::Result<()> {
    const TOPIC: &str = "c/d/SN-MOSQ/measured/req";
    let (mut scene, mut messages) = Scene::set(TOPIC).await?;
    let mut status = scene.cloud.watch_status();
    scene.cloud.initialize().await?;
    timeout(
        "the device to be online",
        status.wait_for(|status| status.iot.connected),
    )
    .await?;

    scene.broker.kill().await?;
    timeout(
        "the loss to be noticed",
        status.wait_for(|status| !status.iot.connected),
    )
    .await?;
    let publish = |n: usize| scene.cloud.publish(Message::new(TOPIC, n.to_string()));
    let receipts = (0..50).map(publish).collect::<Result<Vec<_>, _>>()?;
    // The listener is there again before the device can be.
    scene.line.hold(true);
    scene.broker.restart().await?;
    timeout(
        "the listener",
        scene.listener.state().wait_for(|state| state.is_online()),
    )
    .await?;
    scene.line.hold(false);
    for receipt in receipts {
        timeout("an acknowledgement", receipt).await?;
    }
    for expected in 0..50 {
        assert_eq!(
            next(&mut messages).await?.payload,
            expected.to_string(),
            "all of them, in order"
        );
    }
    scene.end().await;
    Ok(())
}
