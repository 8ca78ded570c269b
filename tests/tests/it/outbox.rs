//! An outbox on disk, from the host's call to the platform.

use cloud_facade::ClesydeCloud;
use cloud_facade::iot::Message;
use cloud_facade::provision::ProvisioningKey;
use cloud_sim::{Fault, SimConfig, Simulator};
use integration_tests::device::SERIAL;
use testkit::wait::{eventually, timeout};

#[tokio::test]
async fn stored_messages_are_sent_after_restart() -> anyhow::Result<()> {
    let simulator = Simulator::start(SimConfig::default()).await?;
    let base = tempfile::tempdir()?;
    let settings = ClesydeCloud::builder(SERIAL.parse()?, base.path(), simulator.api_url())
        .outbox_directory(base.path().join("outbox"));
    let device = settings.clone().build();
    let key = ProvisioningKey::new(simulator.provisioning_key())?;
    device.provision(&key).await?;

    let control = simulator.control();
    control.fault(Fault::RefuseMqtt { seconds: 3600 }).await?;
    device.initialize().await?;
    let status = format!("c/d/{SERIAL}/status");
    let mut receipt = device.publish(Message::new(status, r#"{"state":"PING"}"#))?;
    timeout("the message to be stored", receipt.stored()).await?;
    timeout("the device to stop", device.stop()).await;
    drop(device);

    control.fault(Fault::Clear).await?;
    let device = settings.build();
    device.initialize().await?;
    eventually("the message of the life before", || async {
        let seen = control.device(SERIAL).await.ok()?;
        seen.status_history
            .contains(&"PING".to_owned())
            .then_some(())
    })
    .await;
    timeout("the device to stop", device.stop()).await;
    timeout("the simulator to stop", simulator.stop()).await;
    Ok(())
}
