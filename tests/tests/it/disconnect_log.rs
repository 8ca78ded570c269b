//! What a lost connection leaves in the log.

use std::fmt::Write;
use std::sync::{Arc, Mutex};

use cloud_facade::ClesydeCloud;
use cloud_facade::provision::ProvisioningKey;
use cloud_sim::{Fault, SimConfig, Simulator};
use testkit::wait::timeout;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

const SERIAL: &str = "SN-0001";

/// The texts of the warnings and errors of the device.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        // The platform is in this process, too.
        let ours = ["cloud_iot", "cloud_facade"]
            .iter()
            .any(|name| metadata.target().starts_with(name));
        if ours && *metadata.level() <= Level::WARN {
            let mut text = Text(String::new());
            event.record(&mut text);
            self.0.lock().unwrap().push(text.0);
        }
    }
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

#[tokio::test]
async fn lost_connection_is_logged_once() -> anyhow::Result<()> {
    let simulator = Simulator::start(SimConfig::default()).await?;
    let base = tempfile::tempdir()?;
    let cloud = ClesydeCloud::builder(SERIAL.parse()?, base.path(), simulator.api_url()).build();
    cloud
        .provision(&ProvisioningKey::new(simulator.provisioning_key())?)
        .await?;
    cloud.initialize().await?;
    let mut status = cloud.watch_status();
    timeout("online", status.wait_for(|status| status.iot.connected)).await?;

    let warnings = Warnings::default();
    let subscriber = tracing_subscriber::registry().with(warnings.clone());
    // All tasks of this test are on its thread.
    let guard = tracing::subscriber::set_default(subscriber);
    simulator
        .control()
        .fault(Fault::DropMqtt { sn: None })
        .await?;
    timeout("offline", status.wait_for(|status| !status.iot.connected)).await?;
    timeout("online", status.wait_for(|status| status.iot.connected)).await?;
    drop(guard);
    let warnings = warnings.0.lock().unwrap().clone();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("offline"), "{warnings:?}");
    cloud.stop().await;
    simulator.stop().await;
    Ok(())
}
