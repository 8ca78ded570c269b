//! What the public reaches through `run`, over the simulator's relay.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test's helpers fail by panicking too"
)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::thread;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get;
use common::background::Background;
use common::world::{SN, World};
use tokio::runtime::Runtime;

/// A device that runs with these arguments and has its tunnel open, and somebody to visit it.
struct Served {
    world: World,
    run: Background,
    runtime: Runtime,
}

impl Served {
    fn new(arguments: &[&str]) -> Self {
        Self::with_environment(arguments, &[])
    }

    fn with_environment(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let world = World::provisioned();
        let mut command = world.device(&[&["run"], arguments].concat());
        command.envs(variables.iter().copied());
        let mut run = Background::start(&mut command);
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

    /// Fetches a path of the device's page, with the certificate verified.
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
fn without_an_option_it_is_the_status_page() {
    let mut served = Served::new(&[]);
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
fn forwarded_requests_tell_the_caller_and_not_what_the_caller_wrote() {
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
    let mut served = Served::new(&["--forward", &address]);
    let told = served
        .fetch(
            "/who",
            &[
                ("x-forwarded-for", "192.0.2.66"),
                ("forwarded", "for=192.0.2.66"),
            ],
        )
        .unwrap();
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(told[..2], ["127.0.0.1", "https"], "{told:?}");
    assert!(told[2].contains("ui.localhost"), "{told:?}");
    assert!(
        told[3].contains("for=127.0.0.1") && !told[3].contains("192.0.2.66"),
        "{told:?}"
    );
    served.run.terminate();
}

#[test]
fn plain_bytes_go_on_with_the_caller_in_front() {
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
    let mut served = Served::new(&["--forward-tcp", &address, "--proxy-protocol", "v1"]);
    assert_eq!(served.fetch("/", &[]).unwrap(), "yes");
    let first = server.join().unwrap();
    assert!(first.starts_with("PROXY TCP4 127.0.0.1 "), "{first}");
    served.run.terminate();
}

#[test]
fn callers_who_are_kept_out_get_nothing() {
    for arguments in [&["--deny", "127.0.0.0/8"][..], &["--allow", "192.0.2.0/24"]] {
        let mut served = Served::new(arguments);
        assert!(served.fetch("/", &[]).is_err(), "{arguments:?}");
        served.run.terminate();
    }
    let mut served = Served::new(&["--allow", "127.0.0.1"]);
    assert!(served.fetch("/", &[]).is_ok());
    served.run.terminate();
}

/// By option and by variable.
#[test]
fn added_hosts_are_answered_and_others_are_not() {
    const REFUSED: &str = "421 Misdirected Request";
    for (arguments, variables) in [
        (
            &["--host", "one.example.com", "--host", "192.0.2.1"][..],
            &[][..],
        ),
        (&[], &[("CLESYDE_HOST", "one.example.com,192.0.2.1")]),
    ] {
        let mut served = Served::with_environment(arguments, variables);
        for host in ["one.example.com", "ONE.example.com:8443", "192.0.2.1"] {
            let page = served.fetch("/", &[("host", host)]).unwrap();
            assert!(page.contains(SN), "{host}: {page}");
        }
        let page = served.fetch("/", &[("host", "two.example.com")]).unwrap();
        assert!(page.contains(REFUSED), "{page}");
        let told = served.run.terminate();
        assert!(
            told.lines().any(|line| line.contains("WARN")
                && line.contains("two.example.com")
                && line.contains("add the name to the allowed hosts")),
            "{told}"
        );
    }
}

#[test]
fn rules_for_ipv6_say_that_unknown_callers_are_refused() {
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
        let mut served = Served::new(arguments);
        assert!(served.fetch("/", &[]).is_ok(), "an IPv4 caller is known");
        let told = served.run.terminate();
        assert_eq!(told.matches(WARNING).count(), usize::from(warned), "{told}");
    }
}

#[test]
fn an_application_whose_name_nobody_knows_is_told() {
    const NAME: &str = "nobody.invalid";
    for option in ["--forward", "--forward-tcp"] {
        let mut served = Served::new(&[option, "nobody.invalid:80"]);
        let page = served.fetch("/", &[]);
        match option {
            "--forward" => assert!(page.unwrap().contains("is not running")),
            _ => assert!(page.is_err()),
        }
        // The program has asked before us; by the time that we have an answer it has one.
        assert!((NAME, 80).to_socket_addrs().is_err());
        let told = served.run.terminate();
        let warned = |text: &str| {
            told.lines()
                .any(|line| line.contains(NAME) && line.contains(text))
        };
        assert!(
            warned(&format!("given with {option} is not known")),
            "{told}"
        );
        assert!(warned("is it running?"), "{told}");
    }
}
