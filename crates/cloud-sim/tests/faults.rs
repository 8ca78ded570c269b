//! Tokens, certificates, and everything that goes wrong on purpose between a device and the platform.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests are tests"
)]

mod common;

use std::time::Duration;

use cloud_sim::{
    AckPacket, CertificateAnswer, DeltaForm, Fault, SimConfig, Simulator, TokenAnswer,
};
use common::{Device, eventually, register, start, status, text};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use serde_json::{Value, json};
use time::OffsetDateTime;

const TOKEN_REQUEST: &str = "c/d/SN1/remotetoken/req";
const CERTIFICATE_REQUEST: &str = "c/d/SN1/remotecr/req";

fn token_request() -> String {
    json!({ "aesKey": "5a".repeat(32), "aesIv": "c3".repeat(16) }).to_string()
}

/// A registered device that listens to its answers.
async fn listening(sim: &Simulator) -> Device {
    let thing = register(sim, "SN1").await;
    let mut device = Device::connect(sim, &thing).await;
    device.subscribe("c/d/SN1/+/res").await;
    device
}

async fn fault(sim: &Simulator, fault: Fault) -> usize {
    sim.control().fault(fault).await.unwrap()
}

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
async fn other_versions_and_ciphers_are_told() {
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
async fn a_rotation_tells_the_shadow_and_hands_the_certificate_out() {
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

        let url = format!("{}/devices/SN1/rotate", sim.control_url());
        let answer: Value = common::http(&sim)
            .post(url)
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
        let told = match form {
            DeltaForm::Aws => &delta["state"]["remoteCertSn"],
            DeltaForm::Seed => &delta["state"]["delta"]["remoteCertSn"],
        };
        assert_eq!(told, &serial);

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

#[tokio::test]
async fn a_cut_connection_publishes_the_will() {
    let sim = start().await;
    let mut device = listening(&sim).await;
    device
        .publish("c/d/SN1/status", r#"{"state":"ONLINE"}"#)
        .await;
    status(&sim, "SN1", |device| device.online).await;
    assert_eq!(
        fault(
            &sim,
            Fault::DropMqtt {
                sn: Some("SN1".into())
            }
        )
        .await,
        1
    );
    device.ended().await;
    let seen = status(&sim, "SN1", |device| !device.online).await;
    assert_eq!(seen.status_history, ["ONLINE", "OFFLINE"]);
    assert_eq!(fault(&sim, Fault::DropMqtt { sn: None }).await, 0);
    sim.stop().await;
}

#[tokio::test]
async fn connections_are_refused_until_cleared() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    fault(&sim, Fault::RefuseMqtt { seconds: 3600 }).await;
    assert!(
        Device::try_connect(&sim, &thing, "SN1", Some(common::identity(&thing)))
            .await
            .is_err()
    );
    fault(&sim, Fault::Clear).await;
    Device::connect(&sim, &thing).await;
    sim.stop().await;
}

#[tokio::test]
async fn acknowledgements_are_withheld() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    let mut device = Device::connect(&sim, &thing).await;

    fault(
        &sim,
        Fault::Withhold {
            packet: AckPacket::Suback,
            times: 1,
        },
    )
    .await;
    device
        .client
        .subscribe("c/platform", QoS::AtLeastOnce)
        .await
        .unwrap();
    // The broker has subscribed it all the same, so a message comes, and no SUBACK before it.
    let first = eventually("a packet", async || {
        sim.control().broadcast(b"there?".to_vec()).await.unwrap();
        tokio::time::timeout(Duration::from_millis(50), device.packet())
            .await
            .ok()
    })
    .await;
    assert!(matches!(first, Some(Packet::Publish(_))), "{first:?}");

    fault(
        &sim,
        Fault::Withhold {
            packet: AckPacket::Puback,
            times: 1,
        },
    )
    .await;
    let mut quiet = Device::connect(&sim, &register(&sim, "SN2").await).await;
    quiet
        .client
        .publish(
            "c/d/SN2/status",
            QoS::AtLeastOnce,
            false,
            r#"{"state":"ONLINE"}"#,
        )
        .await
        .unwrap();
    status(&sim, "SN2", |device| device.online).await;
    assert!(quiet.is_quiet(Duration::from_millis(100)).await);
    quiet
        .client
        .publish(
            "c/d/SN2/status",
            QoS::AtLeastOnce,
            false,
            r#"{"state":"PING"}"#,
        )
        .await
        .unwrap();
    let Some(Packet::PubAck(second)) = quiet.packet().await else {
        panic!("no PUBACK")
    };
    assert_eq!(second.pkid, 2);

    fault(
        &sim,
        Fault::Withhold {
            packet: AckPacket::Connack,
            times: 1,
        },
    )
    .await;
    let thing = register(&sim, "SN3").await;
    let connect = Device::connect(&sim, &thing);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), connect)
            .await
            .is_err()
    );
    Device::connect(&sim, &thing).await;
    sim.stop().await;
}

