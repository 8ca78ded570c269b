//! The Python library `clesyde_cloud_lib` as a device against our simulator, in the version whose
//! protocol we keep and in the current one.

use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use cloud_facade::ClesydeCloud;
use cloud_facade::provision::ProvisioningKey;
use cloud_sim::{Control, DeltaForm, DeviceStatus, Fault, SimConfig, Simulator, TokenAnswer};
use integration_tests::process::Process;
use integration_tests::public::{fetch, served_serial};
use testkit::wait::{eventually, timeout};
use tokio::time::{Instant, sleep_until};

use crate::own_network;
use crate::peers::{python, python_clesyde_0120, script};

const SERIAL: &str = "SN-PY-0001";

const PYTHON_PAGE: &str = "hello from the Python device SN-PY-0001\n";
const OUR_PAGE: &str = "hello from Rust\n";

/// Version 0.1.20 asks for another token when this is left of the one that it has.
const REFRESH_MARGIN: Duration = Duration::from_secs(15 * 60);

/// So long a token is good for beyond the margin: version 0.1.20 floods a platform whose tokens
/// last less than the margin.
const BEYOND_MARGIN: Duration = Duration::from_secs(10);

/// The settings of a simulator for version 0.1.20; both versions know no other port of the broker.
pub(crate) fn platform_of_0_1_20() -> SimConfig {
    let mut config = SimConfig::default();
    (config.mqtt_port, config.bare_endpoints) = (8883, true);
    (config.relay_port, config.delta_form) = (443, DeltaForm::Aws);
    config
}

/// A simulator, and the directory of a device that is provisioned by it or will be.
struct Scene {
    simulator: Simulator,
    control: Control,
    base: tempfile::TempDir,
}

impl Scene {
    async fn set(config: SimConfig) -> anyhow::Result<Self> {
        let simulator = Simulator::start(config).await?;
        let control = simulator.control();
        let base = tempfile::tempdir()?;
        Ok(Self {
            simulator,
            control,
            base,
        })
    }

    /// The library on the directory: online, and reached with the certificate that it should have.
    async fn start(&self, python: &Path) -> anyhow::Result<Process> {
        let device = self.connect(python).await?;
        self.reached(PYTHON_PAGE).await?;
        Ok(device)
    }

    /// The library on the directory, which it provisions if need be: it has had both connections.
    async fn connect(&self, python: &Path) -> anyhow::Result<Process> {
        let mut device = Process::spawn(
            "the Python device",
            script(python, "py_device.py").arg(self.base.path()).args([
                SERIAL,
                &self.simulator.api_url(),
                self.simulator.provisioning_key(),
            ]),
        )?;
        device.event("provisioned").await?;
        device.event("iot.connected").await?;
        device.event("remote.connected").await?;
        Ok(device)
    }

    /// Waits until the device is online, and the page is reachable under the certificate that it
    /// should have.
    async fn reached(&self, page: &str) -> anyhow::Result<()> {
        let seen = self
            .seen_when("online", |seen| seen.online && seen.tunnel)
            .await;
        let (relay, ca) = (self.simulator.relay_addr(), self.simulator.ca_pem());
        let host = &*seen.access_point;
        eventually("the right certificate to be served", || async {
            let served = served_serial(relay, host, ca).await.ok()?;
            (served == seen.remote_cert_serial).then_some(())
        })
        .await;
        let fetched = eventually("the page to be reachable", || async {
            fetch(relay, host, ca, "").await.ok()
        })
        .await;
        assert_eq!(fetched, page);
        Ok(())
    }

    async fn seen_when(&self, what: &str, fits: impl Fn(&DeviceStatus) -> bool) -> DeviceStatus {
        eventually(what, || async {
            self.control.device(SERIAL).await.ok().filter(&fits)
        })
        .await
    }

    async fn rotate(&self) -> anyhow::Result<()> {
        self.control.rotate(SERIAL).await?;
        Ok(())
    }

    async fn stop(&self, device: Process) -> anyhow::Result<()> {
        device.terminate().await?;
        self.seen_when("offline", |seen| !seen.online).await;
        Ok(())
    }

    async fn end(self) {
        timeout("the simulator to stop", self.simulator.stop()).await;
    }
}

#[test]
fn version_0_1_2_provisions_is_reached_and_rotates() -> anyhow::Result<()> {
    let name = "python_device::version_0_1_2_provisions_is_reached_and_rotates";
    own_network::run(name, async {
        let mut config = platform_of_0_1_20();
        (config.relay_port, config.delta_form) = (8443, DeltaForm::Seed);
        let scene = Scene::set(config).await?;
        let device = scene.start(&python()?).await?;
        scene.rotate().await?;
        scene.reached(PYTHON_PAGE).await?;
        scene.stop(device).await?;
        scene.end().await;
        Ok(())
    })
}

