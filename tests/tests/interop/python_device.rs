//! The Python library `clesyde_cloud_lib` as a device against our simulator, in the version whose
//! protocol we keep and in the current one.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use cloud_sim::{Control, DeltaForm, Fault, SimConfig, Simulator};
use integration_tests::process::Process;
use integration_tests::public::{fetch, served_serial};
use testkit::wait::{eventually, timeout};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::peers::{python, python_clesyde_0120, script};

const SERIAL: &str = "SN-PY-0001";

/// The library knows no other port of the broker than this.
const MQTT_PORT: u16 = 8883;

/// Version 0.1.20 asks for another token when this is left of the one that it has.
const REFRESH_MARGIN: Duration = Duration::from_secs(15 * 60);

/// So long a token is good for beyond the margin: version 0.1.20 floods a platform whose tokens
/// last less than the margin.
const BEYOND_MARGIN: Duration = Duration::from_secs(10);

/// Both tests want the same port.
static PORT: Mutex<()> = Mutex::const_new(());

/// A simulator and the library as its device: online, reachable, and with its page fetched once.
struct Scene {
    simulator: Simulator,
    control: Control,
    device: Process,
    host: String,
    page: String,
    _base: tempfile::TempDir,
}

impl Scene {
    async fn set(python: &Path, mut config: SimConfig) -> anyhow::Result<Self> {
        (config.mqtt_port, config.bare_endpoints) = (MQTT_PORT, true);
        let simulator = Simulator::start(config).await?;
        let control = simulator.control();
        let base = tempfile::tempdir()?;
        let mut device = Process::spawn(
            "the Python device",
            script(python, "py_device.py").arg(base.path()).args([
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
        let mut scene = Self {
            simulator,
            control,
            device,
            host,
            page: format!("hello from the Python device {SERIAL}\n"),
            _base: base,
        };
        scene.is_reached().await;
        let seen = scene.control.device(SERIAL).await?;
        assert!(seen.online && seen.tunnel, "{seen:?}");
        assert_eq!(scene.served().await?, seen.remote_cert_serial);
        Ok(scene)
    }

    async fn is_reached(&mut self) {
        let (relay, ca) = (self.simulator.relay_addr(), self.simulator.ca_pem());
        let page = eventually("the page to be reachable", || async {
            fetch(relay, &self.host, ca, "").await.ok()
        })
        .await;
        assert_eq!(page, self.page);
    }

    /// The serial number of the certificate that the page has.
    async fn served(&self) -> anyhow::Result<String> {
        let (relay, ca) = (self.simulator.relay_addr(), self.simulator.ca_pem());
        served_serial(relay, &self.host, ca).await
    }

    async fn rotates(&mut self) -> anyhow::Result<()> {
        let serial = self.control.rotate(SERIAL).await?;
        eventually("the new certificate to be served", || async {
            (self.served().await.ok()? == serial).then_some(())
        })
        .await;
        self.is_reached().await;
        Ok(())
    }

    async fn end(self) -> anyhow::Result<()> {
        self.device.terminate().await?;
        let offline = || async {
            let seen = self.control.device(SERIAL).await.ok()?;
            (!seen.online).then_some(())
        };
        timeout("the device to be gone", eventually("offline", offline)).await;
        tokio::time::timeout(Duration::from_secs(30), self.simulator.stop()).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn version_0_1_2_provisions_is_reached_and_rotates() -> anyhow::Result<()> {
    let _port = PORT.lock().await;
    let mut config = SimConfig::default();
    (config.relay_port, config.delta_form) = (8443, DeltaForm::Seed);
    let mut scene = Scene::set(&python()?, config).await?;
    scene.rotates().await?;
    scene.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn version_0_1_20_provisions_is_reached_rotates_and_refreshes() -> anyhow::Result<()> {
    let Some(python) = python_clesyde_0120()? else {
        return Ok(());
    };
    let _port = PORT.lock().await;
    let mut config = SimConfig::default();
    (config.relay_port, config.delta_form) = (443, DeltaForm::Aws);
    config.token_valid = REFRESH_MARGIN + BEYOND_MARGIN;
    let token_is_due = Instant::now() + BEYOND_MARGIN;
    let mut scene = Scene::set(&python, config).await.context(
        "port 443 needs the right to listen on it; INTEROP_WITHOUT_CLESYDE_0120=1 leaves this out",
    )?;
    scene.rotates().await?;

    // It looks at its token every five minutes, and when it has lost its tunnel. (A lost connection
    // to the broker it does not notice before it has something to publish.) The device started
    // later than this instant was taken.
    sleep_until(token_is_due + BEYOND_MARGIN).await;
    let issued = scene.control.device(SERIAL).await?.tokens_issued;
    let sn = Some(SERIAL.to_owned());
    scene.control.fault(Fault::DropTunnel { sn }).await?;
    eventually("another token", || async {
        let seen = scene.control.device(SERIAL).await.ok()?;
        (seen.tokens_issued > issued && seen.tunnel).then_some(())
    })
    .await;
    scene.is_reached().await;
    scene.rotates().await?;
    scene.end().await
}
