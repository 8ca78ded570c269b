//! Reports that are made before there is a connection.

use std::time::Duration;

use cloud_facade::{HookPoint, Hooks, NotRunning, ReportError};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use crate::platform::{SERIAL, TestPlatform};

fn state(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap()
}

#[tokio::test]
async fn reports_at_start_and_on_connect_reach_the_shadow() -> anyhow::Result<()> {
    let platform = TestPlatform::start().await?;
    let hooks = Hooks::new().on(HookPoint::IotConnected, |cloud| async move {
        if let Some(cloud) = cloud.upgrade() {
            drop(cloud.report(state(json!({ "connects": 1 })))?);
        }
        Ok(())
    });
    let cloud = platform.device(|builder| builder.hooks(hooks)).await?;
    let stopped = cloud.report(state(json!({ "a": 1 })));
    assert!(matches!(stopped, Err(ReportError::NotRunning(NotRunning))));

    cloud.initialize().await?;
    let first = cloud.report(state(json!({ "mode": "eco" })))?;
    timeout(Duration::from_secs(30), first).await??;
    let control = platform.simulator.control();
    let reported = async {
        loop {
            let reported = control.device(SERIAL).await?.reported.unwrap_or_default();
            if reported["connects"] == 1 {
                return anyhow::Ok(reported);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let reported = timeout(Duration::from_secs(30), reported).await??;
    assert_eq!(reported["mode"], "eco");
    cloud.stop().await;
    platform.simulator.stop().await;
    Ok(())
}

#[tokio::test]
async fn waiting_reports_are_bounded_and_end_with_the_device() -> anyhow::Result<()> {
    let platform = TestPlatform::start().await?;
    let cloud = platform.device(|builder| builder).await?;
    platform.simulator.stop().await;
    cloud.initialize().await?;
    let mut receipts = Vec::new();
    let full = loop {
        match cloud.report(state(json!({ "a": receipts.len() }))) {
            Ok(receipt) => receipts.push(receipt),
            Err(full) => break full,
        }
        assert!(receipts.len() < 1000);
        tokio::task::yield_now().await;
    };
    assert!(matches!(full, ReportError::QueueFull(_)), "{full:?}");
    cloud.stop().await;
    for receipt in receipts {
        let result = timeout(Duration::from_secs(5), receipt).await?;
        assert!(
            matches!(result, Err(ReportError::NotRunning(_))),
            "{result:?}"
        );
    }
    Ok(())
}
