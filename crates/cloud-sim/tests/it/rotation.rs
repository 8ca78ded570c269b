//! A client certificate is rotated: both are taken until the device has reported the new one, and
//! what may be wrong with it.

use cloud_sim::{CertificateAnswer, Fault, Simulator};
use reqwest::Method;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::common::{self, Device, identity, register, start, status, text};

const REQUEST: &str = "c/d/SN1/iotcr/req";
const UPDATE: &str = "$aws/things/SN1/shadow/name/config/update";

async fn ask(device: &mut Device, serial: &str) -> Value {
    let request = json!({ "iotCertSn": serial }).to_string();
    device.publish(REQUEST, request).await;
    let (topic, answer) = device.json().await;
    assert_eq!(topic, "c/d/SN1/iotcr/res");
    answer
}

fn pair(answer: &Value) -> (&str, &str) {
    (text(&answer["cert"]), text(&answer["pkey"]))
}

async fn device(sim: &Simulator) -> (Value, Device) {
    let thing = register(sim, "SN1").await;
    let mut device = Device::connect(sim, &thing).await;
    device.subscribe("c/d/SN1/+/res").await;
    (thing, device)
}

#[tokio::test]
async fn both_certificates_accepted_until_new_one_is_reported() {
    let sim = start().await;
    let (thing, mut device) = device(&sim).await;
    let rotate = common::control(&sim, Method::POST, "/devices/SN1/rotate-iot");
    let response = rotate.send().await.unwrap();
    let response: Value = response.json().await.unwrap();
    let serial = text(&response["serial"]);
    let seen = sim.control().device("SN1").await.unwrap();
    assert_eq!(seen.iot_cert_serial, serial);
    assert_eq!(seen.desired.unwrap()["iotCertSn"], serial);
    assert_eq!(seen.iot_cert_accepted.len(), 2);

    let answer = ask(&mut device, serial).await;
    // Beside the connection that there is, which goes on.
    let proof = Device::try_connect(&sim, &thing, "SN1-proof", Some(pair(&answer)))
        .await
        .unwrap();
    ask(&mut device, serial).await;
    drop(proof);

    let report = json!({ "state": { "reported": { "iotCertSn": serial } } });
    device.publish(UPDATE, report.to_string()).await;
    // Cut, as its certificate is revoked.
    device.ended().await;
    let seen = status(&sim, "SN1", |seen| seen.iot_cert_accepted == [serial]).await;
    assert_eq!(seen.reported.unwrap()["iotCertSn"], serial);
    assert!(
        Device::try_connect(&sim, &thing, "SN1", Some(identity(&thing)))
            .await
            .is_err()
    );
    Device::try_connect(&sim, &thing, "SN1", Some(pair(&answer)))
        .await
        .unwrap();
    sim.stop().await;
}

#[tokio::test]
async fn certificate_can_be_untimely_or_refused() {
    let sim = start().await;
    let (thing, mut device) = device(&sim).await;
    let serial = sim.control().rotate_iot("SN1").await.unwrap();
    let now = OffsetDateTime::now_utc();
    for (answer, over) in [
        (CertificateAnswer::Expired, true),
        (CertificateAnswer::NotYetValid, false),
    ] {
        let fault = Fault::IotCertificate { answer, times: 1 };
        sim.control().fault(fault).await.unwrap();
        let wrong = ask(&mut device, &serial).await;
        let der = CertificateDer::from_pem_slice(text(&wrong["cert"]).as_bytes()).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert_eq!(parsed.tbs_certificate.serial.to_string(), serial);
        let dates = parsed.validity();
        assert_eq!(dates.not_after.to_datetime() < now, over);
        assert_eq!(dates.not_before.to_datetime() > now, !over);
    }

    let answer = CertificateAnswer::Refused;
    let fault = Fault::IotCertificate { answer, times: 1 };
    sim.control().fault(fault).await.unwrap();
    let refused = ask(&mut device, &serial).await;
    let proof = Device::try_connect(&sim, &thing, "SN1-proof", Some(pair(&refused))).await;
    assert!(proof.is_err());
    let good = ask(&mut device, &serial).await;
    assert_eq!(good, refused);
    Device::try_connect(&sim, &thing, "SN1-proof", Some(pair(&good)))
        .await
        .unwrap();
    sim.stop().await;
}
