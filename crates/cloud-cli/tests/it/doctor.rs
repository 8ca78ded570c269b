//! `doctor` with a working path, and with each possible problem.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use reqwest::Method;
use serde_json::{Value, json};

use crate::common::background_program::BackgroundProgram;
use crate::common::check_results::{CheckResults, STEPS, examine};
use crate::common::shifted_clock_api::ShiftedClockApi;
use crate::common::test_cloud::{SN, TestCloud};
use crate::common::{finish, program};

/// Sets a value of `cloud_config.json`.
fn configure(world: &TestCloud, key: &str, value: &str) {
    let path = world.config().join("cloud_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config[key] = value.into();
    fs::write(path, config.to_string()).unwrap();
}

fn fault(world: &TestCloud, fault: Value) {
    world.control(Method::POST, "/faults", Some(fault));
}

#[test]
fn working_path_passes_every_step() {
    let world = TestCloud::provisioned();
    let found = examine(&world, 0);
    let others: Vec<_> = STEPS
        .into_iter()
        .filter(|step| *step != "mqtt.443")
        .collect();
    found.expect("ok", &others).expect("skipped", &["mqtt.443"]);
    world.wait_for_history(&["ONLINE", "OFFLINE"]);

    // The text form, without the page's private authority: a warning.
    let mut command = program(&world.home);
    command.arg("doctor").env("CLESYDE_BASE_PATH", world.base());
    let text = finish(&mut command).expect(0).stdout;
    assert!(text.contains("\nok       tunnel "), "{text}");
    assert!(text.contains("\nwarning  page "), "{text}");
    assert!(text.contains("\nskipped  api "), "{text}");
    assert!(
        text.ends_with("\nall checks passed, with one warning\n"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "no colours but on a terminal");
}

/// The same file as for `provision`, such as the system's bundle.
#[test]
fn ca_file_may_be_bundle_and_wrong_file_is_named() {
    let world = TestCloud::provisioned();
    let root = fs::read_to_string(world.ready["ca_file"].as_str().unwrap()).unwrap();
    let file = world.home.path().join("roots.pem");
    let path = file.to_str().unwrap();
    fs::write(&file, root.repeat(200)).unwrap();
    let doctor = || finish(&mut world.device(&["doctor", "--ca-file", path]));
    CheckResults::of(&doctor().expect(0)).expect("ok", &["page"]);
    for wrong in ["hello", &root[..100]] {
        fs::write(&file, wrong).unwrap();
        doctor().expect(1).says(&[path]);
        world
            .provision(&["--force", "--ca-file", path])
            .expect(1)
            .says(&[path]);
    }
}

#[test]
fn running_instance_is_queried_and_not_disturbed() {
    let world = TestCloud::provisioned();
    let mut run = BackgroundProgram::start(&mut world.device(&["run"]));
    run.wait_for("remote.connected");
    let found = examine(&world, 0);
    let live = ["client_certificate", "subscriptions", "token", "tunnel"];
    found.expect("ok", &live).expect("ok", &["page"]);
    let pid = format!("process {}", run.pid());
    found.says("tunnel", &pid);
    run.terminate();
    assert!(!run.events().contains(&"iot.disconnected"));
    world.wait_for_history(&["ONLINE", "OFFLINE"]);

    // An instance without a status socket is not disturbed either.
    let mut watch = BackgroundProgram::start(&mut world.device(&["shadow", "watch"]));
    world.wait_until_online();
    let found = examine(&world, 0);
    found
        .expect("warning", &live[..1])
        .expect("skipped", &live[1..])
        .expect("skipped", &["page"]);
    found.says("client_certificate", &format!("process {}", watch.pid()));
    let status = finish(&mut world.device(&["status"])).expect(0).json();
    assert_eq!(status[0]["pid"], watch.pid());
    assert_eq!(status[0]["iot_connected"], Value::Null);
    watch.interrupt();
}

#[test]
fn unprovisioned_device_gets_network_checks() {
    let world = TestCloud::new();
    let ended = finish(&mut world.device(&["doctor"])).expect(3);
    let ended = ended.says(&["not provisioned", "clesyde-cloud provision"]);
    let found = CheckResults::of(&ended);
    found.failed(&["files"]).expect("ok", &["api", "clock"]);
    found.expect("skipped", &["mqtt", "token", "page"]);
    assert!(!world.base().exists(), "looking makes no directory");
}

#[test]
fn unreachable_api_and_clock_skew_are_reported() {
    let world = TestCloud::provisioned();
    let at = |url: &str, code| {
        let mut command = world.device(&["doctor"]);
        CheckResults::of(&finish(command.env("CLESYDE_API_URL", url)).expect(code))
    };
    let unused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let found = at(&format!("http://{unused}"), 1);
    found.failed(&["api"]).expect("skipped", &["clock"]);
    found
        .says("api", &unused.to_string())
        .expect("ok", &["tunnel"]);

    let api = world.ready["api_url"].as_str().unwrap();
    let other = ShiftedClockApi::start(api, "Wed, 01 Jan 2020 00:00:00 GMT");
    let found = at(other.url(), 1);
    found
        .failed(&["clock"])
        .says("clock", " fast")
        .says("clock", "NTP");
}

#[test]
fn unreachable_broker_is_reported() {
    let world = TestCloud::provisioned();
    fault(&world, json!({ "fault": "refuse_mqtt", "seconds": 600 }));
    let found = examine(&world, 1);
    found.failed(&["mqtt"]);
    let after = [
        "client_certificate",
        "subscriptions",
        "token",
        "tunnel",
        "page",
    ];
    found.expect("skipped", &after);
    fault(&world, json!({ "fault": "clear" }));
    configure(&world, "iot_endpoint", "no-such-broker.invalid");
    let found = examine(&world, 1);
    found
        .failed(&["name.broker"])
        .expect("skipped", &["mqtt", "mqtt.443"]);
    found
        .says("name.broker", "no-such-broker.invalid")
        .expect("skipped", &after);
}

#[test]
fn broker_with_unknown_issuer_is_reported() {
    let world = TestCloud::provisioned();
    let other = TestCloud::provisioned();
    let roots = |world: &TestCloud| world.config().join("iot_ca.pem");
    fs::copy(roots(&other), roots(&world)).unwrap();
    let found = examine(&world, 1);
    found
        .failed(&["mqtt"])
        .says("mqtt", "unknown CA")
        .says("mqtt", "iot_ca.pem");

    // The roots are right; the broker does not know the device.
    for file in ["iot_cert.pem", "iot_key.pem"] {
        fs::copy(world.config().join(file), other.config().join(file)).unwrap();
    }
    let found = examine(&other, 1);
    found
        .expect("ok", &["mqtt"])
        .failed(&["client_certificate"]);
    found
        .says("client_certificate", "certificate")
        .says("client_certificate", "--force");
}

#[test]
fn refused_subscription_is_reported() {
    let world = TestCloud::provisioned();
    fault(
        &world,
        json!({ "fault": "withhold", "packet": "suback", "times": 0 }),
    );
    let found = examine(&world, 1);
    found
        .expect("ok", &["client_certificate"])
        .failed(&["subscriptions"]);
    found.expect("skipped", &["token", "tunnel", "page"]);
}

#[test]
fn missing_token_and_unreachable_relay_are_reported() {
    let world = TestCloud::provisioned();
    fault(
        &world,
        json!({ "fault": "token", "answer": "malformed", "times": 0 }),
    );
    let found = examine(&world, 1);
    found
        .failed(&["token"])
        .expect("skipped", &["tunnel", "page"]);

    fault(&world, json!({ "fault": "clear" }));
    fault(
        &world,
        json!({ "fault": "token", "answer": "foreign", "times": 0 }),
    );
    let found = examine(&world, 1);
    found
        .failed(&["tunnel"])
        .says("tunnel", "token")
        .expect("skipped", &["page"]);

    fault(&world, json!({ "fault": "clear" }));
    let unused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    configure(
        &world,
        "remote_endpoint",
        &format!("localhost:{}", unused.port()),
    );
    let found = examine(&world, 1);
    found
        .failed(&["tunnel"])
        .says("tunnel", "refused")
        .expect("skipped", &["page"]);
}

#[test]
fn expired_or_expiring_certificate_is_reported() {
    let world = TestCloud::provisioned();
    let name = world.device_status()["access_point"]
        .as_str()
        .unwrap()
        .to_owned();
    let issue = |change: &dyn Fn(&mut CertificateParams)| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.clone()]).unwrap();
        change(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        fs::write(world.config().join("remote_cert.pem"), certificate.pem()).unwrap();
        fs::write(world.config().join("remote_key.pem"), key.serialize_pem()).unwrap();
    };
    issue(&|params| params.not_after = date_time_ymd(2020, 1, 1));
    let found = examine(&world, 1);
    found.failed(&["certificate.remote", "page"]);
    found
        .says("certificate.remote", "expired on 2020-01-01")
        .says("page", "xpired");

    issue(&|params| params.not_before = date_time_ymd(2199, 1, 1));
    let found = examine(&world, 1);
    found
        .failed(&["certificate.remote", "page"])
        .says("certificate.remote", "set the clock");

    let soon = time::OffsetDateTime::now_utc() + time::Duration::days(5);
    issue(&|params| params.not_after = soon);
    examine(&world, 1)
        .expect("warning", &["certificate.remote"])
        .failed(&["page"]);
}

