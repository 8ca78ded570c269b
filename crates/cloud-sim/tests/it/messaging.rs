//! The broker: who gets in, who may do what, and what the platform hears.

use std::time::Duration;

use cloud_sim::{BrokerCertificate, SimConfig, Simulator};
use rumqttc::v5::ConnectionError;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, PubAckReason, SubscribeReasonCode};
use serde_json::json;

use crate::common::{self, Device, eventually, identity, register, start, status, text};

#[tokio::test]
async fn connack_has_the_values_of_aws() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    let device = Device::connect(&sim, &thing).await;
    let properties = device.connack.properties.clone().unwrap();
    assert_eq!(properties.receive_max, Some(100));
    assert_eq!(properties.max_qos, Some(1));
    assert_eq!(properties.max_packet_size, Some(149_504));
    assert_eq!(properties.topic_alias_max, Some(8));
    assert_eq!(properties.subscription_identifiers_available, Some(0));
    sim.stop().await;
}

#[tokio::test]
async fn connection_requires_certificate_of_authority() {
    let sim = start().await;
    let other = start().await;
    let thing = register(&sim, "SN1").await;
    let foreign = register(&other, "SN1").await;
    assert!(
        Device::try_connect(&sim, &thing, "SN1", None)
            .await
            .is_err()
    );
    assert!(
        Device::try_connect(&sim, &thing, "SN1", Some(identity(&foreign)))
            .await
            .is_err()
    );
    // A device does not trust a broker of another cloud either.
    assert!(
        Device::try_connect(&sim, &foreign, "SN1", Some(identity(&foreign)))
            .await
            .is_err()
    );
    // A certificate of the page is none of the device.
    let page = (
        text(&thing["remote"]["cert"]),
        text(&thing["remote"]["pkey"]),
    );
    assert!(
        Device::try_connect(&sim, &thing, "SN1", Some(page))
            .await
            .is_err()
    );
    sim.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_broker_with_a_wrong_certificate_is_no_broker() {
    for wrong in [
        BrokerCertificate::ForeignIssuer,
        BrokerCertificate::OtherName,
        BrokerCertificate::Expired,
    ] {
        let mut config = SimConfig::default();
        config.broker_certificate = wrong;
        let sim = Simulator::start(config).await.unwrap();
        let thing = register(&sim, "SN1").await;
        let refused = Device::try_connect(&sim, &thing, "SN1", Some(identity(&thing)))
            .await
            .err()
            .unwrap();
        assert!(
            format!("{refused:?}").contains("InvalidCertificate"),
            "{wrong:?}: {refused:?}"
        );
        sim.stop().await;
    }
}

#[tokio::test]
async fn the_client_id_is_the_thing_of_the_certificate() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    register(&sim, "SN2").await;
    let refused = Device::try_connect(&sim, &thing, "SN2", Some(identity(&thing)))
        .await
        .err()
        .unwrap();
    assert!(
        matches!(
            refused,
            ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized)
        ),
        "{refused:?}"
    );
    sim.control().forget("SN1").await.unwrap();
    assert!(
        Device::try_connect(&sim, &thing, "SN1", Some(identity(&thing)))
            .await
            .is_err()
    );
    sim.stop().await;
}

#[tokio::test]
async fn a_device_has_rights_on_its_own_topics_alone() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    register(&sim, "SN2").await;
    let mut device = Device::connect(&sim, &thing).await;
    for own in [
        "c/platform",
        "c/d/SN1/+/res",
        "$aws/things/SN1/shadow/name/config/+/accepted",
    ] {
        assert!(
            matches!(device.subscribe(own).await, SubscribeReasonCode::Success(_)),
            "{own}"
        );
    }
    for foreign in [
        "#",
        "c/d/+/status",
        "c/d/SN2/+/res",
        "$aws/things/SN2/shadow/name/config/+/delta",
    ] {
        assert_eq!(
            device.subscribe(foreign).await,
            SubscribeReasonCode::NotAuthorized,
            "{foreign}"
        );
    }
    for foreign in [
        "c/platform",
        "c/d/SN2/status",
        "$aws/things/SN2/shadow/name/config/update",
    ] {
        assert_eq!(
            device.publish_acknowledged(foreign, "{}").await,
            PubAckReason::NotAuthorized,
            "{foreign}"
        );
    }
    assert_eq!(
        sim.control()
            .device("SN2")
            .await
            .unwrap()
            .status_history
            .len(),
        0
    );
    sim.stop().await;
}