#[tokio::test]
async fn frozen_traffic_thaws() {
    let sim = start().await;
    let mut device = listening(&sim).await;
    fault(&sim, Fault::FreezeMqtt { seconds: 1 }).await;
    let frozen = tokio::time::Instant::now();
    device.publish(TOKEN_REQUEST, token_request()).await;
    assert!(device.json().await.1["token"].is_string());
    assert!(frozen.elapsed() >= Duration::from_millis(900));

    fault(&sim, Fault::FreezeMqtt { seconds: 3600 }).await;
    device.publish(TOKEN_REQUEST, token_request()).await;
    assert!(device.is_quiet(Duration::from_millis(100)).await);
    fault(&sim, Fault::Clear).await;
    assert!(device.json().await.1["token"].is_string());
    sim.stop().await;
}

#[tokio::test]
async fn the_control_api_speaks_json() {
    let sim = start().await;
    register(&sim, "a:b").await;
    let client = common::http(&sim);
    let url = |path: &str| format!("{}{path}", sim.control_url());

    let devices: Vec<Value> = client
        .get(url("/devices"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let mut fields: Vec<_> = devices[0]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    fields.sort_unstable();
    for field in [
        "access_point",
        "desired",
        "online",
        "registered",
        "remote_cert_serial",
        "reported",
        "sn",
        "status_history",
        "tokens_issued",
        "tunnel",
    ] {
        assert!(fields.contains(&field), "{field}");
    }

    let put = client
        .put(url("/devices/a:b/shadow/desired"))
        .json(&json!({ "x": 1 }))
        .send()
        .await
        .unwrap();
    assert_eq!(put.status(), 200);
    let device: Value = client
        .get(url("/devices/a%3Ab"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(device["desired"], json!({ "x": 1 }));

    let bad = [
        (client.post(url("/devices/nobody/rotate")), 404),
        (client.post(url("/nowhere")), 404),
        (
            client.put(url("/devices/a:b/shadow/desired")).body("[]"),
            400,
        ),
        (client.post(url("/devices/a:b/actions/a.b")), 400),
        (
            client.post(url("/faults")).body(r#"{"fault":"explode"}"#),
            400,
        ),
        (client.post(url("/broadcast")).body(vec![0; 300_000]), 400),
        (
            client
                .post(url("/faults"))
                .body(r#"{"fault":"drop_mqtt","sn":"nobody"}"#),
            404,
        ),
        (
            client
                .post(url("/faults"))
                .body(r#"{"fault":"api","answer":{"status":{"code":200}}}"#),
            400,
        ),
    ];
    for (request, expected) in bad {
        let answer = request.send().await.unwrap();
        let (status, path) = (answer.status(), answer.url().path().to_owned());
        let body: Value = answer.json().await.unwrap();
        assert_eq!(status, expected, "{path}: {body}");
        assert!(!text(&body["error"]).is_empty());
    }
    let good = client
        .post(url("/faults"))
        .body(r#"{"fault":"withhold","packet":"suback","times":2}"#);
    assert_eq!(good.send().await.unwrap().status(), 200);
    sim.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_said_so() {
    let sim = start().await;
    let mut config = SimConfig::default();
    config.mqtt_port = sim.mqtt_addr().port();
    let error = Simulator::start(config).await.err().unwrap();
    assert!(error.is_retryable());
    assert!(
        error
            .to_string()
            .contains(&sim.mqtt_addr().port().to_string()),
        "{error}"
    );
    sim.stop().await;
}
