//! The health endpoints and the notifications to systemd.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use testkit::wait::block_until;
use tokio::runtime::Runtime;

use crate::common::background_program::BackgroundProgram;
use crate::common::public_caller::send_request;
use crate::common::test_cloud::TestCloud;
use crate::common::{finish, http_client};

/// Time limit for a wait; generous for a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A client of the health endpoints.
struct HealthClient {
    address: String,
    runtime: Runtime,
}

impl HealthClient {
    fn of(run: &mut BackgroundProgram) -> Self {
        let address = run.wait_for("health")["address"]
            .as_str()
            .unwrap()
            .to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Self { address, runtime }
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.runtime.block_on(async {
            let client = http_client(&[], |builder| builder);
            let answer = client
                .get(format!("http://{}{path}", self.address))
                .send()
                .await
                .unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        })
    }

    fn json(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.get(path);
        (status, serde_json::from_str(&body).unwrap())
    }

    /// Returns the samples by name and label.
    fn metrics(&self) -> BTreeMap<String, f64> {
        let (status, body) = self.get("/metrics");
        assert_eq!(status, 200);
        let samples = body
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        samples
            .map(|line| {
                let (name, value) = line.rsplit_once(' ').unwrap();
                (name.to_owned(), value.parse().unwrap())
            })
            .collect()
    }

    #[track_caller]
    fn until(&self, what: &str, found: impl Fn(&Self) -> bool) {
        block_until(what, || found(self));
    }
}

#[test]
fn run_serves_health_endpoints() {
    let mut world = TestCloud::provisioned();
    let mut run = BackgroundProgram::start(&mut world.device(&["run", "--health", "127.0.0.1:0"]));
    let asker = HealthClient::of(&mut run);
    run.wait_for("remote.connected");
    assert_eq!(
        asker.json("/healthz"),
        (200, json!({ "alive": true, "stuck_for_s": null }))
    );
    assert_eq!(
        asker.json("/readyz"),
        (200, json!({ "ready": true, "missing": [] }))
    );
    assert_eq!(asker.get("/elsewhere").0, 404);

    let metrics = asker.metrics();
    for (name, value) in [
        ("clesyde_iot_connected", 1.0),
        ("clesyde_remote_connected", 1.0),
        ("clesyde_iot_connections_total", 1.0),
        ("clesyde_iot_connections_lost_total", 0.0),
        ("clesyde_remote_tunnels_total", 1.0),
        ("clesyde_remote_tokens_total", 1.0),
        ("clesyde_remote_open_connections", 0.0),
        (
            "clesyde_certificate_rotation_rate_limited{certificate=\"iot\"}",
            0.0,
        ),
        (
            "clesyde_certificate_rotation_rate_limited{certificate=\"remote\"}",
            0.0,
        ),
        ("clesyde_events_missed_total", 0.0),
    ] {
        assert_eq!(metrics[name], value, "{name}");
    }
    for name in [
        "clesyde_certificate_not_after_timestamp_seconds{certificate=\"iot\"}",
        "clesyde_certificate_not_after_timestamp_seconds{certificate=\"remote\"}",
        "clesyde_remote_token_not_after_timestamp_seconds",
        "clesyde_start_time_seconds",
    ] {
        assert!(metrics[name] > 1_700_000_000.0, "{name}");
    }

    // Requests, refusals and the process are counted, and everything is documented.
    let host = world.device_status()["access_point"].clone();
    for (host, count) in [(host.as_str().unwrap(), 1), ("other.example.com", 2)] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        send_request(&world, request.as_bytes());
        asker.until("the connection is counted", |asker| {
            asker.metrics()["clesyde_remote_connections_total"] == f64::from(count)
        });
    }
    asker.until("the refusal is counted", |asker| {
        asker.metrics()["clesyde_remote_refused_total{reason=\"host\"}"] == 1.0
    });
    let metrics = asker.metrics();
    let of_requests = "{class=\"2xx\",upstream=\"built-in\"}";
    assert_eq!(
        metrics[&format!("clesyde_remote_requests_total{of_requests}")],
        1.0
    );
    assert!(metrics[&format!("clesyde_remote_sent_bytes_total{of_requests}")] > 0.0);
    assert_eq!(metrics["snitun_channels_opened_total"], 2.0);
    assert!(metrics["snitun_sent_bytes_total"] > 0.0);
    assert!(metrics["process_resident_memory_bytes"] > 1_000_000.0);
    assert!(metrics["process_start_time_seconds"] > 1_700_000_000.0);
    let document = include_str!("../../../../docs/monitoring/README.md");
    for line in asker.get("/metrics").1.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap();
            let row = format!("| `{name}` | {kind} |");
            assert!(document.contains(&row), "{row} is not documented");
        }
    }

    // A rotation and a lost session are counted.
    let before = metrics["clesyde_certificate_not_after_timestamp_seconds{certificate=\"remote\"}"];
    world.control(Method::POST, "/devices/SN-0001/rotate", None);
    run.wait_for("remote.certificate");
    asker.until("the rotation is counted", |asker| {
        asker.metrics()["clesyde_certificate_rotations_total"] == 1.0
    });
    let after =
        asker.metrics()["clesyde_certificate_not_after_timestamp_seconds{certificate=\"remote\"}"];
    assert!(after >= before, "{after} {before}");
    world.control(
        Method::POST,
        "/faults",
        Some(json!({ "fault": "drop_mqtt" })),
    );
    asker.until("the loss is counted", |asker| {
        let metrics = asker.metrics();
        metrics["clesyde_iot_connections_lost_total"] == 1.0
            && metrics["clesyde_iot_connections_total"] == 2.0
    });

    // Without a platform, the instance is alive and not ready, and reports what is missing.
    world.sim.terminate();
    asker.until("it is not ready", |asker| asker.get("/readyz").0 == 503);
    asker.until("both are missing", |asker| {
        let (_, body) = asker.json("/readyz");
        let parts: Vec<_> = body["missing"]
            .as_array()
            .unwrap()
            .iter()
            .map(|part| &part["part"])
            .collect();
        parts == ["iot", "remote"]
    });
    let (_, body) = asker.json("/readyz");
    assert!(body["missing"][0]["reason"].is_string(), "{body}");
    assert_eq!(asker.get("/healthz").0, 200);
    assert_eq!(asker.metrics()["clesyde_iot_connected"], 0.0);
    run.terminate();
    assert!(TcpStream::connect(&asker.address).is_err());
}