#[test]
fn version_0_1_20_provisions_is_reached_rotates_and_refreshes() -> anyhow::Result<()> {
    let Some(python) = python_clesyde_0120()? else {
        return Ok(());
    };
    let name = "python_device::version_0_1_20_provisions_is_reached_rotates_and_refreshes";
    own_network::run(name, async {
        let mut config = platform_of_0_1_20();
        config.token_valid = REFRESH_MARGIN + BEYOND_MARGIN;
        let scene = Scene::set(config).await?;
        let device = scene.start(&python).await?;
        // It has its token by now.
        let token_is_due = Instant::now() + BEYOND_MARGIN;
        scene.rotate().await?;
        scene.reached(PYTHON_PAGE).await?;

        // It looks at its token every five minutes, and when it has lost its tunnel.
        sleep_until(token_is_due).await;
        let issued = scene.control.device(SERIAL).await?.tokens_issued;
        let sn = Some(SERIAL.to_owned());
        scene.control.fault(Fault::DropTunnel { sn }).await?;
        scene
            .seen_when("another token", |seen| seen.tokens_issued > issued)
            .await;
        scene.reached(PYTHON_PAGE).await?;

        // It does not notice a lost connection to the broker before it has something to publish, as
        // a request for a token. The shadow that it gets on the new connection names a certificate.
        let token_is_due = Instant::now() + BEYOND_MARGIN;
        let sn = Some(SERIAL.to_owned());
        scene.control.fault(Fault::DropMqtt { sn }).await?;
        scene.seen_when("offline", |seen| !seen.online).await;
        scene.rotate().await?;
        sleep_until(token_is_due).await;
        let sn = Some(SERIAL.to_owned());
        scene.control.fault(Fault::DropTunnel { sn }).await?;
        scene.reached(PYTHON_PAGE).await?;
        scene.stop(device).await?;
        scene.end().await;
        Ok(())
    })
}

/// With tokens of less than the margin each answer of the platform makes the library ask again, and
/// a request without an answer ends that. Ours uses its token again.
#[test]
fn short_tokens_make_0_1_20_request_without_pause() -> anyhow::Result<()> {
    let Some(python) = python_clesyde_0120()? else {
        return Ok(());
    };
    let name = "python_device::short_tokens_make_0_1_20_request_without_pause";
    own_network::run(name, async {
        let mut config = platform_of_0_1_20();
        config.token_valid = REFRESH_MARGIN - BEYOND_MARGIN;
        let scene = Scene::set(config).await?;
        run_ours(&scene, true).await?;
        assert_eq!(scene.control.device(SERIAL).await?.tokens_issued, 1);

        // It has each tunnel for too short a time to be reached.
        let device = scene.connect(&python).await?;
        scene
            .seen_when("a storm of requests", |seen| seen.tokens_issued > 30)
            .await;
        let (answer, times) = (TokenAnswer::Hold, 0);
        scene.control.fault(Fault::Token { answer, times }).await?;
        scene.reached(PYTHON_PAGE).await?;
        scene.stop(device).await?;
        scene.end().await;
        Ok(())
    })
}

/// One directory: made by the library, used by us, used by the library. Each replaces the
/// certificate that the other has left.
#[test]
fn directory_of_0_1_20_is_taken_over_and_given_back() -> anyhow::Result<()> {
    let Some(python) = python_clesyde_0120()? else {
        return Ok(());
    };
    let name = "python_device::directory_of_0_1_20_is_taken_over_and_given_back";
    own_network::run(name, async {
        let scene = Scene::set(platform_of_0_1_20()).await?;
        let device = scene.start(&python).await?;
        scene.stop(device).await?;

        scene.rotate().await?;
        run_ours(&scene, false).await?;

        scene.rotate().await?;
        let device = scene.start(&python).await?;
        scene.stop(device).await?;
        run_ours(&scene, false).await?;
        scene.end().await;
        Ok(())
    })
}

/// One directory: made by us, used by the library.
#[test]
fn version_0_1_20_runs_on_directory_of_ours() -> anyhow::Result<()> {
    let Some(python) = python_clesyde_0120()? else {
        return Ok(());
    };
    let name = "python_device::version_0_1_20_runs_on_directory_of_ours";
    own_network::run(name, async {
        let scene = Scene::set(platform_of_0_1_20()).await?;
        run_ours(&scene, false).await?;
        let device = scene.start(&python).await?;
        scene.stop(device).await?;
        scene.end().await;
        Ok(())
    })
}

/// Provisions the device if need be and runs it until it is reached, and if so wanted reached again
/// after the loss of its tunnel.
async fn run_ours(scene: &Scene, loses_tunnel: bool) -> anyhow::Result<()> {
    let page = Router::new().route("/", get(|| async { OUR_PAGE }));
    let (base, api) = (scene.base.path(), scene.simulator.api_url());
    let cloud = ClesydeCloud::builder(SERIAL.parse()?, base, api)
        .application(page)
        .build();
    let key = ProvisioningKey::new(scene.simulator.provisioning_key())?;
    cloud.provision(&key).await?;
    cloud.initialize().await?;
    scene.reached(OUR_PAGE).await?;
    if loses_tunnel {
        let sn = Some(SERIAL.to_owned());
        scene.control.fault(Fault::DropTunnel { sn }).await?;
        scene
            .seen_when("the tunnel to be lost", |seen| !seen.tunnel)
            .await;
        scene.reached(OUR_PAGE).await?;
    }
    timeout("ours to stop", cloud.stop()).await;
    scene.seen_when("offline", |seen| !seen.online).await;
    Ok(())
}
