//! A certificate that the platform does not wish for any more is not asked for any more.

#![allow(clippy::panic, reason = "these are tests")]

use std::time::Duration;

use cloud_facade::Event;
use cloud_sim::{CertificateAnswer, Fault};
use integration_tests::device::{Pair, SERIAL};
use integration_tests::patient_clock;
use integration_tests::wait::within;
use serde_json::{Map, Value, json};

/// More than enough for the next attempt, which would bring the certificate.
const LONG: Duration = Duration::from_secs(600);

fn desired(key: &str, serial: Value) -> Map<String, Value> {
    [(key.to_owned(), serial)].into_iter().collect()
}

#[test]
fn a_wish_that_is_taken_back_or_removed_is_followed_no_longer() -> anyhow::Result<()> {
    patient_clock::run(async {
        let pair = Pair::running().await?;
        let control = pair.simulator.control();
        let first = pair.seen().await?;
        for (key, back) in [
            ("remoteCertSn", json!(first.remote_cert_serial)),
            ("remoteCertSn", json!(null)),
            ("remoteCertSn", json!("no number")),
            ("iotCertSn", json!(first.iot_cert_serial)),
            ("iotCertSn", json!(null)),
        ] {
            let mut events = pair.cloud.events();
            let (answer, times) = (CertificateAnswer::WrongSerial, 1);
            if key == "iotCertSn" {
                control
                    .fault(Fault::IotCertificate { answer, times })
                    .await?;
                control.rotate_iot(SERIAL).await?;
            } else {
                control.fault(Fault::Certificate { answer, times }).await?;
                control.rotate(SERIAL).await?;
            }
            let failed = async {
                loop {
                    if let Event::RemoteCertificateFailed { .. }
                    | Event::IotCertificateFailed { .. } = events.recv().await?
                    {
                        return anyhow::Ok(());
                    }
                }
            };
            within("the failure", failed).await?;
            control
                .set_desired(SERIAL, desired(key, back.clone()))
                .await?;
            tokio::time::sleep(LONG).await;
            while let Ok(event) = events.try_recv() {
                assert!(
                    !matches!(
                        event,
                        Event::RemoteCertificate { .. }
                            | Event::RemoteCertificateFailed { .. }
                            | Event::IotCertificate { .. }
                            | Event::IotCertificateFailed { .. }
                    ),
                    "{key} {back}: {event:?}"
                );
            }
        }
        // The next wish is followed.
        let serial = control.rotate(SERIAL).await?;
        pair.seen_when("a new certificate to be reported", |seen| {
            let reported = seen.reported.as_ref();
            reported.is_some_and(|reported| reported["remoteCertSn"] == serial.as_str())
        })
        .await;
        pair.stop().await;
        Ok(())
    })?
}
