//! A simulated platform and a device that is provisioned by it.

use std::time::Duration;

use cloud_facade::provision::ProvisioningKey;
use cloud_facade::{ClesydeCloud, CloudBuilder, Status};
use cloud_sim::{SimConfig, Simulator};
use tokio::time::timeout;

pub(crate) const SERIAL: &str = "SN-1";

pub(crate) struct TestPlatform {
    pub(crate) simulator: Simulator,
    base: tempfile::TempDir,
}

impl TestPlatform {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        Ok(Self {
            simulator: Simulator::start(SimConfig::default()).await?,
            base: tempfile::tempdir()?,
        })
    }

    /// Returns a provisioned device.
    pub(crate) async fn device(
        &self,
        configure: impl FnOnce(CloudBuilder) -> CloudBuilder,
    ) -> anyhow::Result<ClesydeCloud> {
        let api_url = self.simulator.api_url();
        let builder = ClesydeCloud::builder(SERIAL.parse()?, self.base.path(), api_url);
        let cloud = configure(builder).build();
        let key = ProvisioningKey::new(self.simulator.provisioning_key())?;
        cloud.provision(&key).await?;
        Ok(cloud)
    }
}

pub(crate) async fn wait_for(
    cloud: &ClesydeCloud,
    condition: impl FnMut(&Status) -> bool,
) -> anyhow::Result<()> {
    let mut status = cloud.watch_status();
    timeout(Duration::from_secs(30), status.wait_for(condition)).await??;
    Ok(())
}
