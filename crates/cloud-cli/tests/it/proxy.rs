//! A proxy between the device and the cloud.

use std::io::{BufRead, BufReader, Write, copy};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::tempdir;

use crate::common::background_program::BackgroundProgram;
use crate::common::test_cloud::{SN, TestCloud};
use crate::common::{finish, program};

/// A proxy that opens each tunnel, unless the host is `refused`; its threads end with the test's
/// process.
struct Proxy {
    url: String,
    asked: Receiver<String>,
}

impl Proxy {
    fn start(refused: &str) -> Self {
        let refused = refused.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, asked) = channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, sender, refused) = (stream.unwrap(), sender.clone(), refused.clone());
                thread::spawn(move || {
                    let mut reader = BufReader::new(stream);
                    let mut head = String::new();
                    reader.read_line(&mut head).unwrap();
                    let mut line = String::new();
                    while line != "\r\n" {
                        line.clear();
                        reader.read_line(&mut line).unwrap();
                    }
                    let target = head.split(' ').nth(1).unwrap().to_owned();
                    let _ = sender.send(head);
                    serve(reader.into_inner(), &target, &refused);
                });
            }
        });
        Self { url, asked }
    }

    /// Returns the next requested target.
    #[track_caller]
    fn asked(&self) -> String {
        self.asked.recv_timeout(Duration::from_secs(60)).unwrap()
    }
}

fn serve(mut stream: TcpStream, target: &str, refused: &str) {
    if target.starts_with(refused) {
        let _ = stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
        return;
    }
    // Names below `localhost`, such as the device's public one, are this machine's.
    let (_, port) = target.rsplit_once(':').unwrap();
    let mut server = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let (mut up, mut to_server) = (stream.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || {
        let _ = copy(&mut up, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let _ = copy(&mut server, &mut stream);
    let _ = stream.shutdown(Shutdown::Write);
}

#[test]
fn api_uses_proxy_of_option_or_environment() {
    let home = tempdir().unwrap();
    let proxy = Proxy::start("api.clesyde.invalid");
    let provision = |base: &str| {
        let mut command = program(&home);
        command
            .args(["provision", "--sn", SN, "--base-path", base])
            .args(["--api-url", "https://api.clesyde.invalid"])
            .env("CLESYDE_TOKEN", "key");
        command
    };
    for command in [
        provision("one").args(["--proxy", &proxy.url]),
        provision("two").env("HTTPS_PROXY", &proxy.url),
    ] {
        finish(command).expect(1).says(&["proxy"]);
        assert_eq!(
            proxy.asked(),
            "CONNECT api.clesyde.invalid:443 HTTP/1.1\r\n"
        );
    }

    let refused =
        finish(provision("three").args(["--proxy", "http://me:s3cret@proxy.example:3128"]))
            .expect(2)
            .says(&["--proxy", "HTTPS_PROXY"]);
    assert!(!refused.stderr.contains("s3cret"), "{}", refused.stderr);
}

#[test]
fn broker_and_relay_use_proxy() {
    let world = TestCloud::provisioned();
    let proxy = Proxy::start("no one");
    let mut run = BackgroundProgram::start(&mut world.device(&["run", "--proxy", &proxy.url]));
    run.wait_for("remote.connected");
    let connect = |server: &str| {
        let address = world.ready[server].as_str().unwrap();
        format!("CONNECT {address} HTTP/1.1\r\n")
    };
    let both = [connect("mqtt"), connect("relay")];
    assert_eq!([proxy.asked(), proxy.asked()], both);
    run.terminate();

    // `doctor` uses the same proxy, and names it.
    let root = world.ready["ca_file"].as_str().unwrap();
    let doctor = |proxy: &Proxy| {
        finish(&mut world.device(&["doctor", "--ca-file", root, "--proxy", &proxy.url]))
    };
    let findings = doctor(&proxy).expect(0).json();
    assert_eq!([proxy.asked(), proxy.asked()], both);
    assert!(proxy.asked().contains(".localhost:"), "the page");
    let finding =
        |step: &str| -> &Value { findings.iter().find(|line| line["step"] == step).unwrap() };
    let address = proxy.url.strip_prefix("http://").unwrap();
    for step in ["name.broker", "name.relay", "name.page"] {
        let finding = finding(step);
        assert_eq!(finding["status"], "skipped", "{finding}");
        assert!(finding.to_string().contains(address), "{finding}");
    }
    assert_eq!(finding("mqtt")["status"], "skipped");
    for step in ["client_certificate", "tunnel", "page"] {
        assert_eq!(finding(step)["status"], "ok", "{step}");
    }

    // What it refuses is named, too.
    for (server, step) in [("mqtt", "client_certificate"), ("relay", "tunnel")] {
        let target = world.ready[server].as_str().unwrap();
        let refusing = Proxy::start(target);
        let findings = doctor(&refusing).expect(1).json();
        let line = findings
            .iter()
            .find(|line| line["status"] == "failure")
            .unwrap();
        assert_eq!(line["step"], step);
        let cause = line["cause"].as_str().unwrap();
        let address = refusing.url.strip_prefix("http://").unwrap();
        let says = format!("no connection to {target} through the proxy {address}");
        assert!(cause.contains(&says) && cause.contains("403"), "{line}");
    }
}

#[test]
fn loopback_ignores_proxy_of_environment() {
    let world = TestCloud::provisioned();
    let mut command = world.device(&["run"]);
    let mut run = BackgroundProgram::start(command.env("HTTPS_PROXY", "http://127.0.0.1:1"));
    run.wait_for("remote.connected");
    run.terminate();
}
