//! A device that makes its keys itself, from its registration to its page; and one whose
//! registration is lost on the way.

use axum::Router;
use axum::routing::get;
use cloud_facade::{ClesydeCloud, Registered};
use cloud_provision::{Client, GeneratedKeys, ProvisionError, ProvisioningKey};
use cloud_sim::{ApiAnswer, Fault, SimConfig, Simulator};
use testkit::wait::timeout;

const SERIAL: &str = "SN-0001";

fn client(simulator: &Simulator) -> anyhow::Result<(Client, ProvisioningKey)> {
    let key = ProvisioningKey::new(simulator.provisioning_key())?;
    Ok((Client::builder(&simulator.api_url()).build()?, key))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn device_connects_with_keys_generated_on_device() -> anyhow::Result<()> {
    let simulator = Simulator::start(SimConfig::default()).await?;
    let base = tempfile::tempdir()?;
    let page = Router::new().route("/", get(async || "hello"));
    let settings = ClesydeCloud::builder(SERIAL.parse()?, base.path(), simulator.api_url())
        .api(cloud_provision::ClientBuilder::no_proxy)
        .application(page);
    let cloud = settings.build();
    let key = ProvisioningKey::new(simulator.provisioning_key())?;
    let registered = timeout(
        "the registration",
        cloud.provision_with_keys(&key, GeneratedKeys),
    )
    .await?;
    let Registered::New {
        own_keys,
        clock_skew,
        ..
    } = registered
    else {
        panic!("{registered:?}")
    };
    assert!(own_keys && !clock_skew.unwrap().is_significant());
    let again = cloud.provision_with_keys(&key, GeneratedKeys).await?;
    assert_eq!(again, Registered::AlreadyProvisioned);
    cloud.initialize().await?;
    let mut status = cloud.watch_status();
    timeout(
        "the device to be reachable",
        status.wait_for(|status| status.iot.connected && status.remote.connected),
    )
    .await?;
    assert!(simulator.control().device(SERIAL).await?.tunnel);
    cloud.stop().await;
    simulator.stop().await;
    Ok(())
}

#[tokio::test]
async fn lost_response_is_reported_and_registers_once() -> anyhow::Result<()> {
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
        matches!(&again, ProvisionError::Refused { status: 409, message, .. } if message.as_str().contains("already been used")),
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
