//! A device that makes its keys itself, from its registration to its page; and one whose registration is lost on the way.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "this is a test throughout"
)]

use axum::Router;
use axum::routing::get;
use cloud_config::{Credentials, DeviceConfig, PemParts, Store};
use cloud_facade::remote::Application;
use cloud_facade::{ClesydeCloud, DeviceSettings};
use cloud_provision::{
    Client, GeneratedKeys, KeyOrigin, ProvisionError, Provisioned, ProvisioningKey,
};
use cloud_sim::{ApiAnswer, Fault, SimConfig, Simulator};
use integration_tests::wait::within;

const SERIAL: &str = "SN-0001";

fn client(simulator: &Simulator) -> anyhow::Result<(Client, ProvisioningKey)> {
    let key = ProvisioningKey::new(simulator.provisioning_key())?;
    Ok((Client::builder(&simulator.api_url()).build()?, key))
}

fn device_config(provisioned: &Provisioned) -> anyhow::Result<DeviceConfig> {
    let (iot, remote) = (&provisioned.iot, &provisioned.remote);
    Ok(DeviceConfig::from_pem_parts(PemParts {
        iot_thing_name: &iot.thing_name,
        iot_endpoint: &iot.endpoint,
        remote_endpoint: &remote.endpoint,
        access_point: &remote.access_point,
        iot_ca: &iot.root_ca,
        iot_cert: &iot.device_certificate,
        iot_key: iot.private_key.expose_secret(),
        remote_cert: &remote.certificate_chain,
        remote_key: remote.private_key.expose_secret(),
    })?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_goes_online_with_keys_that_never_left_it() -> anyhow::Result<()> {
    let simulator = Simulator::start(SimConfig::default()).await?;
    let (client, key) = client(&simulator)?;
    let provisioned = within(
        "the registration",
        client.register_with_keys(SERIAL, &key, &GeneratedKeys),
    )
    .await?;
    assert_eq!(provisioned.iot.key_origin, KeyOrigin::Device);
    assert_eq!(provisioned.remote.key_origin, KeyOrigin::Device);
    assert!(!provisioned.clock_skew.unwrap().is_significant());

    let base = tempfile::tempdir()?;
    let store = Store::new(base.path());
    let device = device_config(&provisioned)?;
    store.save(&device)?;
    let page = Router::new().route("/", get(async || "hello"));
    let settings = DeviceSettings::new(SERIAL.parse()?, base.path(), simulator.api_url())
        .with_application(Application::service(page));
    let cloud = ClesydeCloud::new(settings);
    cloud.initialize().await?;
    let mut status = cloud.watch_status();
    within(
        "the device to be reachable",
        status.wait_for(|status| status.iot.connected && status.remote.connected),
    )
    .await?;
    assert!(simulator.control().device(SERIAL).await?.tunnel);
    let stored: Credentials = store.load()?.device.iot;
    assert_eq!(
        stored.key_pem(),
        provisioned.iot.private_key.expose_secret()
    );
    cloud.stop().await;
    simulator.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_lost_answer_is_told_apart_and_makes_no_second_device() -> anyhow::Result<()> {
    let simulator = Simulator::start(SimConfig::default()).await?;
    let control = simulator.control();
    let (client, key) = client(&simulator)?;
    control
        .fault(Fault::Api {
            answer: ApiAnswer::Lost,
            times: 1,
        })
        .await?;
    let lost = client.register(SERIAL, &key).await.unwrap_err();
    assert!(matches!(lost, ProvisionError::Interrupted { .. }), "{lost}");
    assert!(lost.may_have_registered() && !lost.is_retryable());
    assert!(lost.to_string().contains("needs a new key"), "{lost}");

    let again = client.register(SERIAL, &key).await.unwrap_err();
    assert!(
        matches!(&again, ProvisionError::Refused { status: 409, message, .. } if message.contains("already been used")),
        "{again}"
    );
    assert_eq!(control.devices().await.len(), 1);

    // What an operator does about it: the key is made good for this device once more.
    control.forget(SERIAL).await?;
    client.register(SERIAL, &key).await?;
    assert_eq!(control.devices().await.len(), 1);
    simulator.stop().await;
    Ok(())
}
