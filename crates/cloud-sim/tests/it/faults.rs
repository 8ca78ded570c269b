//! What goes wrong on purpose between a device and the platform.

use std::time::Duration;

use cloud_sim::{AckPacket, Fault, SimConfig, Simulator};
use reqwest::Method;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use serde_json::{Value, json};

use crate::common::{
    self, Device, TOKEN_REQUEST, eventually, fault, listening, register, start, status, text,
    token_request,
};

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
    let get = |path: &str| common::control(&sim, Method::GET, path);
    let post = |path: &str| common::control(&sim, Method::POST, path);
    let put = |path: &str| common::control(&sim, Method::PUT, path);

    let devices: Vec<Value> = get("/devices").send().await.unwrap().json().await.unwrap();
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

    let merged = put("/devices/a:b/shadow/desired")
        .json(&json!({ "x": 1 }))
        .send()
        .await
        .unwrap();
    assert_eq!(merged.status(), 200);
    let device: Value = get("/devices/a%3Ab")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(device["desired"], json!({ "x": 1 }));

    let bad = [
        (post("/devices/nobody/rotate"), 404),
        (post("/nowhere"), 404),
        (put("/devices/a:b/shadow/desired").body("[]"), 400),
        (put("/devices/a:b/shadow/name/a.b/desired").body("{}"), 400),
        (
            put("/devices/nobody/shadow/name/lamp/desired").body("{}"),
            404,
        ),
        (post("/devices/a:b/actions/a.b"), 400),
        (post("/faults").body(r#"{"fault":"explode"}"#), 400),
        (post("/broadcast").body(vec![0; 300_000]), 400),
        (
            post("/faults").body(r#"{"fault":"drop_mqtt","sn":"nobody"}"#),
            404,
        ),
        (
            post("/faults").body(r#"{"fault":"api","answer":{"status":{"code":200}}}"#),
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
    let good = post("/faults").body(r#"{"fault":"withhold","packet":"suback","times":2}"#);
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
