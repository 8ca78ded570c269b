//! The backends of `run`, through the simulator's relay.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::thread;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get;
use serde_json::json;
use testkit::wait::block_until;
use tokio::runtime::Runtime;

use crate::common;
use crate::common::background_program::BackgroundProgram;
use crate::common::public_caller::connect;
use crate::common::test_cloud::{SN, TestCloud};

/// A device that runs with these arguments and has an open tunnel, and a public client.
struct ServedDevice {
    world: TestCloud,
    run: BackgroundProgram,
    runtime: Runtime,
}

impl ServedDevice {
    fn new(arguments: &[&str]) -> Self {
        Self::with_environment(arguments, &[])
    }

    fn with_environment(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let world = TestCloud::provisioned();
        let mut command = world.device(&[&["run"], arguments].concat());
        command.envs(variables.iter().copied());
        let mut run = BackgroundProgram::start(&mut command);
        run.wait_for("remote.connected");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Self {
            world,
            run,
            runtime,
        }
    }

    /// Fetches a path, with the certificate verified.
    fn fetch(
        &self,
        path: &str,
        headers: &[(&'static str, &'static str)],
    ) -> reqwest::Result<String> {
        let access_point = self.world.device_status()["access_point"]
            .as_str()
            .unwrap()
            .to_owned();
        let relay: SocketAddr = self.world.ready["relay"]
            .as_str()
            .unwrap()
            .replace("localhost", "127.0.0.1")
            .parse()
            .unwrap();
        let roots = std::fs::read(self.world.ready["ca_file"].as_str().unwrap()).unwrap();
        let client =
            common::http_client(&[&roots], |builder| builder.resolve(&access_point, relay));
        self.runtime.block_on(async {
            let mut request = client.get(format!("https://{access_point}:{}{path}", relay.port()));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            request.send().await?.text().await
        })
    }
}

#[test]
fn status_lists_visitors() {
    let mut served = ServedDevice::new(&[]);
    let status = || {
        let mut command = served.world.device(&["status"]);
        common::finish(&mut command).expect(0).json().remove(0)
    };
    assert_eq!(status()["visitors"], json!([]));
    let host = served.world.device_status()["access_point"].clone();
    let host = host.as_str().unwrap();
    let mut caller = connect(&served.world);
    write!(caller, "GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    assert!(caller.read(&mut [0; 1024]).unwrap() > 0);
    let visitors = status()["visitors"].clone();
    assert_eq!(visitors.as_array().unwrap().len(), 1, "{visitors}");
    assert_eq!(visitors[0]["address"], "127.0.0.1");
    assert_eq!(visitors[0]["connections"], 1);
    assert_eq!(visitors[0]["requests"], 1);
    assert!(visitors[0]["sent"].as_u64() > Some(0), "{visitors}");
    drop(caller);
    block_until("the visitor is gone", || status()["visitors"] == json!([]));
    served.run.terminate();
}

#[test]
fn status_page_is_default_backend() {
    let mut served = ServedDevice::new(&[]);
    let page = served.fetch("/", &[]).unwrap();
    assert!(
        page.contains(SN) && page.contains("Messaging      connected"),
        "{page}"
    );
    assert!(
        served
            .fetch("/", &[("accept", "text/html")])
            .unwrap()
            .starts_with("<!doctype html>")
    );
    served.run.terminate();
}

#[test]
fn forwarded_headers_name_caller_and_replace_callers_own() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let app = Router::new().route(
            "/who",
            get(async |headers: HeaderMap| {
                [
                    "x-forwarded-for",
                    "x-forwarded-proto",
                    "x-forwarded-host",
                    "forwarded",
                ]
                .map(|name| {
                    headers
                        .get(name)
                        .map_or("-", |value| value.to_str().unwrap())
                        .to_owned()
                })
                .join("\n")
            }),
        );
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(async {
                axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), app)
                    .await
                    .unwrap();
            });
    });
    let mut served = ServedDevice::new(&["--forward", &address]);
    let seen = served
        .fetch(
            "/who",
            &[
                ("x-forwarded-for", "192.0.2.66"),
                ("forwarded", "for=192.0.2.66"),
            ],
        )
        .unwrap();
    let seen: Vec<&str> = seen.lines().collect();
    assert_eq!(seen[..2], ["127.0.0.1", "https"], "{seen:?}");
    assert!(seen[2].contains("ui.localhost"), "{seen:?}");
    assert!(
        seen[3].contains("for=127.0.0.1") && !seen[3].contains("192.0.2.66"),
        "{seen:?}"
    );
    served.run.terminate();
}

