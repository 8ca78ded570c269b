//! `doctor` names each seeded fault: the step at which it finds it, and words of the cause.

use std::any::Any;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use reqwest::Method;
use serde_json::{Value, json};

use crate::common::background_program::BackgroundProgram;
use crate::common::check_results::CheckResults;
use crate::common::finish;
use crate::common::shifted_clock_api::ShiftedClockApi;
use crate::common::test_cloud::TestCloud;

/// Runs of `doctor` at the same time. Some wait for a time limit.
const AT_ONCE: usize = 4;

/// A device with a fault, and what is kept until `doctor` has ended.
struct Seeded {
    world: TestCloud,
    variables: Vec<(&'static str, String)>,
    _kept: Vec<Box<dyn Any>>,
}

/// A fault: its name, how to make it, the status and step that name it, and a part of the line.
struct Fault(
    &'static str,
    fn() -> Seeded,
    &'static str,
    &'static str,
    &'static str,
);

#[rustfmt::skip]
const FAULTS: [Fault; 28] = [
    Fault("API refuses connections", || variable("CLESYDE_API_URL", format!("http://{}", unused())), "failure", "api", "refused"),
    Fault("API is a web server without the path", || web_server("404 Not Found"), "failure", "api", "not as a Clesyde platform"),
    Fault("API is a web server with a page for every path", || web_server("200 OK"), "failure", "api", "the API's URL is wrong"),
    Fault("name of the API is unknown", || variable("CLESYDE_API_URL", "https://api.invalid".to_owned()), "failure", "name.api", "api.invalid"),
    Fault("clock is wrong", wrong_clock, "failure", "clock", "NTP"),
    Fault("name of the broker is unknown", || configured("iot_endpoint", "broker.invalid"), "failure", "name.broker", "broker.invalid"),
    Fault("name of the relay is unknown", || configured("remote_endpoint", "relay.invalid"), "failure", "name.relay", "relay.invalid"),
    Fault("broker refuses connections", || injected(json!({ "fault": "refuse_mqtt", "seconds": 600 })), "failure", "mqtt", "broker"),
    Fault("authority of the broker is unknown", foreign_roots, "failure", "mqtt", "iot_ca.pem"),
    Fault("broker does not know the device", foreign_certificate, "failure", "client_certificate", "--force"),
    Fault("broker grants no subscription", || injected(json!({ "fault": "withhold", "packet": "suback", "times": 0 })), "failure", "subscriptions", "subscri"),
    Fault("platform sends a malformed token", || injected(json!({ "fault": "token", "answer": "malformed", "times": 0 })), "failure", "token", "token"),
    Fault("relay does not know the token", || injected(json!({ "fault": "token", "answer": "foreign", "times": 0 })), "failure", "tunnel", "token"),
    Fault("relay refuses connections", || configured("remote_endpoint", &unused()), "failure", "tunnel", "refused"),
    Fault("certificate has expired", || certificate(|params| params.not_after = date_time_ymd(2020, 1, 1)), "failure", "certificate.remote", "expired on 2020-01-01"),
    Fault("certificate is not valid yet", || certificate(|params| params.not_before = date_time_ymd(2199, 1, 1)), "failure", "certificate.remote", "set the clock"),
    Fault("certificate expires soon", expiring_certificate, "warning", "certificate.remote", "day"),
    Fault("key is readable for others", readable_key, "warning", "files", "644"),
    Fault("key does not match", || copied("remote_key.pem", "iot_key.pem"), "failure", "certificate.iot", "key"),
    Fault("key is missing", || removed("remote_key.pem"), "failure", "files", "remote_key.pem"),
    Fault("configuration is damaged", || written("cloud_config.json", "{"), "failure", "files", "cloud_config.json"),
    Fault("certificate is damaged", || written("iot_cert.pem", "no certificate"), "failure", "files", "iot_cert.pem"),
    Fault("replacement was interrupted", interrupted_replacement, "warning", "files", "clesyde-cloud run"),
    Fault("proxy refuses connections", || variable("CLESYDE_PROXY", format!("http://{}", unused())), "failure", "client_certificate", "through the proxy"),
    Fault("application is not there", || forwarding(unused(), Vec::new()), "failure", "page", "does not answer"),
    Fault("Home Assistant does not trust the device", || answering_400(HOME_ASSISTANT), "failure", "page", "trusted_proxies: [\\\"127.0.0.1\\\"]"),
    Fault("application refuses requests", || answering_400("{}"), "warning", "page", "answers 400"),
    Fault("application sends nothing", silent_application, "failure", "page", "no response within"),
];

#[test]
fn each_seeded_fault_is_named() {
    let next = AtomicUsize::new(0);
    let unnamed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(fault) = FAULTS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if catch_unwind(AssertUnwindSafe(|| examine(fault))).is_err() {
                        unnamed.lock().unwrap().push(fault.0);
                    }
                }
            });
        }
    });
    assert_eq!(unnamed.into_inner().unwrap(), [""; 0]);
}

fn examine(Fault(_, seed, status, step, words): &Fault) {
    let seeded = seed();
    let roots = seeded.world.ready["ca_file"].as_str().unwrap();
    let mut command = seeded.world.device(&["doctor", "--ca-file", roots]);
    command.envs(seeded.variables.iter().map(|(name, value)| (name, value)));
    // Others may fail because of it.
    CheckResults::of(&finish(&mut command))
        .expect(status, &[step])
        .says(step, words);
}

