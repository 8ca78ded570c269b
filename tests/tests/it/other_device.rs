//! A directory that holds another device's configuration than the host names.

use cloud_facade::config::Store;
use cloud_facade::provision::ProvisioningKey;
use cloud_facade::{ClesydeCloud, InitializeError, RegistrationError};
use integration_tests::device::{SERIAL, TestDevice};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directory_of_another_device_is_refused() -> anyhow::Result<()> {
    let pair = TestDevice::provisioned().await?;
    let settings = ClesydeCloud::builder(
        "SN-0002".parse()?,
        pair.base.path(),
        pair.simulator.api_url(),
    );
    let other = settings.build();
    let Err(InitializeError::OtherDevice(refused)) = other.initialize().await else {
        anyhow::bail!("it starts");
    };
    assert_eq!(refused.stored.as_str(), SERIAL);
    assert_eq!(refused.configured.as_str(), "SN-0002");
    assert!(!other.status().running);

    let key = ProvisioningKey::new(pair.simulator.provisioning_key())?;
    let refused = other.provision(&key).await;
    assert!(matches!(refused, Err(RegistrationError::OtherDevice(_))));
    assert_eq!(pair.simulator.control().devices().await.len(), 1);
    assert_eq!(
        Store::new(pair.base.path()).serial_number()?.as_str(),
        SERIAL
    );

    // Its own device starts on it.
    pair.cloud.initialize().await?;
    pair.stop().await;
    Ok(())
}