#[test]
fn forward_tcp_prepends_proxy_header() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(&stream).lines();
        let first = lines.next().unwrap().unwrap();
        while !lines.next().unwrap().unwrap().is_empty() {}
        (&stream)
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nyes")
            .unwrap();
        first
    });
    let mut served = ServedDevice::new(&["--forward-tcp", &address, "--proxy-protocol", "v1"]);
    assert_eq!(served.fetch("/", &[]).unwrap(), "yes");
    let first = server.join().unwrap();
    assert!(first.starts_with("PROXY TCP4 127.0.0.1 "), "{first}");
    served.run.terminate();
}

#[test]
fn denied_callers_get_no_response() {
    for arguments in [&["--deny", "127.0.0.0/8"][..], &["--allow", "192.0.2.0/24"]] {
        let mut served = ServedDevice::new(arguments);
        assert!(served.fetch("/", &[]).is_err(), "{arguments:?}");
        served.run.terminate();
    }
    let mut served = ServedDevice::new(&["--allow", "127.0.0.1"]);
    assert!(served.fetch("/", &[]).is_ok());
    served.run.terminate();
}

/// With option and with variable.
#[test]
fn only_allowed_hosts_are_served() {
    const REFUSED: &str = "421 Misdirected Request";
    for (arguments, variables) in [
        (
            &["--host", "one.example.com", "--host", "192.0.2.1"][..],
            &[][..],
        ),
        (&[], &[("CLESYDE_HOST", "one.example.com,192.0.2.1")]),
    ] {
        let mut served = ServedDevice::with_environment(arguments, variables);
        for host in ["one.example.com", "ONE.example.com:8443", "192.0.2.1"] {
            let page = served.fetch("/", &[("host", host)]).unwrap();
            assert!(page.contains(SN), "{host}: {page}");
        }
        let page = served.fetch("/", &[("host", "two.example.com")]).unwrap();
        assert!(page.contains(REFUSED), "{page}");
        let seen = served.run.terminate();
        assert!(
            seen.lines().any(|line| line.contains("WARN")
                && line.contains("two.example.com")
                && line.contains("add the name to the allowed hosts")),
            "{seen}"
        );
    }
}

#[test]
fn ipv6_rules_report_denied_unknown_callers() {
    const WARNING: &str = "refuse callers whose address is unknown";
    for (arguments, warned) in [
        (&["--deny", "2001:db8::/32"][..], true),
        (&["--deny", "192.0.2.0/24"], false),
        (
            &["--deny", "2001:db8::/32", "--unknown-callers", "deny"],
            false,
        ),
        (
            &["--deny", "2001:db8::/32", "--unknown-callers", "allow"],
            false,
        ),
    ] {
        let mut served = ServedDevice::new(arguments);
        assert!(served.fetch("/", &[]).is_ok(), "an IPv4 caller is known");
        let seen = served.run.terminate();
        assert_eq!(seen.matches(WARNING).count(), usize::from(warned), "{seen}");
    }
}

#[test]
fn an_application_whose_name_nobody_knows_is_seen() {
    const NAME: &str = "unknown.invalid";
    for option in ["--forward", "--forward-tcp"] {
        let mut served = ServedDevice::new(&[option, "unknown.invalid:80"]);
        let page = served.fetch("/", &[]);
        match option {
            "--forward" => assert!(page.unwrap().contains("is not running")),
            _ => assert!(page.is_err()),
        }
        // The program started its lookup earlier, so it has a result by now.
        assert!((NAME, 80).to_socket_addrs().is_err());
        let seen = served.run.terminate();
        let warned = |text: &str| {
            seen.lines()
                .any(|line| line.contains(NAME) && line.contains(text))
        };
        assert!(
            warned(&format!("given with {option} cannot be resolved")),
            "{seen}"
        );
        assert!(warned("is it running?"), "{seen}");
    }
}
