//! A damaged certificate or key for remote access: messaging runs, and the device requests another
//! certificate.

use std::fs;
use std::path::PathBuf;

use cloud_facade::config::Store;
use cloud_facade::remote::AccessRules;
use cloud_facade::{ApplicationError, Event};
use cloud_sim::{CertificateAnswer, Fault};
use integration_tests::device::{SERIAL, TestDevice, page};
use testkit::wait::timeout;

fn file(pair: &TestDevice, name: &str) -> PathBuf {
    pair.base.path().join(".clesydecloud").join(name)
}

/// A device that has been online, so that the platform knows of its certificate, and does not run
/// any more.
async fn known() -> anyhow::Result<TestDevice> {
    let pair = TestDevice::running().await?;
    let serial = pair.served_serial().await?;
    pair.seen_when("the certificate to be reported", |seen| {
        let reported = seen.reported.as_ref();
        reported.is_some_and(|reported| reported["remoteCertSn"] == serial.as_str())
    })
    .await;
    pair.cloud.stop().await;
    Ok(pair)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_remote_certificate_is_recovered_while_messaging_runs() -> anyhow::Result<()> {
    for (name, content) in [
        ("remote_cert.pem", None),
        ("remote_key.pem", Some("-----BEGIN PRIVATE KEY-----\nMC4C")),
    ] {
        let pair = known().await?;
        let damaged = file(&pair, name);
        match content {
            Some(content) => fs::write(&damaged, content)?,
            None => fs::remove_file(&damaged)?,
        }
        let mut events = pair.cloud.events();
        pair.cloud.initialize().await?;
        assert!(matches!(events.recv().await?, Event::Initialized));
        match events.recv().await? {
            Event::RemoteConnectFailed { reason } => assert!(reason.contains(name), "{reason}"),
            other => anyhow::bail!("{other:?}"),
        }
        pair.reachable().await?;
        assert!(pair.fetch("").await?.starts_with("hello"));
        let stored = Store::new(pair.base.path()).load()?.device.remote;
        let serial = stored.info().serial.clone();
        assert_eq!(pair.served_serial().await?, serial);
        assert_eq!(pair.cloud.status().certificate_serial, Some(serial));

        // From here on it behaves like any other device.
        let next = pair.simulator.control().rotate(SERIAL).await?;
        pair.seen_when("the next certificate to be reported", |seen| {
            let reported = seen.reported.as_ref();
            reported.is_some_and(|reported| reported["remoteCertSn"] == next.as_str())
        })
        .await;
        assert_eq!(pair.served_serial().await?, next);
        pair.stop().await;
    }
    Ok(())
}

/// A platform without a certificate for the device has to name one first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovery_prefers_desired_certificate() -> anyhow::Result<()> {
    let pair = TestDevice::provisioned().await?;
    fs::write(file(&pair, "remote_cert.pem"), "")?;
    pair.cloud.initialize().await?;
    let mut status = pair.cloud.watch_status();
    let online = status.wait_for(|status| status.iot.connected);
    let remote = timeout("messaging", online).await?.remote.clone();
    let reason = remote.reason.unwrap_or_default();
    assert!(reason.contains("remote_cert.pem"), "{reason}");
    assert!(pair.cloud.remote()?.is_none());

    // What the host changes meanwhile holds from the beginning.
    let nobody = AccessRules::new([], ["0.0.0.0/0".parse()?, "::/0".parse()?]);
    pair.cloud.set_access(nobody)?;
    pair.cloud.set_application(page(pair.go_on.clone()))?;
    let desired = pair.simulator.control().rotate(SERIAL).await?;
    pair.reachable().await?;
    assert_eq!(pair.cloud.status().certificate_serial, Some(desired));
    assert!(pair.fetch("").await.is_err(), "nobody is let in");
    pair.cloud.set_access(AccessRules::default())?;
    assert!(pair.fetch("").await?.starts_with("hello"));
    pair.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_response_stores_nothing_and_stop_ends_recovery() -> anyhow::Result<()> {
    let pair = known().await?;
    fs::write(file(&pair, "remote_key.pem"), "not a key")?;
    let answer = CertificateAnswer::WrongKey;
    let fault = Fault::Certificate { answer, times: 0 };
    pair.simulator.control().fault(fault).await?;
    let mut events = pair.cloud.events();
    pair.cloud.initialize().await?;
    let failed = async {
        loop {
            if let Event::RemoteCertificateRotationFailed { reason, .. } = events.recv().await? {
                return anyhow::Ok(reason);
            }
        }
    };
    let reason = timeout("the failure event", failed).await?;
    assert!(reason.contains("does not belong"), "{reason}");
    assert_eq!(
        fs::read_to_string(file(&pair, "remote_key.pem"))?,
        "not a key"
    );
    assert!(pair.cloud.status().iot.connected);
    pair.cloud.stop().await;
    assert!(matches!(
        pair.cloud.set_application(page(pair.go_on.clone())),
        Err(ApplicationError::NotRunning(_))
    ));
    pair.stop().await;
    Ok(())
}

/// Messaging does not go without its own files, and reports those as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_client_certificate_prevents_start() -> anyhow::Result<()> {
    let pair = TestDevice::provisioned().await?;
    fs::write(file(&pair, "iot_key.pem"), "")?;
    let error = pair
        .cloud
        .initialize()
        .await
        .map_err(|error| error.to_string());
    assert!(error.is_err_and(|error| error.contains("iot_key.pem")));
    pair.stop().await;
    Ok(())
}
