//! The certificate of the device's page is rotated: what is open stays open, and a bad one changes
//! nothing.

use std::time::Duration;

use cloud_facade::Event;
use cloud_facade::config::Store;
use cloud_sim::{CertificateAnswer, Fault};
use futures_util::{SinkExt, StreamExt};
use integration_tests::device::{SERIAL, TestDevice};
use integration_tests::{public, virtual_time};
use serde_json::json;
use testkit::wait::{eventually, timeout};
use tokio_tungstenite::tungstenite::Message;

/// Invariant 8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_keeps_downloads_and_websockets_open() -> anyhow::Result<()> {
    let pair = TestDevice::running().await?;
    let download = pair.download().await?;
    let host = pair.seen().await?.access_point;
    let relay = pair.simulator.relay_addr();
    let stream = public::connect(relay, &host, pair.simulator.ca_pem()).await?;
    let (mut socket, _) =
        tokio_tungstenite::client_async(format!("ws://{host}/echo"), stream).await?;

    let second = pair.simulator.control().rotate(SERIAL).await?;
    eventually("the new certificate to be served", || async {
        (pair.served_serial().await.ok()? == second).then_some(())
    })
    .await;

    socket.send(Message::text("still there?")).await?;
    let echo = timeout("the echo", socket.next()).await;
    assert_eq!(echo.transpose()?, Some(Message::text("still there?")));
    pair.finish(download).await?;
    pair.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_requested_while_offline_is_performed() -> anyhow::Result<()> {
    let pair = TestDevice::provisioned().await?;
    let serial = pair.simulator.control().rotate(SERIAL).await?;
    pair.cloud.initialize().await?;
    pair.reachable().await?;
    eventually("the certificate to be served", || async {
        (pair.served_serial().await.ok()? == serial).then_some(())
    })
    .await;
    pair.stop().await;
    Ok(())
}

async fn bad_rotation(answer: CertificateAnswer) -> anyhow::Result<()> {
    let pair = TestDevice::running().await?;
    let (control, old) = (pair.simulator.control(), pair.served_serial().await?);
    let mut events = pair.cloud.events();
    control
        .fault(Fault::Certificate { answer, times: 1 })
        .await?;
    let desired = control.rotate(SERIAL).await?;
    let failed = async {
        loop {
            if let Event::RemoteCertificateRotationFailed { serial, reason } = events.recv().await?
            {
                return anyhow::Ok((serial, reason));
            }
        }
    };
    let (serial, reason) = timeout("the failure event", failed).await?;
    assert_eq!(serial, desired);
    assert!(
        !reason.is_empty() && !reason.contains("PRIVATE"),
        "{reason}"
    );
    assert_eq!(
        pair.served_serial().await?,
        old,
        "the old certificate goes on serving"
    );
    assert_eq!(
        Store::new(pair.base.path())
            .load()?
            .device
            .remote
            .info()
            .serial,
        old
    );
    pair.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_with_wrong_key_keeps_old_certificate() -> anyhow::Result<()> {
    bad_rotation(CertificateAnswer::WrongKey).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_with_wrong_serial_keeps_old_certificate() -> anyhow::Result<()> {
    bad_rotation(CertificateAnswer::WrongSerial).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_to_expired_certificate_keeps_old_one() -> anyhow::Result<()> {
    bad_rotation(CertificateAnswer::Expired).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_to_not_yet_valid_certificate_keeps_old_one() -> anyhow::Result<()> {
    bad_rotation(CertificateAnswer::NotYetValid).await
}

#[test]
fn overwritten_report_is_corrected() -> anyhow::Result<()> {
    virtual_time::run(async {
        let pair = TestDevice::running().await?;
        let served = pair.served_serial().await?;
        let reported = |serial: String| {
            move |seen: &cloud_sim::DeviceStatus| {
                let reported = seen.reported.as_ref();
                reported.is_some_and(|reported| reported["remoteCertSn"] == serial.as_str())
            }
        };
        pair.seen_when("the certificate to be reported", reported(served.clone()))
            .await;
        let spoilt = json!({ "remoteCertSn": "1" });
        pair.cloud
            .report(spoilt.as_object().cloned().unwrap_or_default())?
            .await?;
        pair.seen_when("the report to be spoilt", reported("1".to_owned()))
            .await;
        // It takes its time, so that two who disagree do not keep each other busy.
        tokio::time::sleep(Duration::from_secs(30)).await;
        pair.seen_when("the certificate to be reported again", reported(served))
            .await;
        pair.stop().await;
        Ok(())
    })?
}
