//! One device and its expected state.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use cloud_facade::ClesydeCloud;
use cloud_facade::config::Store;
use cloud_facade::iot::{Ack, DeliveryError, Message, Receipt};
use cloud_facade::provision::ProvisioningKey;
use cloud_sim::{Control, Simulator};
use integration_tests::public;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

/// Messages of one device; with its ONLINE and OFFLINE they must stay within the 100 that the
/// simulator remembers.
pub(crate) const MESSAGES: usize = 30;

pub(crate) struct Device {
    pub(crate) serial: String,
    pub(crate) cloud: ClesydeCloud,
    pub(crate) base: tempfile::TempDir,
    /// The messages that were accepted, in order.
    pub(crate) accepted: Vec<(String, Receipt)>,
}

impl Device {
    pub(crate) async fn new(simulator: &Simulator, number: usize) -> anyhow::Result<Self> {
        let serial = format!("SN-{number:04}");
        let base = tempfile::tempdir()?;
        let settings = ClesydeCloud::builder(serial.parse()?, base.path(), simulator.api_url())
            .application(integration_tests::device::page(Arc::default()));
        let cloud = settings.build();
        cloud
            .provision(&ProvisioningKey::new(simulator.provisioning_key())?)
            .await?;
        Ok(Self {
            serial,
            cloud,
            base,
            accepted: Vec::new(),
        })
    }

    /// Publishes a message if the device accepts one.
    pub(crate) fn publish(&mut self) -> bool {
        let name = format!("M{}", self.accepted.len());
        if self.accepted.len() >= MESSAGES {
            return false;
        }
        let topic = format!("c/d/{}/status", self.serial);
        let payload = json!({ "state": name }).to_string();
        let taken = self.cloud.publish(Message::new(topic, payload));
        taken
            .map(|receipt| self.accepted.push((name, receipt)))
            .is_ok()
    }

    /// The differences from the expected state.
    pub(crate) async fn complaint(&self, simulator: &Simulator) -> anyhow::Result<Option<String>> {
        let status = self.cloud.status();
        if !(status.running && status.iot.connected && status.remote.connected) {
            return Ok(Some(format!("{status:?}")));
        }
        let seen = simulator.control().device(&self.serial).await?;
        if !(seen.online && seen.tunnel) {
            return Ok(Some(format!("the platform says {seen:?}")));
        }
        let wanted = seen.remote_cert_serial.as_str();
        let reported = seen
            .reported
            .as_ref()
            .and_then(|all| all["remoteCertSn"].as_str());
        if reported != Some(wanted) || status.certificate_serial.as_deref() != Some(wanted) {
            return Ok(Some(format!(
                "certificate {wanted} is wanted, {reported:?} is reported, {:?} is in the status",
                status.certificate_serial
            )));
        }
        let stored = Store::new(self.base.path()).load()?.device;
        ensure!(
            stored.remote.info().serial == wanted,
            "another certificate is stored"
        );
        let wanted_iot = seen.iot_cert_serial.as_str();
        if seen.iot_cert_accepted != [wanted_iot]
            || status.iot_certificate_serial.as_deref() != Some(wanted_iot)
        {
            return Ok(Some(format!(
                "client certificate {wanted_iot} is wanted, {:?} are taken, {:?} is in the status",
                seen.iot_cert_accepted, status.iot_certificate_serial
            )));
        }
        ensure!(
            stored.iot.info().serial == wanted_iot,
            "another client certificate is stored"
        );
        let (relay, ca) = (simulator.relay_addr(), simulator.ca_pem());
        let looked = async {
            let served = public::served_serial(relay, &seen.access_point, ca).await?;
            ensure!(served == wanted, "another certificate is served");
            let page = public::fetch(relay, &seen.access_point, ca, "").await?;
            ensure!(page == "hello, 127.0.0.1", "the page says {page}");
            Ok(())
        };
        Ok(timeout(Duration::from_secs(60), looked)
            .await
            .context("the page is slow")
            .flatten()
            .err()
            .map(|error| format!("{error:#}")))
    }

    /// Checks that each accepted message has arrived, in order, or that its receipt has an error.
    pub(crate) async fn nothing_lost(&mut self, control: &Control) -> anyhow::Result<()> {
        let mut acknowledged = Vec::new();
        for (name, receipt) in self.accepted.drain(..) {
            match timeout(Duration::from_secs(60), receipt)
                .await
                .with_context(|| format!("{name} has no receipt"))?
            {
                Ok(Ack::Acknowledged) => acknowledged.push(name),
                // It was stopped meanwhile, and the receipt says so.
                Err(DeliveryError::Stopped) => {}
                other => anyhow::bail!("{name}: {other:?}"),
            }
        }
        // The broker has acknowledged; the platform behind it may take a moment.
        let begun = Instant::now();
        loop {
            let history = control.device(&self.serial).await?.status_history;
            // At least once: only the first of each counts.
            let first = |at: &usize| !history[..*at].contains(&history[*at]);
            let mut arrived = (0..history.len()).filter(first).map(|at| &history[at]);
            let missing = acknowledged
                .iter()
                .find(|name| !arrived.any(|arrived| arrived == *name));
            let Some(missing) = missing else {
                return Ok(());
            };
            ensure!(
                begun.elapsed() < Duration::from_secs(60),
                "{missing} was acknowledged, and is missing or out of order in {history:?}"
            );
            sleep(Duration::from_secs(1)).await;
        }
    }
}
