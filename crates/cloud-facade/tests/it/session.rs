//! The session with the broker as the host configures it.

use std::time::Duration;

use cloud_facade::iot::{DeliveryError, Limits, Message, Overflow, PublishOptions, Subscription};
use tokio::time::timeout;

use crate::platform::{SERIAL, TestPlatform, wait_for};

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn device_keeps_its_identity_whatever_the_host_changes() -> anyhow::Result<()> {
    let platform = TestPlatform::start().await?;
    let own = format!("c/d/{SERIAL}/note/req");
    let filter = Subscription::new(own.clone())?;
    let cloud = platform
        .device(|builder| {
            builder.session(move |mut session| {
                session.host = "elsewhere.invalid".to_owned();
                session.client_id = "other".to_owned();
                session.birth = None;
                session
                    .keep_alive(Duration::from_secs(30))
                    .subscriptions(vec![filter.clone()])
            })
        })
        .await?;
    assert!(cloud.network_changed().is_err() && cloud.iot_port().is_err());
    cloud.initialize().await?;
    let mut messages = cloud.iot()?.messages(own.clone())?;
    wait_for(&cloud, |status| status.iot.connected).await?;
    assert_eq!(cloud.iot_port()?, platform.simulator.mqtt_addr().port());
    cloud.network_changed()?;
    let options = PublishOptions::new().expires_in(Duration::from_secs(60));
    timeout(
        LIMIT,
        cloud.publish_with(Message::new(own, "hello"), options)?,
    )
    .await??;
    let message = timeout(LIMIT, messages.recv()).await?.unwrap()?;
    assert_eq!(message.payload, "hello");
    let device = platform.simulator.control().device(SERIAL).await?;
    assert!(device.online);
    cloud.stop().await;
    platform.simulator.stop().await;
    Ok(())
}

#[tokio::test]
async fn host_chooses_limits_and_overflow() -> anyhow::Result<()> {
    let platform = TestPlatform::start().await?;
    let cloud = platform
        .device(|builder| {
            builder.session(|session| {
                session
                    .limits(Limits::new().outbox_messages(1))
                    .overflow(Overflow::DropOldest)
            })
        })
        .await?;
    // Without a broker, messages wait.
    platform.simulator.stop().await;
    cloud.initialize().await?;
    let note = |text: &'static str| Message::new(format!("c/d/{SERIAL}/note/req"), text);
    let first = cloud.publish(note("first"))?;
    let second = cloud.publish(note("second"))?;
    assert_eq!(timeout(LIMIT, first).await?, Err(DeliveryError::Displaced));
    cloud.stop().await;
    assert_eq!(timeout(LIMIT, second).await?, Err(DeliveryError::Stopped));
    Ok(())
}

#[tokio::test]
async fn invalid_setting_is_an_error_of_the_start() -> anyhow::Result<()> {
    let platform = TestPlatform::start().await?;
    let cloud = platform
        .device(|builder| builder.session(|session| session.will_delay(Duration::from_secs(60))))
        .await?;
    let error = cloud.initialize().await.unwrap_err().to_string();
    assert!(
        error.contains("will_delay") && error.contains("session_expiry"),
        "{error}"
    );
    platform.simulator.stop().await;
    Ok(())
}
