//! Rotation of the client certificate: the old one stays in use until a trial connection with the
//! new one succeeds.

use std::time::SystemTime;

use cloud_facade::Event;
use cloud_facade::config::Store;
use cloud_facade::iot::Message;
use cloud_sim::{CertificateAnswer, Fault};
use integration_tests::device::{SERIAL, TestDevice};
use integration_tests::virtual_time;
use serde_json::json;
use testkit::wait::timeout;
use tokio::sync::broadcast;

async fn rotated(events: &mut broadcast::Receiver<Event>) -> anyhow::Result<String> {
    loop {
        if let Event::IotCertificateRotated { serial, not_after } = events.recv().await? {
            assert!(not_after > SystemTime::now());
            return Ok(serial);
        }
    }
}

fn stored(pair: &TestDevice) -> anyhow::Result<String> {
    let device = Store::new(pair.base.path()).load()?.device;
    Ok(device.iot.info().serial.clone())
}

/// The platform takes this one alone, and the device is there with it.
async fn settled(pair: &TestDevice, serial: &str) -> anyhow::Result<()> {
    pair.seen_when("the old certificate to be revoked", |seen| {
        seen.online
            && seen.iot_cert_accepted == [serial]
            && seen
                .reported
                .as_ref()
                .is_some_and(|reported| reported["iotCertSn"] == serial)
    })
    .await;
    pair.reachable().await?;
    assert_eq!(stored(pair)?, serial, "what is used is what is stored");
    let status = pair.cloud.status();
    assert_eq!(status.iot_certificate_serial.as_deref(), Some(serial));
    Ok(())
}

#[test]
fn client_certificate_is_tried_stored_used_and_reported() -> anyhow::Result<()> {
    virtual_time::run(async {
        let pair = TestDevice::running().await?;
        let first = pair.seen().await?.iot_cert_serial;
        let status = pair.cloud.status();
        assert_eq!(status.iot_certificate_serial, Some(first.clone()));
        assert_eq!(
            pair.seen().await?.reported.unwrap_or_default()["iotCertSn"],
            json!(null),
            "nobody has asked"
        );

        let mut events = pair.cloud.events();
        let second = pair.simulator.control().rotate_iot(SERIAL).await?;
        assert_ne!(first, second);
        assert_eq!(timeout("the rotation", rotated(&mut events)).await?, second);
        settled(&pair, &second).await?;
        // It disconnected and reconnected.
        let history = pair.seen().await?.status_history;
        assert_eq!(history, ["ONLINE", "OFFLINE", "ONLINE"]);
        assert_eq!(pair.fetch("").await?, "hello, 127.0.0.1");

        // The next start begins with it.
        pair.cloud.stop().await;
        pair.cloud.initialize().await?;
        pair.reachable().await?;
        settled(&pair, &second).await?;
        pair.stop().await;
        Ok(())
    })?
}

#[test]
fn both_certificates_rotate_concurrently_and_while_offline() -> anyhow::Result<()> {
    virtual_time::run(async {
        let pair = TestDevice::provisioned().await?;
        let control = pair.simulator.control();
        control.rotate_iot(SERIAL).await?;
        let iot = control.rotate_iot(SERIAL).await?;
        let remote = control.rotate(SERIAL).await?;
        pair.cloud.initialize().await?;
        pair.reachable().await?;
        settled(&pair, &iot).await?;
        pair.seen_when("the other one to be reported", |seen| {
            seen.reported
                .as_ref()
                .is_some_and(|reported| reported["remoteCertSn"] == remote.as_str())
        })
        .await;
        pair.stop().await;
        Ok(())
    })?
}