fn seeded(world: TestCloud) -> Seeded {
    Seeded {
        world,
        variables: Vec::new(),
        _kept: Vec::new(),
    }
}

fn variable(name: &'static str, value: String) -> Seeded {
    Seeded {
        variables: vec![(name, value)],
        ..seeded(TestCloud::provisioned())
    }
}

fn unused() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("localhost:{}", listener.local_addr().unwrap().port())
}

/// With a value in `cloud_config.json`.
fn configured(key: &str, value: &str) -> Seeded {
    let world = TestCloud::provisioned();
    let path = world.config().join("cloud_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value.into();
    fs::write(path, config.to_string()).unwrap();
    seeded(world)
}

/// With a fault of the simulator.
fn injected(fault: Value) -> Seeded {
    let world = TestCloud::provisioned();
    world.control(Method::POST, "/faults", Some(fault));
    seeded(world)
}

/// With an address of the API where a web server answers everything with a page.
fn web_server(status: &'static str) -> Seeded {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // Ends with the test's process.
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let page = "<h1>welcome</h1>";
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
                page.len()
            );
        }
    });
    variable("CLESYDE_API_URL", url)
}

fn wrong_clock() -> Seeded {
    let world = TestCloud::provisioned();
    let api = world.ready["api_url"].as_str().unwrap();
    let shifted = ShiftedClockApi::start(api, "Wed, 01 Jan 2020 00:00:00 GMT");
    Seeded {
        variables: vec![("CLESYDE_API_URL", shifted.url().to_owned())],
        _kept: vec![Box::new(shifted)],
        world,
    }
}

/// With files of a device of another platform.
fn with_foreign(files: &[&str]) -> Seeded {
    let (world, other) = (TestCloud::provisioned(), TestCloud::provisioned());
    for file in files {
        fs::copy(other.config().join(file), world.config().join(file)).unwrap();
    }
    seeded(world)
}

fn foreign_roots() -> Seeded {
    with_foreign(&["iot_ca.pem"])
}

fn foreign_certificate() -> Seeded {
    with_foreign(&["iot_cert.pem", "iot_key.pem"])
}

fn certificate(change: fn(&mut CertificateParams)) -> Seeded {
    let world = TestCloud::provisioned();
    let name = world.device_status()["access_point"].clone();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([name.as_str().unwrap().to_owned()]).unwrap();
    change(&mut params);
    let certificate = params.self_signed(&key).unwrap();
    fs::write(world.config().join("remote_cert.pem"), certificate.pem()).unwrap();
    fs::write(world.config().join("remote_key.pem"), key.serialize_pem()).unwrap();
    seeded(world)
}

fn expiring_certificate() -> Seeded {
    certificate(|params| {
        params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(5);
    })
}

fn readable_key() -> Seeded {
    let world = TestCloud::provisioned();
    let key = world.config().join("iot_key.pem");
    fs::set_permissions(key, Permissions::from_mode(0o644)).unwrap();
    seeded(world)
}

fn copied(from: &str, to: &str) -> Seeded {
    let world = TestCloud::provisioned();
    fs::copy(world.config().join(from), world.config().join(to)).unwrap();
    seeded(world)
}

fn removed(file: &str) -> Seeded {
    let world = TestCloud::provisioned();
    fs::remove_file(world.config().join(file)).unwrap();
    seeded(world)
}

fn written(file: &str, content: &str) -> Seeded {
    let world = TestCloud::provisioned();
    fs::write(world.config().join(file), content).unwrap();
    seeded(world)
}

fn interrupted_replacement() -> Seeded {
    let world = TestCloud::provisioned();
    let committed = world.config().join(".committed");
    fs::create_dir(&committed).unwrap();
    let key = world.config().join("remote_key.pem");
    fs::rename(key, committed.join("remote_key.pem")).unwrap();
    seeded(world)
}

/// With an instance that forwards to this address.
fn forwarding(address: String, mut kept: Vec<Box<dyn Any>>) -> Seeded {
    let world = TestCloud::provisioned();
    let mut run = BackgroundProgram::start(&mut world.device(&["run", "--forward", &address]));
    run.wait_for("remote.connected");
    kept.push(Box::new(run));
    Seeded {
        _kept: kept,
        ..seeded(world)
    }
}

fn silent_application() -> Seeded {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    forwarding(address, vec![Box::new(listener)])
}

const HOME_ASSISTANT: &str = r#"{"name":"Home Assistant","start_url":"/?homescreen=1"}"#;

/// With an application that has this manifest, and answers 400 to a request of a proxy.
fn answering_400(manifest: &'static str) -> Seeded {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // Ends with the process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = Vec::new();
            for line in BufReader::new(&stream).lines() {
                match line {
                    Ok(line) if !line.is_empty() => lines.push(line.to_ascii_lowercase()),
                    _ => break,
                }
            }
            let is_forwarded = lines
                .iter()
                .any(|line| line.starts_with("x-forwarded-for:"));
            let (status, body) = match is_forwarded {
                true => ("400 Bad Request", "400: Bad Request"),
                false => ("200 OK", manifest),
            };
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
    });
    forwarding(address, Vec::new())
}
