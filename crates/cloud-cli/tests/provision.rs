//! `provision` where it is not plain sailing: keys of the device's own, a wrong clock, an answer that is lost.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test's helpers fail by panicking too"
)]

mod common;

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::symlink;

use common::background::Background;
use common::dated::DatedApi;
use common::finish;
use common::world::{SN, World};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

#[test]
fn keys_that_are_made_on_the_device_serve_it() {
    let world = World::new();
    let ended = world.provision(&["--own-keys"]).expect(0);
    assert_eq!(ended.json()[0]["own_keys"], true);
    let mut run = Background::start(&mut world.device(&["run"]));
    run.wait_for("iot.connected");
    run.wait_for("remote.connected");
    run.terminate();

    let plain = World::new();
    let ended = plain.provision(&[]).expect(0);
    assert_eq!(ended.json()[0]["own_keys"], false);
}

#[test]
fn a_clock_that_is_wrong_is_told() {
    let world = World::new();
    let api = DatedApi::start(
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
    let right = World::new();
    let ended = right.provision(&[]).expect(0);
    assert_eq!(ended.json()[0]["clock_correction_ms"], Value::Null);
    assert_eq!(ended.stderr, "");
}

#[test]
fn an_answer_that_is_lost_is_explained_then_and_at_the_next_try() {
    let world = World::new();
    let lost = json!({ "fault": "api", "answer": "lost" });
    world.control(Method::POST, "/faults", Some(lost));
    world
        .provision(&[])
        .expect(1)
        .says(&["may have registered the device", "needs a new key"]);
    // The platform has the device by now, and used the key up for it.
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
fn an_answer_that_cannot_be_used_may_have_cost_the_key() {
    let world = World::new();
    let cut = json!({ "fault": "api", "answer": "cut_json" });
    world.control(Method::POST, "/faults", Some(cut));
    world
        .provision(&[])
        .expect(1)
        .says(&["cannot be used", "may have registered the device"]);
}

/// The key works once, so that it is not spent on an answer that has no place.
#[test]
fn what_cannot_be_stored_is_not_asked_for() {
    let world = World::new();
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
fn a_damaged_configuration_is_not_taken_for_one() {
    let world = World::provisioned();
    fs::write(world.config().join("cloud_config.json"), "").unwrap();
    world
        .provision(&[])
        .expect(1)
        .says(&["cloud_config.json", "--force"]);
}

/// Whether the key may be used up is told by how far it had come when the signal came.
#[test]
fn a_signal_tells_what_may_have_become_of_the_key() {
    let world = World::new();
    for (scheme, words) in [
        // It waits for TLS, and has sent no request.
        ("https", "the key is as good as before"),
        ("http", "may have registered the device"),
    ] {
        let api = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}", api.local_addr().unwrap());
        let mut command = world.device(&["provision"]);
        command
            .env("CLESYDE_API_URL", &url)
            .env("CLESYDE_TOKEN", world.key());
        if scheme == "https" {
            // Any root will do, so that there is one on every machine.
            command.args(["--ca-file", world.ready["ca_file"].as_str().unwrap()]);
        }
        let mut provision = Background::start(&mut command);
        let (mut connection, _) = api.accept().unwrap();
        assert!(connection.read(&mut [0; 4096]).unwrap() > 0);
        provision.signal(Signal::TERM);
        let (code, stderr) = provision.wait();
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(words) && stderr.contains(&url), "{stderr}");
        assert!(provision.events().is_empty());
    }
}
