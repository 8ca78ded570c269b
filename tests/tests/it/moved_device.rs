//! What a host can change while the device runs.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use cloud_facade::remote::{Application, Probe};
use cloud_facade::{ApplicationError, ClesydeCloud, Event};
use cloud_sim::{SimConfig, Simulator};
use integration_tests::device::{SERIAL, TestDevice, page};
use testkit::wait::timeout;
use tokio::sync::Notify;

fn says(words: &'static str) -> Application {
    Application::service(Router::new().route("/", get(move || async move { words })))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn set_application_applies_to_new_connections_only() -> anyhow::Result<()> {
    let pair = TestDevice::running().await?;
    let download = pair.download().await?;
    pair.cloud.set_application(says("something else"))?;
    assert_eq!(pair.fetch("").await?, "something else");
    pair.finish(download).await?;

    // The next start asks the host again.
    pair.cloud.stop().await;
    assert!(matches!(
        pair.cloud.set_application(says("nothing runs")),
        Err(ApplicationError::NotRunning(_))
    ));
    pair.cloud.initialize().await?;
    pair.reachable().await?;
    assert_eq!(pair.fetch("").await?, "hello, 127.0.0.1");
    pair.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn set_application_fails_without_remote_access() -> anyhow::Result<()> {
    let pair = TestDevice::provisioned().await?;
    let cloud =
        ClesydeCloud::builder(SERIAL.parse()?, pair.base.path(), pair.simulator.api_url()).build();
    cloud.initialize().await?;
    assert!(matches!(
        cloud.set_application(says("hello")),
        Err(ApplicationError::NoRemoteAccess)
    ));
    cloud.stop().await;
    pair.stop().await;
    Ok(())
}

/// Whether the public gets through is reported apart from the tunnel's state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probe_reports_public_reachability() -> anyhow::Result<()> {
    let simulator = Simulator::start(SimConfig::default()).await?;
    let base = tempfile::tempdir()?;
    let mut probe = Probe::default();
    probe.host = Some("127.0.0.1".to_owned());
    probe.port = simulator.relay_addr().port();
    let cloud = ClesydeCloud::builder(SERIAL.parse()?, base.path(), simulator.api_url())
        .application(page(Arc::new(Notify::new())))
        .probe(probe)
        .build();
    let key = cloud_facade::provision::ProvisioningKey::new(simulator.provisioning_key())?;
    cloud.provision(&key).await?;
    let mut events = cloud.events();
    cloud.initialize().await?;
    let reported_by_probe = async {
        loop {
            match events.recv().await? {
                Event::RemoteReachable => return anyhow::Ok(true),
                Event::RemoteProbeFailed { .. } => return Ok(false),
                _ => {}
            }
        }
    };
    assert!(timeout("the probe", reported_by_probe).await?);
    assert_eq!(cloud.status().reachable, Some(true));
    assert!(cloud.status().remote.connected);
    cloud.stop().await;
    assert_eq!(cloud.status().reachable, None);
    simulator.stop().await;
    Ok(())
}