#[test]
fn insecure_damaged_or_mismatched_files_are_reported() {
    let world = TestCloud::provisioned();
    let key = world.config().join("iot_key.pem");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let found = examine(&world, 0);
    found
        .expect("warning", &["files"])
        .says("files", "644")
        .says("files", "provision --force");
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    examine(&world, 0).expect("ok", &["files"]);

    fs::copy(world.config().join("remote_key.pem"), &key).unwrap();
    let found = examine(&world, 1);
    found
        .failed(&["files", "certificate.iot"])
        .says("files", "iot_");
    found
        .expect("ok", &["certificate.remote", "api"])
        .expect("skipped", &["mqtt", "page"]);

    fs::write(world.config().join("cloud_config.json"), "{").unwrap();
    examine(&world, 1).says("files", "cloud_config.json");
    assert_eq!(world.device_status()["sn"], SN);
}

#[test]
fn interrupted_replacement_is_a_warning() {
    let world = TestCloud::provisioned();
    let committed = world.config().join(".committed");
    fs::create_dir(&committed).unwrap();
    let pending = committed.join("remote_key.pem");
    fs::rename(world.config().join("remote_key.pem"), &pending).unwrap();
    examine(&world, 0)
        .expect("warning", &["files"])
        .expect("ok", &["certificate.remote"])
        .says("files", "clesyde-cloud run");
    // The later steps connect as the device, which locks the directory.
    assert!(!committed.exists());
    examine(&world, 0).expect("ok", &["files"]);
}

