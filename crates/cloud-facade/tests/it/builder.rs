//! A host that is described by the builder alone.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use cloud_facade::iot::Subscription;
use cloud_facade::{ClesydeCloud, HookPoint, Hooks, InitializeError, WeakClesydeCloud};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use crate::platform::{TestPlatform, wait_for};

#[tokio::test]
async fn application_and_hooks_receive_their_device() -> anyhow::Result<()> {
    let platform = TestPlatform::start().await?;
    let application = Arc::new(Mutex::new(WeakClesydeCloud::default()));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let cloud = platform
        .device(|builder| {
            let (application, seen) = (Arc::clone(&application), Arc::clone(&seen));
            let record = move |cloud: WeakClesydeCloud| {
                let running = cloud.upgrade().is_some_and(|cloud| cloud.status().running);
                seen.lock().unwrap().push(running);
                std::future::ready(Ok(()))
            };
            builder
                .application_with(move |cloud| {
                    *application.lock().unwrap() = cloud;
                    Router::new().route("/", get(|| async { "hello" }))
                })
                .hooks(
                    Hooks::new()
                        .on(HookPoint::Initialized, record.clone())
                        .on(HookPoint::Started, record.clone())
                        .on(HookPoint::Stopped, record),
                )
        })
        .await?;
    assert!(
        application.lock().unwrap().upgrade().is_none(),
        "not made yet"
    );
    cloud.initialize().await?;
    wait_for(&cloud, |status| {
        status.iot.connected && status.remote.connected
    })
    .await?;
    let given = application.lock().unwrap().upgrade().unwrap();
    assert_eq!(given.serial_number(), cloud.serial_number());
    drop(given);
    cloud.stop().await;
    assert_eq!(*seen.lock().unwrap(), [false, true, false]);

    // Neither keeps the device alive.
    drop(cloud);
    assert!(application.lock().unwrap().upgrade().is_none());
    platform.simulator.stop().await;
    Ok(())
}

#[tokio::test]
async fn own_subscription_receives_messages() -> anyhow::Result<()> {
    let platform = TestPlatform::start().await?;
    let topic = "c/d/SN-1/status";
    let own = Subscription::new(topic)?;
    let cloud = platform.device(|builder| builder.subscription(own)).await?;
    cloud.initialize().await?;
    let mut messages = cloud.iot()?.messages(topic)?;
    wait_for(&cloud, |status| status.iot.connected).await?;
    // The device's own status comes back.
    let message = messages.recv().await.unwrap().unwrap();
    assert_eq!(message.topic, topic);
    cloud.stop().await;
    platform.simulator.stop().await;
    Ok(())
}

#[tokio::test]
async fn every_action_is_handled_and_answered_beside_slow_event_reader() -> anyhow::Result<()> {
    const MESSAGES: usize = 200;
    let platform = TestPlatform::start().await?;
    let answers = "c/d/SN-1/count/req";
    let own = Subscription::new(answers)?;
    let cloud = platform
        .device(|builder| {
            builder.subscription(own).on_action(
                "count".parse().unwrap(),
                |cloud, payload| async move {
                    assert!(cloud.upgrade().is_some());
                    Ok(Some(payload))
                },
            )
        })
        .await?;
    let mut slow = cloud.events();
    cloud.initialize().await?;
    let mut messages = cloud.iot()?.messages(answers)?;
    wait_for(&cloud, |status| status.iot.connected).await?;
    let control = platform.simulator.control();
    for number in 0..MESSAGES {
        let payload = number.to_string().into_bytes();
        control.action("SN-1", "count", payload).await?;
        let message = timeout(Duration::from_secs(30), messages.recv()).await?;
        let answer = message.unwrap().unwrap().payload;
        assert_eq!(answer, number.to_string());
    }
    assert!(matches!(slow.recv().await, Err(RecvError::Lagged(_))));
    cloud.stop().await;
    platform.simulator.stop().await;
    Ok(())
}

#[test]
fn device_is_built_outside_a_runtime() {
    let base = tempfile::tempdir().unwrap();
    let cloud = ClesydeCloud::builder("SN-1".parse().unwrap(), base.path(), "https://a.example");
    let cloud = cloud.build();
    assert!(!cloud.status().running);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let started = runtime.block_on(cloud.initialize());
    assert!(
        matches!(started, Err(InitializeError::Load(_))),
        "{started:?}"
    );
    assert!(started.unwrap_err().is_not_provisioned());
}
