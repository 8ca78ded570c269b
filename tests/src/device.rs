//! A device and the simulator that it is provisioned by.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::routing::{any, get};
use axum::{Extension, Router};
use cloud_facade::ClesydeCloud;
use cloud_facade::provision::ProvisioningKey;
use cloud_facade::remote::ClientAddr;
use cloud_sim::{Control, DeviceStatus, SimConfig, Simulator};
use futures_util::StreamExt;
use tokio::sync::Notify;

use testkit::wait::{eventually, timeout};

/// The serial number of a [`TestDevice`]'s device.
pub const SERIAL: &str = "SN-0001";

/// A simulator, and a device that is provisioned by it.
#[allow(missing_debug_implementations)]
pub struct TestDevice {
    /// The platform.
    pub simulator: Simulator,
    /// The device.
    pub cloud: ClesydeCloud,
    /// The device's base path.
    pub base: tempfile::TempDir,
    /// Lets `/slow` send the second half of its answer.
    pub go_on: Arc<Notify>,
}

impl TestDevice {
    /// A device that is provisioned and does not run yet.
    pub async fn provisioned() -> anyhow::Result<Self> {
        Self::with(SimConfig::default()).await
    }

    /// Like [`provisioned`](Self::provisioned), with this simulator.
    pub async fn with(config: SimConfig) -> anyhow::Result<Self> {
        let simulator = Simulator::start(config).await?;
        let base = tempfile::tempdir()?;
        let go_on = Arc::new(Notify::new());
        let cloud = ClesydeCloud::builder(SERIAL.parse()?, base.path(), simulator.api_url())
            .application(page(Arc::clone(&go_on)))
            .build();
        cloud
            .provision(&ProvisioningKey::new(simulator.provisioning_key())?)
            .await?;
        Ok(Self {
            simulator,
            cloud,
            base,
            go_on,
        })
    }

    /// A device that is online and reachable.
    pub async fn running() -> anyhow::Result<Self> {
        let pair = Self::provisioned().await?;
        pair.cloud.initialize().await?;
        pair.reachable().await?;
        Ok(pair)
    }

    /// Waits until messaging and the tunnel are up.
    pub async fn reachable(&self) -> anyhow::Result<()> {
        let mut status = self.cloud.watch_status();
        timeout(
            "the device to be reachable",
            status.wait_for(|status| status.iot.connected && status.remote.connected),
        )
        .await?;
        Ok(())
    }

    /// The platform's status of the device.
    pub async fn seen(&self) -> anyhow::Result<DeviceStatus> {
        Ok(self.simulator.control().device(SERIAL).await?)
    }

    /// Waits until the platform's status of the device fits.
    pub async fn seen_when(
        &self,
        what: &str,
        fits: impl Fn(&DeviceStatus) -> bool,
    ) -> DeviceStatus {
        let control: Control = self.simulator.control();
        eventually(what, || async {
            control.device(SERIAL).await.ok().filter(&fits)
        })
        .await
    }

    /// Fetches a page of the device through the relay.
    pub async fn fetch(&self, path: &str) -> anyhow::Result<String> {
        let host = self.seen().await?.access_point;
        crate::public::fetch(
            self.simulator.relay_addr(),
            &host,
            self.simulator.ca_pem(),
            path,
        )
        .await
    }

    /// A download of which the first half has come; see [`finish`](Self::finish).
    pub async fn download(&self) -> anyhow::Result<reqwest::Response> {
        let (relay, host) = (self.simulator.relay_addr(), self.seen().await?.access_point);
        let client = crate::public::http_client(relay, &host, self.simulator.ca_pem())?;
        let slow = format!("https://{host}:{}/slow", relay.port());
        let mut download = client.get(slow).send().await?;
        let half = timeout("the first half", download.chunk()).await?;
        anyhow::ensure!(half.as_deref() == Some(b"first half, "), "{half:?}");
        Ok(download)
    }

    /// Sends the second half of a download and checks that it arrives.
    pub async fn finish(&self, mut download: reqwest::Response) -> anyhow::Result<()> {
        self.go_on.notify_one();
        let half = timeout("the second half", download.chunk()).await?;
        anyhow::ensure!(half.as_deref() == Some(b"second half"), "{half:?}");
        Ok(())
    }

    /// The serial number of the served certificate.
    pub async fn served_serial(&self) -> anyhow::Result<String> {
        let host = self.seen().await?.access_point;
        crate::public::served_serial(self.simulator.relay_addr(), &host, self.simulator.ca_pem())
            .await
    }

    /// Stops both.
    pub async fn stop(self) {
        timeout("the device to stop", self.cloud.stop()).await;
        timeout("the simulator to stop", self.simulator.stop()).await;
    }
}

/// `/` greets the caller, `/slow` sends half of its answer and waits, `/echo` is a WebSocket that
/// echoes each message.
pub fn page(go_on: Arc<Notify>) -> Router {
    let greet = |Extension(ClientAddr(caller)): Extension<ClientAddr>| async move {
        caller.map_or("hello, unknown caller".to_owned(), |address| {
            format!("hello, {address}")
        })
    };
    let slow = move || {
        let go_on = Arc::clone(&go_on);
        async move {
            let halves =
                futures_util::stream::iter(["first half, ", "second half"]).then(move |half| {
                    let go_on = Arc::clone(&go_on);
                    async move {
                        if half.starts_with("second") {
                            go_on.notified().await;
                        }
                        Ok::<_, std::convert::Infallible>(half)
                    }
                });
            axum::body::Body::from_stream(halves)
        }
    };
    let echo = |upgrade: WebSocketUpgrade| async move {
        upgrade.on_upgrade(|mut socket| async move {
            while let Some(Ok(message)) = socket.recv().await {
                if matches!(message, Message::Text(_) | Message::Binary(_))
                    && socket.send(message).await.is_err()
                {
                    return;
                }
            }
        })
    };
    Router::new()
        .route("/", get(greet))
        .route("/slow", get(slow))
        .route("/echo", any(echo))
}

/// Time limit for steps that must not wait for a timeout.
pub const AT_ONCE: Duration = Duration::from_secs(10);
