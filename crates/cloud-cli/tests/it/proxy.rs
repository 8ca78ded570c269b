//! An HTTP proxy between the device and the cloud.

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
    fn start(refused: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, asked) = channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, sender) = (stream.unwrap(), sender.clone());
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
                    serve(reader.into_inner(), &target, refused);
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
    let mut server = TcpStream::connect(target).unwrap();
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
fn broker_uses_proxy() {
    let world = TestCloud::provisioned();
    let proxy = Proxy::start("no one");
    let mut run = BackgroundProgram::start(&mut world.device(&["run", "--proxy", &proxy.url]));
    run.wait_for("remote.connected");
    let broker = world.ready["mqtt"].as_str().unwrap();
    let way = format!("CONNECT {broker} HTTP/1.1\r\n");
    assert_eq!(proxy.asked(), way);
    run.terminate();

    // `doctor` uses the same proxy.
    let findings = finish(&mut world.device(&["doctor", "--proxy", &proxy.url]))
        .expect(0)
        .json();
    assert_eq!(proxy.asked(), way);
    let status = |step: &str| -> &Value {
        &findings.iter().find(|line| line["step"] == step).unwrap()["status"]
    };
    assert_eq!(
        (status("name.broker"), status("mqtt")),
        (&"skipped".into(), &"skipped".into())
    );
    assert_eq!(status("client_certificate"), "ok");

    let refusing = Proxy::start("localhost");
    let findings = finish(&mut world.device(&["doctor", "--proxy", &refusing.url])).expect(1);
    let line = findings
        .json()
        .into_iter()
        .find(|line| line["status"] == "failure")
        .unwrap();
    assert_eq!(line["step"], "client_certificate");
    assert!(line["cause"].as_str().unwrap().contains("proxy"), "{line}");
}

#[test]
fn loopback_ignores_proxy_of_environment() {
    let world = TestCloud::provisioned();
    let mut command = world.device(&["run"]);
    let mut run = BackgroundProgram::start(command.env("HTTPS_PROXY", "http://127.0.0.1:1"));
    run.wait_for("remote.connected");
    run.terminate();
}