/// The platform can send it again, so the other steps are checked.
#[test]
fn damaged_remote_certificate_does_not_skip_other_steps() {
    let world = TestCloud::provisioned();
    fs::remove_file(world.config().join("remote_key.pem")).unwrap();
    let found = examine(&world, 1);
    found
        .failed(&["files", "certificate.remote"])
        .says("files", "remote_key.pem")
        .says("files", "clesyde-cloud run");
    found
        .expect("ok", &["certificate.iot", "mqtt", "subscriptions"])
        .expect("skipped", &["token", "tunnel", "page"]);
}

/// An archive for support, with and without a running instance.
#[test]
fn bundle_holds_results_and_no_secrets() {
    let world = TestCloud::provisioned();
    let path = world.home.path().join("device.tar.gz");
    let mut run = BackgroundProgram::start(&mut world.device(&["run", "--health", "127.0.0.1:0"]));
    let health = run.wait_for("health")["address"].clone();
    run.wait_for("remote.connected");
    let arguments = ["doctor", "--bundle", path.to_str().unwrap(), "--health"];
    let mut doctor = world.device(&[&arguments[..], &[health.as_str().unwrap()]].concat());
    let ended = finish(doctor.env("CLESYDE_TOKEN", world.key()));
    let checks = ended
        .json()
        .into_iter()
        .filter(|line| line["event"] == "check");
    let files = unpack(&path);
    let results: Vec<Value> = files["doctor.jsonl"]
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(results, checks.collect::<Vec<_>>());
    for (file, part) in [
        ("versions.json", env!("CARGO_PKG_VERSION")),
        ("config.json", "CLESYDE_API_URL"),
        ("instance-log.txt", "INFO cloud_"),
        ("status.json", "\"iot_connected\":true"),
        ("certificates.json", "\"sha256\""),
        ("files.txt", "100600 "),
        ("metrics.txt", "# TYPE clesyde_"),
    ] {
        assert!(files[file].contains(part), "{file}: {}", files[file]);
    }
    run.terminate();

    // Without an instance the device runs for the checks, and its log lines are there.
    finish(&mut world.device(&["doctor", "-v", "--bundle", path.to_str().unwrap()]));
    let stopped = unpack(&path);
    assert!(
        stopped["log.txt"].contains("INFO cloud_"),
        "{}",
        stopped["log.txt"]
    );
    assert!(!stopped.contains_key("metrics.txt") && !stopped.contains_key("instance-log.txt"));
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );

    let mut secrets = vec![world.key().to_owned()];
    for key in ["iot_key.pem", "remote_key.pem"] {
        let pem = fs::read_to_string(world.config().join(key)).unwrap();
        secrets.extend(pem.lines().map(str::to_owned));
    }
    for (name, text) in files.iter().chain(&stopped) {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{name} holds {secret}");
        }
    }

    // Where nothing is provisioned there is a bundle too.
    let empty = world.home.path().join("empty");
    let mut doctor = world.device(&["doctor", "--bundle", path.to_str().unwrap()]);
    finish(doctor.env("CLESYDE_BASE_PATH", empty)).expect(3);
    assert!(unpack(&path)["status.json"].contains("\"provisioned\":false"));
}

fn unpack(path: &Path) -> BTreeMap<String, String> {
    let file = fs::File::open(path).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let name = path.strip_prefix("clesyde-cloud").unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(name.to_str().unwrap().to_owned(), text);
    }
    files
}
