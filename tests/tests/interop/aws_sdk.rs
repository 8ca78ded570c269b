//! AWS's own SDK as a device against our simulator: what it takes for AWS IoT Core has to say what
//! AWS IoT Core says.

use std::time::Duration;

use anyhow::Context;
use cloud_sim::{SimConfig, Simulator};
use integration_tests::process::Process;
use testkit::wait::eventually;

use crate::peers::{python_aws_sdk, script};

const SERIAL: &str = "SN-AWS-SDK";

/// Runs the script in one version of the protocol through these steps, and then kills it.
async fn runs(protocol: &str, steps: &[&str]) -> anyhow::Result<()> {
    let simulator = Simulator::start(SimConfig::default()).await?;
    let ready = serde_json::to_string(&simulator.ready())?;
    let mut device = Process::spawn(
        "AWS's SDK",
        script(&python_aws_sdk()?, "py_aws_sdk.py").args([protocol, SERIAL, &ready]),
    )?;
    for step in steps {
        device
            .event(step)
            .await
            .with_context(|| (*step).to_owned())?;
    }
    device.event("connected").await?;
    let control = simulator.control();
    let history = || async { Some(control.device(SERIAL).await.ok()?.status_history) };
    eventually("the device to be online", || async {
        (history().await? == ["ONLINE"]).then_some(())
    })
    .await;
    device.kill().await?;
    eventually("the will", || async {
        (history().await? == ["ONLINE", "OFFLINE"]).then_some(())
    })
    .await;
    tokio::time::timeout(Duration::from_secs(30), simulator.stop()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_of_mqtt_5() -> anyhow::Result<()> {
    runs(
        "mqtt5",
        &["shadow.classic", "shadow.named", "properties", "resumed"],
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_of_mqtt_3_1_1() -> anyhow::Result<()> {
    runs("mqtt311", &["shadow.classic", "shadow.named", "resumed"]).await
}
