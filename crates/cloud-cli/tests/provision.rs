//! `provision` where it is not plain sailing: keys of the device's own, a proxy, a wrong clock, an answer that is lost.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test's helpers fail by panicking too"
)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::thread;

use common::background::Background;
use common::dated::DatedApi;
use common::world::{SN, World};
use common::{finish, program};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::tempdir;

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
fn the_proxy_comes_from_the_option_or_the_environment() {
    let home = tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let heads = thread::spawn(move || {
        let refuse = |_| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = String::new();
            BufReader::new(&stream).read_line(&mut head).unwrap();
            let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
            head
        };
        [(); 2].map(refuse)
    });
    let provision = |base: &str| {
        let mut command = program(&home);
        command
            .args(["provision", "--sn", SN, "--base-path", base])
            .args(["--api-url", "https://api.clesyde.invalid"])
            .env("CLESYDE_TOKEN", "key");
        command
    };
    // Whether it is tried again is decided by time; one answer is enough for each.
    let mut first = Background::start(provision("one").args(["--proxy", &proxy]));
    let mut second = Background::start(provision("two").env("HTTPS_PROXY", &proxy));
    for head in heads.join().unwrap() {
        assert_eq!(head, "CONNECT api.clesyde.invalid:443 HTTP/1.1\r\n");
    }
    for child in [&mut first, &mut second] {
        let (code, stderr) = child.wait();
        assert_eq!(code, Some(1));
        assert!(stderr.contains("proxy"), "{stderr}");
    }

    let ended = finish(provision("three").args(["--proxy", "http://me:s3cret@proxy.example:3128"]))
        .expect(2)
        .says(&["--proxy", "HTTPS_PROXY"]);
    assert!(!ended.stderr.contains("s3cret"), "{}", ended.stderr);
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
