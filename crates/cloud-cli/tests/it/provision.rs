//! `provision` in special cases: keys generated on the device, a wrong clock, a lost response.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::symlink;

use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::background_program::BackgroundProgram;
use crate::common::captured_output::CapturedProgram;
use crate::common::shifted_clock_api::ShiftedClockApi;
use crate::common::test_cloud::{SN, TestCloud};
use crate::common::{finish, finish_with_input};

#[test]
fn keys_generated_on_device_are_used() {
    let world = TestCloud::new();
    let ended = world.provision(&["--own-keys"]).expect(0);
    assert_eq!(ended.json()[0]["own_keys"], true);
    let mut run = BackgroundProgram::start(&mut world.device(&["run"]));
    run.wait_for("iot.connected");
    run.wait_for("remote.connected");
    run.terminate();

    let plain = TestCloud::new();
    let ended = plain.provision(&[]).expect(0);
    assert_eq!(ended.json()[0]["own_keys"], false);
}

#[test]
fn wrong_clock_is_reported() {
    let world = TestCloud::new();
    let api = ShiftedClockApi::start(
        world.ready["api_url"].as_str().unwrap(),
        "Wed, 01 Jan 2020 00:00:00 GMT",
    );
    let ended = finish(
        world
            .device(&["provision"])
            .env("CLESYDE_API_URL", api.url())
            .env("CLESYDE_TOKEN", world.key()),
    )
    .expect(0)
    .says(&["the clock of this device is wrong", "fast"]);
    let correction = ended.json()[0]["clock_correction_ms"].as_i64().unwrap();
    assert!(correction < -86_400_000, "{correction}");
    let right = TestCloud::new();
    let ended = right.provision(&[]).expect(0);
    assert_eq!(ended.json()[0]["clock_correction_ms"], Value::Null);
    assert_eq!(ended.stderr, "");
}

#[test]
fn lost_response_is_explained_at_once_and_at_next_attempt() {
    let world = TestCloud::new();
    let lost = json!({ "fault": "api", "answer": "lost" });
    world.control(Method::POST, "/faults", Some(lost));
    world
        .provision(&[])
        .expect(1)
        .says(&["may have registered the device", "needs a new key"]);
    // The platform has registered the device, which used up the key.
    world.provision(&[]).expect(1).says(&["refused"]);
    finish(&mut world.device(&["cert", "show"])).expect(3);
    assert_eq!(
        world
            .control(Method::GET, "/devices", None)
            .as_array()
            .unwrap()
            .len(),
        1
    );
    world.control(Method::DELETE, &format!("/devices/{SN}"), None);
    world.provision(&[]).expect(0);
}

#[test]
fn unusable_response_may_have_used_key() {
    let world = TestCloud::new();
    let cut = json!({ "fault": "api", "answer": "cut_json" });
    world.control(Method::POST, "/faults", Some(cut));
    world
        .provision(&[])
        .expect(1)
        .says(&["cannot be used", "may have registered the device"]);
}

/// The key works once, so it is not used if the response cannot be stored.
#[test]
fn nothing_is_requested_that_cannot_be_stored() {
    let world = TestCloud::new();
    let in_the_way = world.config().join("remote_key.pem");
    fs::create_dir_all(&in_the_way).unwrap();
    world.provision(&[]).expect(1).says(&["nothing was sent"]);
    fs::remove_dir(&in_the_way).unwrap();
    symlink("/etc/hostname", &in_the_way).unwrap();
    world.provision(&[]).expect(1).says(&["nothing was sent"]);
    assert_eq!(world.control(Method::GET, "/devices", None), json!([]));
    fs::remove_file(&in_the_way).unwrap();
    world.provision(&[]).expect(0);
}

#[test]
fn damaged_configuration_does_not_count_as_provisioned() {
    let world = TestCloud::provisioned();
    fs::write(world.config().join("cloud_config.json"), "").unwrap();
    world
        .provision(&[])
        .expect(1)
        .says(&["cloud_config.json", "--force"]);
}

#[test]
fn waiting_is_reported_before_it_is_over() {
    let world = TestCloud::new();
    let api = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", api.local_addr().unwrap());
    let mut command = world.device(&["provision"]);
    command
        .env("CLESYDE_API_URL", &url)
        .env("CLESYDE_TOKEN", world.key());
    let mut provision = CapturedProgram::start(&world.home, &mut command);
    let (mut connection, _) = api.accept().unwrap();
    assert!(connection.read(&mut [0; 4096]).unwrap() > 0);
    provision.wait_until("line", |_, stderr| {
        stderr.contains(&format!("waiting for the response of {url}"))
    });
}

/// The message after a signal depends on the stage of the request.
#[test]
fn interruption_reports_state_of_key() {
    let world = TestCloud::new();
    for (scheme, words) in [
        // The client waits for TLS, and has sent no request.
        ("https", "the key is still valid"),
        ("http", "may have registered the device"),
    ] {
        let api = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}", api.local_addr().unwrap());
        let mut command = world.device(&["provision"]);
        command
            .env("CLESYDE_API_URL", &url)
            .env("CLESYDE_TOKEN", world.key());
        if scheme == "https" {
            // Any root works; this makes sure that every machine has one.
            command.args(["--ca-file", world.ready["ca_file"].as_str().unwrap()]);
        }
        let mut provision = BackgroundProgram::start(&mut command);
        let (mut connection, _) = api.accept().unwrap();
        assert!(connection.read(&mut [0; 4096]).unwrap() > 0);
        provision.signal(Signal::TERM);
        let (code, stderr) = provision.wait();
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(words) && stderr.contains(&url), "{stderr}");
        assert!(provision.events().is_empty());
    }
}

/// A production line: lines in, lines out, in the same order.
#[test]
fn each_line_of_pipe_is_registered_and_answered() {
    let world = TestCloud::new();
    let key = world.key().to_owned();
    let batch = |lines: &str, key: &str| {
        let mut command = world.device(&["provision", "--from", "-"]);
        finish_with_input(command.env("CLESYDE_TOKEN", key), lines)
    };
    let own_key = json!({ "sn": "SN-3", "key": key }).to_string();
    let ended = batch(&format!("SN-1\n../up\n\nSN-2\r\n{own_key}\nSN-1\n"), &key)
        .expect(1)
        .says(&["1 of 5 devices were not registered"]);
    let lines = ended.json();
    let events: Vec<_> = lines
        .iter()
        .map(|line| (&line["event"], &line["sn"]))
        .collect();
    assert_eq!(
        json!(events),
        json!([
            ["provisioned", "SN-1"],
            ["provision_failed", null],
            ["provisioned", "SN-2"],
            ["provisioned", "SN-3"],
            ["already_provisioned", "SN-1"],
        ])
    );
    assert_eq!(lines[1]["line"], 2);
    assert!(!format!("{ended:?}").contains(&key));

    // The directory of a device is one for `run`.
    let base = world.base().join("SN-2");
    let mut show = world.device(&["cert", "show"]);
    finish(
        show.env("CLESYDE_BASE_PATH", base)
            .env("CLESYDE_SN", "SN-2"),
    )
    .expect(0);
    // A key of the line takes precedence over the common one.
    let refused = batch(&json!({ "sn": "SN-4", "key": "wrong" }).to_string(), &key).expect(1);
    assert_eq!(refused.json()[0]["sn"], "SN-4");
    batch("SN-4\n", &key).expect(0);
    batch("", &key).expect(0);
    finish(&mut world.device(&["provision", "--from", "-", "--token-file", "-"])).expect(2);
}