#[tokio::test]
async fn platform_receives_states_and_will() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    let device = Device::connect(&sim, &thing).await;
    assert!(
        !sim.control().device("SN1").await.unwrap().online,
        "it has not said so yet"
    );
    device
        .publish("c/d/SN1/status", r#"{"state":"ONLINE"}"#)
        .await;
    device
        .publish("c/d/SN1/status", r#"{"state": "PING"}"#)
        .await;
    device.publish("c/d/SN1/status", "not json").await;
    let seen = status(&sim, "SN1", |device| device.status_history.len() == 2).await;
    assert!(seen.online);

    device.kill();
    let seen = status(&sim, "SN1", |device| device.status_history.len() == 3).await;
    assert_eq!(seen.status_history, ["ONLINE", "PING", "OFFLINE"]);
    assert!(!seen.online);

    // A clean disconnect publishes no will.
    let mut device = Device::connect(&sim, &thing).await;
    device
        .publish("c/d/SN1/status", r#"{"state":"ONLINE"}"#)
        .await;
    device.client.disconnect().await.unwrap();
    device.ended().await;
    let seen = status(&sim, "SN1", |device| {
        device.status_history.len() == 4 && !device.online
    })
    .await;
    assert_eq!(seen.status_history.last().unwrap(), "ONLINE");
    sim.stop().await;
}

#[tokio::test]
async fn a_second_connection_takes_the_first_one_over() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    let first = common::raw_connect(&sim, &thing).await;
    let _second = Device::connect(&sim, &thing).await;
    assert_eq!(common::rest(first).await, [0xe0, 1, 0x8e]);
    sim.stop().await;
}

#[tokio::test]
async fn broadcasts_and_actions_reach_devices() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    let mut device = Device::connect(&sim, &thing).await;
    device.subscribe("c/platform").await;
    device.subscribe("c/d/SN1/+/res").await;
    let control = sim.control();
    control.broadcast(b"hello, all".to_vec()).await.unwrap();
    assert_eq!(
        device.message().await,
        ("c/platform".into(), b"hello, all".to_vec())
    );
    control
        .action("SN1", "reboot", b"{}".to_vec())
        .await
        .unwrap();
    assert_eq!(
        device.message().await,
        ("c/d/SN1/reboot/res".into(), b"{}".to_vec())
    );
    assert!(control.action("SN1", "a/b", Vec::new()).await.is_err());
    assert!(control.action("SN9", "reboot", Vec::new()).await.is_err());
    assert!(control.broadcast(vec![0; 200_000]).await.is_err());
    sim.stop().await;
}

#[tokio::test]
async fn shadow_get_update_and_delta_reach_device() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    let mut device = Device::connect(&sim, &thing).await;
    let prefix = "$aws/things/SN1/shadow/name/config";
    for answer in ["+/accepted", "+/rejected", "+/delta"] {
        device.subscribe(&format!("{prefix}/{answer}")).await;
    }
    device.publish(&format!("{prefix}/get"), "").await;
    let (topic, body) = device.json().await;
    assert_eq!(
        (topic, &body["code"]),
        (format!("{prefix}/get/rejected"), &json!(404))
    );

    let desired = json!({ "interval": 5 }).as_object().unwrap().clone();
    sim.control().set_desired("SN1", desired).await.unwrap();
    assert_eq!(device.json().await.0, format!("{prefix}/update/accepted"));
    let (topic, body) = device.json().await;
    assert_eq!(
        (topic, &body["state"]),
        (format!("{prefix}/update/delta"), &json!({ "interval": 5 }))
    );

    let report = json!({ "state": { "reported": { "interval": 5 } } }).to_string();
    assert_eq!(
        device
            .publish_acknowledged(&format!("{prefix}/update"), &report)
            .await,
        PubAckReason::Success
    );
    let seen = status(&sim, "SN1", |device| {
        device.reported == Some(json!({ "interval": 5 }))
    })
    .await;
    assert_eq!(seen.desired, Some(json!({ "interval": 5 })));

    // A shadow of another name leaves that one alone.
    let lamp = "$aws/things/SN1/shadow/name/lamp/update/delta";
    device.subscribe(lamp).await;
    let url = format!("{}/devices/SN1/shadow/name/lamp/desired", sim.control_url());
    let call = common::http(&sim).put(url).json(&json!({ "on": true }));
    assert_eq!(call.send().await.unwrap().status(), 200);
    let (topic, body) = device.json().await;
    assert_eq!(
        (topic.as_str(), &body["state"]),
        (lamp, &json!({ "on": true }))
    );
    sim.stop().await;
}

#[tokio::test]
async fn clean_session_gets_nothing_that_it_missed() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    let mut first = Device::connect(&sim, &thing).await;
    first.subscribe("c/platform").await;
    // rumqttc's client above starts clean and expires at once, so nothing may be kept for it.
    first.kill();
    eventually("the end of the connection", async || {
        let seen = sim.control().device("SN1").await.unwrap();
        seen.status_history
            .last()
            .is_some_and(|state| state == "OFFLINE")
            .then_some(())
    })
    .await;
    sim.control().broadcast(b"missed".to_vec()).await.unwrap();
    let mut second = Device::connect(&sim, &thing).await;
    assert!(!second.connack.session_present);
    assert!(second.is_quiet(Duration::from_millis(200)).await);
    sim.stop().await;
}

#[tokio::test]
async fn stop_disconnects_clients_and_leaves_no_listener() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    let device = common::raw_connect(&sim, &thing).await;
    let (mqtt, relay) = (sim.mqtt_addr(), sim.relay_addr());
    let ((), last) = tokio::join!(sim.stop(), common::rest(device));
    assert_eq!(last, [0xe0, 1, 0x8b]);
    for address in [mqtt, relay] {
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
    }
    // The HTTP client of the test notices the end of its connections by itself.
    let metrics = tokio::runtime::Handle::current().metrics();
    eventually("no task is left", async || {
        (metrics.num_alive_tasks() == 0).then_some(())
    })
    .await;
}
