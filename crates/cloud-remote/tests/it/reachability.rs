//! Reachability from outside, which differs from a connected tunnel.

use std::time::Duration;

use cloud_remote::{AccessRules, Application, Probe, RemoteAccess, RemoteEvent, StartError};
use tokio::sync::broadcast::Receiver;

use crate::serving::web;
use crate::support::{Cloud, Issue, connected, event};

fn probe(port: u16) -> Probe {
    let mut probe = Probe::default();
    probe.interval = Duration::from_millis(100);
    probe.host = Some("127.0.0.1".to_owned());
    probe.port = port;
    probe
}

async fn probing(cloud: &Cloud, port: u16) -> (RemoteAccess, Receiver<RemoteEvent>) {
    let builder = cloud.builder().application(web()).probe(probe(port));
    let remote = cloud.device_from(builder).await;
    let events = remote.events();
    remote.set_messaging_online(true);
    connected(&remote).await;
    (remote, events)
}

async fn reachable(events: &mut Receiver<RemoteEvent>) {
    event(events, |event| {
        matches!(event, RemoteEvent::Reachable).then_some(())
    })
    .await;
}

async fn probe_failed(events: &mut Receiver<RemoteEvent>) -> String {
    event(events, |event| match event {
        RemoteEvent::ProbeFailed { reason } => Some(reason),
        RemoteEvent::Disconnected { reason } => panic!("not the tunnel's fault: {reason}"),
        _ => None,
    })
    .await
}

#[tokio::test]
async fn reachability_changes_are_reported() {
    let cloud = Cloud::start().await;
    let (remote, mut events) = probing(&cloud, cloud.address.port()).await;
    reachable(&mut events).await;
    remote.set_access(AccessRules::new([], ["127.0.0.0/8".parse().unwrap()]));
    let reason = probe_failed(&mut events).await;
    assert!(reason.contains("did not reach this device"), "{reason}");
    assert!(remote.status().borrow().is_connected());
    remote.set_access(AccessRules::default());
    reachable(&mut events).await;
    remote.stop(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn name_of_other_device_is_not_reachable() {
    let (cloud, other) = (Cloud::start().await, Cloud::start().await);
    // The same name and serial number, but another certificate.
    *other.platform.stored.lock().unwrap() = other.platform.ca.issue(&Issue::serial(1));
    let _impostor = other.device(web()).await;
    let (remote, mut events) = probing(&cloud, other.address.port()).await;
    probe_failed(&mut events).await;
    assert!(remote.status().borrow().is_connected());
}

#[tokio::test]
async fn probe_with_passthrough_is_refused() {
    let cloud = Cloud::start().await;
    let application = Application::passthrough(cloud.address);
    let platform = || std::sync::Arc::clone(&cloud.platform);
    let builder = cloud.builder().application(application).probe(probe(443));
    let error = builder
        .start(platform(), platform(), platform())
        .await
        .unwrap_err();
    assert!(matches!(error, StartError::Probe), "{error}");
}
