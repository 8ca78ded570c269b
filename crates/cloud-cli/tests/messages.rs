//! Commands that do one thing with the platform.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test's helpers fail by panicking too"
)]

mod common;

use std::fs;
use std::time::Duration;

use common::background::Background;
use common::findings::Findings;
use common::finish;
use common::world::{SN, World};
use reqwest::Method;
use serde_json::json;

/// How long an answer may take before it is given again.
const AGAIN: Duration = Duration::from_millis(50);

#[test]
fn a_state_is_reported_shown_and_followed() {
    let world = World::provisioned();
    finish(&mut world.device(&["shadow", "get"]))
        .expect(1)
        .says(&["no shadow yet"]);
    let reported = finish(&mut world.device(&["shadow", "report", r#"{"firmware":"1.2.3"}"#]))
        .expect(0)
        .json();
    assert_eq!(reported[0]["event"], "reported");
    assert_eq!(
        world.device_status()["reported"],
        json!({ "firmware": "1.2.3" })
    );

    let mut watch = Background::start(&mut world.device(&["shadow", "watch"]));
    world.wait_until_online();
    world.control(
        Method::PUT,
        &format!("/devices/{SN}/shadow/desired"),
        Some(json!({ "firmware": "1.3.0" })),
    );
    assert_eq!(
        watch.wait_for("shadow.delta")["state"],
        json!({ "firmware": "1.3.0" })
    );
    watch.interrupt();

    let shadow = finish(&mut world.device(&["shadow", "get"]))
        .expect(0)
        .json()
        .remove(0);
    assert_eq!(shadow["desired"], json!({ "firmware": "1.3.0" }));
    assert_eq!(shadow["reported"], json!({ "firmware": "1.2.3" }));
}

#[test]
fn another_shadow_is_reached_by_its_name() {
    let world = World::provisioned();
    let shadow = |arguments: &[&str]| {
        finish(&mut world.device(&[&["shadow", "--name", "light"], arguments].concat()))
    };
    shadow(&["get"]).expect(1).says(&["no shadow yet"]);
    let reported = shadow(&["report", r#"{"on":true}"#]).expect(0).json();
    assert_eq!(reported[0]["event"], "reported");
    assert_eq!(
        shadow(&["get"]).expect(0).json()[0]["reported"],
        json!({ "on": true })
    );
    // Two shadows, and two states.
    finish(&mut world.device(&["shadow", "get", "--name", "config"]))
        .expect(1)
        .says(&["no shadow yet"]);
    finish(&mut world.device(&["shadow", "get", "--name", "a/b"]))
        .expect(2)
        .says(&["--name", "a/b"]);
}

#[test]
fn a_message_is_published() {
    let world = World::provisioned();
    let topic = format!("c/d/{SN}/status");
    finish(&mut world.device(&["publish", &topic, r#"{"state":"PING"}"#])).expect(0);
    assert_eq!(
        world.device_status()["status_history"],
        json!(["ONLINE", "PING", "OFFLINE"])
    );
    finish(&mut world.device(&["publish", "c/+/x", "payload"]))
        .expect(1)
        .says(&["c/+/x"]);
}

#[test]
fn a_question_gets_its_answer() {
    let world = World::provisioned();
    let mut request =
        Background::start(&mut world.device(&["request", "weather", r#"{"place":"here"}"#]));
    world.wait_until_online();
    // The simulator does not know this action. We answer in its place, again until the question has been asked.
    let answer = || {
        world.control(
            Method::POST,
            &format!("/devices/{SN}/actions/weather"),
            Some(json!({ "sun": true })),
        );
    };
    let line = request.wait_for_doing("answer", AGAIN, answer);
    assert_eq!(line["answer"], json!({ "sun": true }));
}

#[test]
fn without_a_configuration_it_is_exit_3_and_wrong_json_is_wrong_usage() {
    let world = World::new();
    for arguments in [
        &["shadow", "get"][..],
        &["publish", "t", "p"],
        &["request", "ping", "{}"],
        &["status"],
    ] {
        finish(&mut world.device(arguments))
            .expect(3)
            .says(&["not provisioned"]);
    }
    for arguments in [
        &["shadow", "report", "[1]"][..],
        &["shadow", "report", "{"],
        &["request", "ping", "{"],
    ] {
        finish(&mut world.device(arguments))
            .expect(2)
            .says(&["JSON", arguments[2]]);
    }
    finish(&mut world.device(&["request", "a/b", "{}"]))
        .expect(2)
        .says(&["a/b"]);
}

#[test]
fn topic_that_the_policy_refuses_is_named() {
    let world = World::provisioned();
    let policy = ["does not permit this device", "policy", "0x87"];
    let topic = "c/d/SN-0002/status";
    finish(&mut world.device(&["publish", topic, "x"]))
        .expect(1)
        .says(&policy)
        .says(&[topic]);

    // The configuration says that the device has another serial number than the platform knows.
    let record = json!({ "iot_thing_name": SN, "serial_number": "SN-0002" });
    fs::write(
        world.config().join("serial_number.json"),
        record.to_string(),
    )
    .unwrap();
    let device = |arguments: &[&str]| {
        let mut command = world.device(arguments);
        command.env_remove("CLESYDE_SN");
        command
    };
    let filter = "c/d/SN-0002/+/res";
    for arguments in [
        &["publish", "a/b", "x"][..],
        &["request", "weather", "{}"],
        &["shadow", "get"],
    ] {
        let ended = finish(&mut device(arguments)).expect(1);
        let ended = ended.says(&policy).says(&[filter]);
        // It does not wait until the time for a connection is over.
        assert!(!ended.stderr.contains("within"), "{}", ended.stderr);
    }
    let mut run = Background::start(&mut device(&["run"]));
    let down = run.wait_for("iot.disconnected");
    let reason = down["reason"].as_str().unwrap();
    for part in policy.into_iter().chain([filter]) {
        assert!(reason.contains(part), "{reason}");
    }
    let log = run.terminate();
    assert!(!log.contains("another client"), "{log}");

    let ended = finish(&mut device(&["doctor"])).expect(1);
    let found = Findings::of(&ended);
    let line = found.line("subscriptions");
    assert_eq!(line["status"], "failure");
    let cause = line["cause"].as_str().unwrap();
    assert!(
        cause.contains(policy[0]) && cause.contains(filter),
        "{cause}"
    );
}