/// With any fault in it, the old one stays in use, the failure is reported, and the rotation is
/// tried again.
#[test]
fn invalid_client_certificate_changes_nothing_and_is_retried() -> anyhow::Result<()> {
    virtual_time::run(async {
        for (answer, why) in [
            (CertificateAnswer::Hold, "did not respond"),
            (CertificateAnswer::Malformed, "not JSON"),
            (CertificateAnswer::WrongKey, "does not belong"),
            (CertificateAnswer::WrongSerial, "serial number"),
            (CertificateAnswer::Expired, "expired"),
            (CertificateAnswer::NotYetValid, "not valid before"),
            (CertificateAnswer::Refused, "does not work"),
        ] {
            let pair = TestDevice::running().await?;
            let control = pair.simulator.control();
            let old = stored(&pair)?;
            let mut events = pair.cloud.events();
            control
                .fault(Fault::IotCertificate { answer, times: 1 })
                .await?;
            let desired = control.rotate_iot(SERIAL).await?;
            let failed = async {
                loop {
                    match events.recv().await? {
                        Event::IotCertificateRotationFailed { serial, reason } => {
                            return anyhow::Ok((serial, reason));
                        }
                        Event::IotDisconnected { reason, .. } => panic!("{why}: {reason}"),
                        _ => {}
                    }
                }
            };
            let (serial, reason) = timeout("the failure", failed).await?;
            assert_eq!(serial, desired, "{why}");
            assert!(
                reason.contains(why) && !reason.contains("PRIVATE"),
                "{reason}"
            );
            assert_eq!(stored(&pair)?, old, "{why}");
            assert!(pair.cloud.status().iot.connected, "{why}");
            assert!(pair.seen().await?.iot_cert_accepted.contains(&old), "{why}");
            assert_eq!(
                timeout("the rotation", rotated(&mut events)).await?,
                desired
            );
            settled(&pair, &desired).await?;
            pair.stop().await;
        }
        Ok(())
    })?
}

/// Messages that are accepted while the session moves are delivered once each and in order.
#[test]
fn no_message_is_lost_during_planned_reconnect() -> anyhow::Result<()> {
    virtual_time::run(async {
        let pair = TestDevice::running().await?;
        let mut events = pair.cloud.events();
        let desired = pair.simulator.control().rotate_iot(SERIAL).await?;
        let mut receipts = Vec::new();
        let publish = |number: usize| {
            let payload = json!({ "state": format!("M{number}") }).to_string();
            let topic = format!("c/d/{SERIAL}/status");
            pair.cloud.publish(Message::new(topic, payload))
        };
        let moved = async {
            rotated(&mut events).await?;
            loop {
                if let Event::IotConnected = events.recv().await? {
                    return anyhow::Ok(());
                }
            }
        };
        tokio::pin!(moved);
        // Time does not pass while anything happens, so the messages are spread over what happens.
        for turn in 0.. {
            tokio::select! {
                biased;
                moved = &mut moved => {
                    moved?;
                    break;
                }
                () = tokio::task::yield_now(), if receipts.len() < 60 => {
                    if turn % 20 == 0 {
                        receipts.push(publish(receipts.len())?);
                    }
                }
            }
        }
        assert!(!receipts.is_empty());
        let expected: Vec<_> = (0..receipts.len())
            .map(|number| format!("M{number}"))
            .collect();
        for receipt in receipts {
            timeout("the receipt", receipt).await?;
        }
        settled(&pair, &desired).await?;
        let seen = pair.seen().await?.status_history;
        let arrived: Vec<_> = seen
            .into_iter()
            .filter(|state| state.starts_with('M'))
            .collect();
        assert_eq!(arrived, expected);
        pair.stop().await;
        Ok(())
    })?
}

/// Invariant 8: the tunnel and what is open in it do not depend on the connection to the broker.
#[test]
fn tunnel_stays_open_during_planned_reconnect() -> anyhow::Result<()> {
    virtual_time::run(async {
        let pair = TestDevice::running().await?;
        let mut events = pair.cloud.events();
        let desired = pair.simulator.control().rotate_iot(SERIAL).await?;
        settled(&pair, &desired).await?;
        while let Ok(event) = events.try_recv() {
            assert!(
                !matches!(event, Event::RemoteDisconnected { .. }),
                "{event:?}"
            );
        }
        pair.stop().await;
        Ok(())
    })?
}