#[test]
fn health_is_served_despite_hundreds_of_idle_connections() {
    let world = TestCloud::provisioned();
    let mut run = BackgroundProgram::start(&mut world.device(&["run", "--health", "[::1]:0"]));
    let asker = HealthClient::of(&mut run);
    let mut hanging: Vec<_> = (0..240)
        .map(|number| {
            let mut stream = TcpStream::connect(&asker.address).unwrap();
            if number % 2 == 0 {
                // The server may have closed it already.
                let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nX-Slow: ");
            }
            stream
        })
        .collect();
    let begun = Instant::now();
    for path in ["/healthz", "/metrics"] {
        assert_eq!(asker.get(path).0, 200);
    }
    assert!(begun.elapsed() < LIMIT);
    for stream in &mut hanging {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let closed = match stream.read_to_end(&mut Vec::new()) {
            Ok(_) => true,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        };
        assert!(closed, "it is hung up on");
    }
    run.terminate();
}

#[test]
fn health_is_served_for_loopback_hosts_only() {
    let world = TestCloud::provisioned();
    let mut run = BackgroundProgram::start(&mut world.device(&["run", "--health", "127.0.0.1:0"]));
    let asker = HealthClient::of(&mut run);
    let answer = |request: &str| {
        let mut stream = TcpStream::connect(&asker.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for (host, status) in [
        ("localhost", 200),
        ("127.0.0.1:9100", 200),
        ("[::1]", 200),
        (asker.address.as_str(), 200),
        ("rebound.example.com", 421),
        ("127.0.0.1.example.com", 421),
        ("", 400),
    ] {
        for path in ["/healthz", "/metrics"] {
            let answer = answer(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            let begin = format!("HTTP/1.1 {status} ");
            assert!(answer.starts_with(&begin), "{host}: {answer}");
            assert_eq!(
                answer.contains("clesyde_"),
                status == 200 && path == "/metrics"
            );
        }
    }
    assert!(answer("GET /healthz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 400 "));
    assert!(answer("GET /healthz HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200 "));
    run.terminate();
}

#[test]
fn health_address_must_be_loopback() {
    let world = TestCloud::provisioned();
    for address in [
        "0.0.0.0:9100",
        "192.0.2.1:9100",
        "127.0.0.1",
        "127.0.0.1:65536",
        "[::]:1",
    ] {
        finish(&mut world.device(&["run", "--health", address]))
            .expect(2)
            .says(&["--health", address]);
    }
    finish(&mut world.device(&["run", "--health", "192.0.2.1:9100"]))
        .expect(2)
        .says(&["--health-public", "no authentication"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    finish(&mut world.device(&["run", "--health", &address]))
        .expect(1)
        .says(&["--health", &address, "in use"]);
}

#[test]
fn status_page_is_served_on_this_machine_beside_another_application() {
    let world = TestCloud::provisioned();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let unused = taken.local_addr().unwrap().to_string();
    drop(taken);
    let arguments = ["run", "--forward", &unused, "--health", "127.0.0.1:0"];
    let mut run = BackgroundProgram::start(&mut world.device(&arguments));
    let health = HealthClient::of(&mut run);
    health.until("the page names the application", |health| {
        let (status, text) = health.get("/status/");
        assert_eq!(status, 200);
        text.contains(&format!("application at {unused} does not answer"))
    });
    assert!(health.get("/status").1.contains(&unused), "a redirection");
    assert_eq!(health.json("/status/status.json").1["state"], "bad");
    for (path, status) in [
        ("/status/style.css", 200),
        ("/status/page.js", 200),
        ("/status/logo", 200),
        ("/status/healthz", 404),
        ("/style.css", 404),
    ] {
        assert_eq!(health.get(path).0, status, "{path}");
    }

    // The stream of an open page has no time limit, and ends with the instance.
    let mut stream = TcpStream::connect(&health.address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let request = b"GET /status/events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).unwrap();
    let opened = Instant::now();
    let mut received = String::new();
    while opened.elapsed() < Duration::from_secs(6) {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "the stream ended after {:?}", opened.elapsed());
        received.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    assert!(received.contains("verdict-text"), "{received}");
    run.terminate();
    let _ = stream.read_to_string(&mut received);
}

#[test]
fn public_health_endpoints_serve_any_host() {
    let world = TestCloud::provisioned();
    let arguments = ["run", "--health", "0.0.0.0:0", "--health-public"];
    let mut run = BackgroundProgram::start(&mut world.device(&arguments));
    let address = run.wait_for("health")["address"].clone();
    let address = address.as_str().unwrap().replace("0.0.0.0", "127.0.0.1");
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nHost: device.example.com\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let request = b"GET /status/ HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let stderr = run.terminate();
    assert!(stderr.contains("no authentication"), "{stderr}");
}

#[test]
fn health_address_serves_only_allowed_callers() {
    let world = TestCloud::provisioned();
    for (range, is_served) in [("127.0.0.0/8", true), ("192.0.2.0/24", false)] {
        let arguments = ["run", "--health", "127.0.0.1:0", "--health-allow", range];
        let mut run = BackgroundProgram::start(&mut world.device(&arguments));
        let health = HealthClient::of(&mut run);
        let mut stream = TcpStream::connect(&health.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        // Either may fail with a connection that is closed already.
        let _ = stream.write_all(request);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert_eq!(answer.starts_with("HTTP/1.1 200 "), is_served, "{answer}");
        run.terminate();
    }
}

/// As an add-on of Home Assistant, whose Supervisor shows the page in a frame.
#[test]
fn public_health_address_has_status_page_if_wanted() {
    let world = TestCloud::provisioned();
    let forward = ["run", "--forward", "127.0.0.1:1"];
    let health = [
        "--health",
        "127.0.0.1:0",
        "--health-public",
        "--health-page",
    ];
    let arguments = [&forward[..], &health].concat();
    let mut run = BackgroundProgram::start(&mut world.device(&arguments));
    let health = HealthClient::of(&mut run);
    let host = world.device_status()["access_point"].clone();
    assert_eq!(health.json("/status/status.json").1["access_point"], host);
    assert_eq!(health.json("/healthz").0, 200);
    run.terminate();
}

#[test]
fn systemd_is_notified() {
    let world = TestCloud::provisioned();
    let path = world.home.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let hear = || {
        let mut message = [0; 1024];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length])
            .trim_end()
            .to_owned()
    };
    let mut command = world.device(&["run"]);
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "2000000");
    let mut run = BackgroundProgram::start(&mut command);
    assert_eq!(hear(), "READY=1");
    let mut notifications = Vec::new();
    while !(notifications
        .iter()
        .any(|line: &String| line.starts_with("STATUS=reachable at https://"))
        && notifications
            .iter()
            .filter(|line| *line == "WATCHDOG=1")
            .count()
            > 1)
    {
        notifications.push(hear());
    }
    assert!(
        notifications.contains(&"STATUS=online".to_owned()),
        "{notifications:?}"
    );
    run.terminate();
    let mut last = hear();
    while last != "STOPPING=1" {
        last = hear();
    }
}
