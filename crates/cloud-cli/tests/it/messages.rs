//! Commands that perform one operation with the platform.

use std::fs;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::common::background_program::BackgroundProgram;
use crate::common::check_results::CheckResults;
use crate::common::finish;
use crate::common::test_cloud::{SN, TestCloud};

/// Interval after which the response is sent again.
const AGAIN: Duration = Duration::from_millis(50);

#[test]
fn shadow_is_reported_shown_and_watched() {
    let world = TestCloud::provisioned();
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

    let mut watch = BackgroundProgram::start(&mut world.device(&["shadow", "watch"]));
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
fn shadow_is_selected_by_name() {
    let world = TestCloud::provisioned();
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
fn publish_sends_message() {
    let world = TestCloud::provisioned();
    let topic = format!("c/d/{SN}/status");
    finish(&mut world.device(&["publish", &topic, r#"{"state":"PING"}"#])).expect(0);
    world.wait_for_history(&["ONLINE", "PING", "OFFLINE"]);
    finish(&mut world.device(&["publish", "c/+/x", "payload"]))
        .expect(1)
        .says(&["c/+/x"]);
}

#[test]
fn request_prints_response() {
    let world = TestCloud::provisioned();
    let mut request =
        BackgroundProgram::start(&mut world.device(&["request", "weather", r#"{"place":"here"}"#]));
    world.wait_until_online();
    // The simulator does not support this action. The test responds, repeatedly until the request
    // has been sent.
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
fn missing_configuration_is_exit_3_and_invalid_json_exit_2() {
    let world = TestCloud::new();
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
    // Values that would change on their way.
    for (state, name) in [
        (r#"{"a":{"serial":12345678901234567890123}}"#, "a.serial"),
        (r#"{"t":1e400}"#, "t: a number"),
        (r#"{"label":"\ud83d"}"#, "label: text"),
    ] {
        finish(&mut world.device(&["shadow", "report", state]))
            .expect(2)
            .says(&["cannot be kept", name]);
    }
    finish(&mut world.device(&["request", "a/b", "{}"]))
        .expect(2)
        .says(&["a/b"]);
}

#[test]
fn refused_topic_is_named() {
    let world = TestCloud::provisioned();
    let policy = ["does not permit this device", "policy", "0x87"];
    let topic = "c/d/SN-0002/status";
    finish(&mut world.device(&["publish", topic, "x"]))
        .expect(1)
        .says(&policy)
        .says(&[topic]);

    // The configuration has another serial number than the platform, which does not permit its
    // will.
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
    for arguments in [
        &["publish", "a/b", "x"][..],
        &["request", "weather", "{}"],
        &["shadow", "get"],
    ] {
        let ended = finish(&mut device(arguments)).expect(1);
        let ended = ended.says(&policy);
        // The command ends before its time limit for the connection.
        assert!(!ended.stderr.contains("within"), "{}", ended.stderr);
    }
    let mut run = BackgroundProgram::start(&mut device(&["run"]));
    let down = run.wait_for("iot.disconnected");
    let reason = down["reason"].as_str().unwrap();
    for part in policy {
        assert!(reason.contains(part), "{reason}");
    }
    let log = run.terminate();
    assert!(!log.contains("another client"), "{log}");

    let ended = finish(&mut device(&["doctor"])).expect(1);
    let found = CheckResults::of(&ended);
    let line = found.line("client_certificate");
    assert_eq!(line["status"], "failure");
    let cause = line["cause"].as_str().unwrap();
    assert!(cause.contains(policy[0]), "{cause}");
}
