//! Tokens and certificates, and what may be wrong with an answer.

use crate::common::{Device, TOKEN_REQUEST, fault, listening, start, text, token_request};
use cloud_sim::{CertificateAnswer, DeltaForm, Fault, SimConfig, Simulator, TokenAnswer};
use reqwest::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;

const CERTIFICATE_REQUEST: &str = "c/d/SN1/remotecr/req";

async fn token_fault(sim: &Simulator, answer: TokenAnswer) {
    fault(sim, Fault::Token { answer, times: 1 }).await;
}

async fn certificate_fault(sim: &Simulator, answer: CertificateAnswer) {
    fault(sim, Fault::Certificate { answer, times: 1 }).await;
}

#[tokio::test]
async fn a_token_is_issued_for_the_keys_of_the_device() {
    let sim = start().await;
    let mut device = listening(&sim).await;
    device.publish(TOKEN_REQUEST, token_request()).await;
    let (topic, answer) = device.json().await;
    assert_eq!(topic, "c/d/SN1/remotetoken/res");
    let now = OffsetDateTime::now_utc().unix_timestamp();
    assert!((now + 86_000..now + 87_000).contains(&answer["valid"].as_i64().unwrap()));
    assert!(text(&answer["token"]).starts_with("gA"));
    let mut keys: Vec<_> = answer
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        ["throttling", "token", "valid"],
        "nothing that the platform of today does not send"
    );
    assert_eq!(sim.control().device("SN1").await.unwrap().tokens_issued, 1);

    // What cannot be read is not answered; the next good request is.
    device.publish(TOKEN_REQUEST, "{").await;
    device
        .publish(TOKEN_REQUEST, r#"{"aesKey":"12","aesIv":"34"}"#)
        .await;
    device.publish(TOKEN_REQUEST, token_request()).await;
    assert!(device.json().await.1["token"].is_string());
    assert_eq!(sim.control().device("SN1").await.unwrap().tokens_issued, 2);
    sim.stop().await;
}

#[tokio::test]
async fn token_response_names_version_and_cipher() {
    let mut config = SimConfig::default();
    config.protocol_version = 2.try_into().unwrap();
    config.cipher = "aes-gcm".parse().unwrap();
    config.throttling = std::num::NonZeroU32::new(500);
    let sim = Simulator::start(config).await.unwrap();
    let mut device = listening(&sim).await;
    device.publish(TOKEN_REQUEST, token_request()).await;
    let (_, answer) = device.json().await;
    assert_eq!(answer["protocol_version"], 2);
    assert_eq!(answer["cipher"], "aes-gcm");
    assert_eq!(answer["throttling"], 500);
    sim.stop().await;
}

#[tokio::test]
async fn tokens_go_wrong() {
    let sim = start().await;
    let mut device = listening(&sim).await;
    for answer in [
        TokenAnswer::Hold,
        TokenAnswer::Malformed,
        TokenAnswer::Expired,
        TokenAnswer::Foreign,
        TokenAnswer::WrongKey,
    ] {
        token_fault(&sim, answer).await;
    }
    for _ in 0..5 {
        device.publish(TOKEN_REQUEST, token_request()).await;
    }
    // The first one is held.
    assert!(serde_json::from_slice::<Value>(&device.message().await.1).is_err());
    let expired = device.json().await.1;
    assert!(expired["valid"].as_i64().unwrap() < OffsetDateTime::now_utc().unix_timestamp());
    assert!(device.json().await.1["token"].is_string());
    assert!(device.json().await.1["token"].is_string());

    // A late answer comes after one that was asked for later.
    token_fault(&sim, TokenAnswer::Late { ms: 300 }).await;
    device.publish(TOKEN_REQUEST, token_request()).await;
    token_fault(&sim, TokenAnswer::Malformed).await;
    device.publish(TOKEN_REQUEST, token_request()).await;
    assert!(serde_json::from_slice::<Value>(&device.message().await.1).is_err());
    assert!(device.json().await.1["token"].is_string());

    fault(&sim, Fault::SendToken { sn: "SN1".into() }).await;
    assert!(device.json().await.1["token"].is_string());
    assert_eq!(
        sim.control().device("SN1").await.unwrap().tokens_issued,
        1,
        "good ones alone are counted"
    );
    sim.stop().await;
}

#[tokio::test]
async fn rotation_updates_shadow_and_issues_certificate() {
    for form in [DeltaForm::Aws, DeltaForm::Seed] {
        let mut config = SimConfig::default();
        config.delta_form = form;
        let sim = Simulator::start(config).await.unwrap();
        let mut device = listening(&sim).await;
        device
            .subscribe("$aws/things/SN1/shadow/name/config/update/delta")
            .await;
        let before = sim
            .control()
            .device("SN1")
            .await
            .unwrap()
            .remote_cert_serial;

        let answer: Value = crate::common::control(&sim, Method::POST, "/devices/SN1/rotate")
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let serial = text(&answer["serial"]).to_owned();
        assert_ne!(serial, before);
        assert_eq!(
            sim.control()
                .device("SN1")
                .await
                .unwrap()
                .remote_cert_serial,
            serial
        );

        let (_, delta) = device.json().await;
        let named = match form {
            DeltaForm::Aws => &delta["state"]["remoteCertSn"],
            DeltaForm::Seed => &delta["state"]["delta"]["remoteCertSn"],
        };
        assert_eq!(named, &serial);

        let request = json!({ "remoteCertSn": serial }).to_string();
        device.publish(CERTIFICATE_REQUEST, request.clone()).await;
        let (topic, answer) = device.json().await;
        assert_eq!(topic, "c/d/SN1/remotecr/res");
        assert_eq!(serial_of(text(&answer["cert"])), serial);

        // One that was never made is not handed out.
        device
            .publish(CERTIFICATE_REQUEST, r#"{"remoteCertSn":"1"}"#)
            .await;
        device.publish(CERTIFICATE_REQUEST, request).await;
        assert_eq!(device.json().await.1, answer);
        sim.stop().await;
    }
}

fn serial_of(pem: &str) -> String {
    use rustls_pki_types::pem::PemObject;
    let certificate = rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
    parsed.tbs_certificate.serial.to_string()
}

#[tokio::test]
async fn certificates_go_wrong() {
    let sim = start().await;
    let mut device = listening(&sim).await;
    let serial = sim.control().rotate("SN1").await.unwrap();
    let request = json!({ "remoteCertSn": serial }).to_string();
    let ask = async |device: &mut Device| {
        device.publish(CERTIFICATE_REQUEST, request.clone()).await;
        device.message().await.1
    };
    let good: Value = serde_json::from_slice(&ask(&mut device).await).unwrap();

    certificate_fault(&sim, CertificateAnswer::WrongKey).await;
    let wrong: Value = serde_json::from_slice(&ask(&mut device).await).unwrap();
    assert_eq!(wrong["cert"], good["cert"]);
    assert_ne!(wrong["pkey"], good["pkey"]);

    certificate_fault(&sim, CertificateAnswer::WrongSerial).await;
    let wrong: Value = serde_json::from_slice(&ask(&mut device).await).unwrap();
    assert_ne!(serial_of(text(&wrong["cert"])), serial);

    certificate_fault(&sim, CertificateAnswer::Malformed).await;
    assert!(serde_json::from_slice::<Value>(&ask(&mut device).await).is_err());

    certificate_fault(&sim, CertificateAnswer::Hold).await;
    device.publish(CERTIFICATE_REQUEST, request.clone()).await;
    let back: Value = serde_json::from_slice(&ask(&mut device).await).unwrap();
    assert_eq!(back, good);
    sim.stop().await;
}
