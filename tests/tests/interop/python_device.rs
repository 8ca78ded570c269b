//! The Python library `clesyde_cloud_lib` as a device against our simulator.

use std::time::Duration;

use cloud_sim::{DeltaForm, SimConfig, Simulator};
use integration_tests::process::Process;
use integration_tests::public::{fetch, served_serial};
use integration_tests::wait::{until, within};

use crate::peers::{python, script};

const SERIAL: &str = "SN-PY-0001";

/// The library knows no other ports than these.
const MQTT_PORT: u16 = 8883;
const RELAY_PORT: u16 = 8443;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn provisions_comes_online_is_reached_and_rotates() -> anyhow::Result<()> {
    let mut config = SimConfig::default();
    (config.mqtt_port, config.relay_port) = (MQTT_PORT, RELAY_PORT);
    (config.bare_endpoints, config.delta_form) = (true, DeltaForm::Seed);
    let simulator = Simulator::start(config).await?;
    let (control, relay, ca) = (
        simulator.control(),
        simulator.relay_addr(),
        simulator.ca_pem().to_owned(),
    );
    let base = tempfile::tempdir()?;
    let mut device = Process::spawn(
        "the Python device",
        script(&python()?, "py_device.py").arg(base.path()).args([
            SERIAL,
            &simulator.api_url(),
            simulator.provisioning_key(),
        ]),
    )?;
    let host = device.event("provisioned").await?["access_point"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    device.event("iot.connected").await?;
    device.event("remote.connected").await?;
    let reached = || async { fetch(relay, &host, &ca, "").await.ok() };
    let page = until("the page to be reachable", reached).await;
    assert_eq!(page, format!("hello from the Python device {SERIAL}\n"));
    let seen = control.device(SERIAL).await?;
    assert!(seen.online && seen.tunnel, "{seen:?}");
    assert_eq!(
        served_serial(relay, &host, &ca).await?,
        seen.remote_cert_serial
    );

    let serial = control.rotate(SERIAL).await?;
    until("the new certificate to be served", || async {
        (served_serial(relay, &host, &ca).await.ok()? == serial).then_some(())
    })
    .await;
    assert_eq!(fetch(relay, &host, &ca, "").await?, page);

    device.terminate().await?;
    let offline = || async {
        control
            .device(SERIAL)
            .await
            .ok()
            .filter(|seen| !seen.online)
    };
    within("the device to be gone", until("offline", offline)).await;
    tokio::time::timeout(Duration::from_secs(30), simulator.stop()).await?;
    Ok(())
}
