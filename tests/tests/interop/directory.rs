//! A directory that one library provisions is accepted by the other.

use std::path::{Path, PathBuf};

use cloud_facade::provision::ProvisioningKey;
use cloud_facade::{ClesydeCloud, Registered};
use cloud_provision::GeneratedKeys;
use cloud_sim::{SimConfig, Simulator};
use testkit::wait::timeout;

use crate::peers::{python, python_clesyde_0120, script};

/// Both versions of the library that there are here.
fn versions() -> anyhow::Result<Vec<PathBuf>> {
    let pythons = [Some(python()?), python_clesyde_0120()?];
    Ok(pythons.into_iter().flatten().collect())
}

#[tokio::test]
async fn directory_of_python_library_is_accepted() -> anyhow::Result<()> {
    for python in versions()? {
        is_accepted(&python).await?;
    }
    Ok(())
}

#[tokio::test]
async fn directory_is_readable_by_python_library() -> anyhow::Result<()> {
    for python in versions()? {
        for own_keys in [false, true] {
            is_readable(&python, own_keys).await?;
        }
    }
    Ok(())
}

async fn is_accepted(python: &Path) -> anyhow::Result<()> {
    let simulator = Simulator::start(SimConfig::default()).await?;
    let base = tempfile::tempdir()?;
    let output = timeout(
        "the Python library to provision",
        script(python, "py_directory.py")
            .arg("provision")
            .arg(base.path())
            .args(["SN-PY", &simulator.api_url()])
            .env("PROVISIONING_KEY", simulator.provisioning_key())
            .output(),
    )
    .await?;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let cloud = ClesydeCloud::builder("SN-PY".parse()?, base.path(), simulator.api_url()).build();
    let again = cloud.provision(&ProvisioningKey::new("of no use")?).await?;
    assert_eq!(
        again,
        Registered::AlreadyProvisioned,
        "what is there is left alone"
    );
    let mut status = cloud.watch_status();
    cloud.initialize().await?;
    timeout("the broker", status.wait_for(|status| status.iot.connected)).await?;
    cloud.stop().await;
    simulator.stop().await;
    Ok(())
}

/// With the platform's keys, or with some that the device has generated.
async fn is_readable(python: &Path, own_keys: bool) -> anyhow::Result<()> {
    let simulator = Simulator::start(SimConfig::default()).await?;
    let base = tempfile::tempdir()?;
    let cloud = ClesydeCloud::builder("SN-RS".parse()?, base.path(), simulator.api_url()).build();
    let key = ProvisioningKey::new(simulator.provisioning_key())?;
    if own_keys {
        cloud.provision_with_keys(&key, GeneratedKeys).await?;
    } else {
        cloud.provision(&key).await?;
    }

    let load = script(python, "py_directory.py")
        .arg("load")
        .arg(base.path())
        .output();
    let output = timeout("the Python library to load", load).await?;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let read: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let stored = std::fs::read(base.path().join(".clesydecloud/cloud_config.json"))?;
    assert_eq!(read, serde_json::from_slice::<serde_json::Value>(&stored)?);
    assert_eq!(read["iot_thing_name"], "SN-RS");
    simulator.stop().await;
    Ok(())
}
