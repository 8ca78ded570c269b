//! The life cycle of a device through the program: `sim` in one process, `provision`, `run` and
//! `reset` in others.

use std::fs;
use std::process::Command;

use reqwest::Method;
use serde_json::Value;
use tempfile::tempdir;
use testkit::pki::Pair;

use crate::common::background_program::BackgroundProgram;
use crate::common::test_cloud::{SN, TestCloud};
use crate::common::{finish, finish_with_input, program};

#[test]
fn device_is_provisioned_connects_rotates_and_is_reset() {
    let mut world = TestCloud::new();

    let provisioned = world.provision(&[]).expect(0).json();
    assert_eq!(provisioned[0]["event"], "provisioned");
    let before = world.certificates();
    assert_eq!(
        (
            &before["iot"]["key_matches"],
            &before["remote"]["key_matches"]
        ),
        (&true.into(), &true.into())
    );

    // At the most verbose level, to verify that no secret is logged.
    let mut run = BackgroundProgram::start(&mut world.device(&["run", "-vv"]));
    run.wait_for("iot.connected");
    assert!(run.wait_for("remote.token")["valid"].as_i64().unwrap() > 1_700_000_000);
    let url = run.wait_for("remote.connected")["url"]
        .as_str()
        .unwrap()
        .to_owned();
    let status = world.device_status();
    assert_eq!(
        (&status["online"], &status["tunnel"]),
        (&true.into(), &true.into()),
        "{status}"
    );
    // With the relay's port, which is not the default.
    let (_, port) = world.ready["relay"]
        .as_str()
        .unwrap()
        .rsplit_once(':')
        .unwrap();
    let access_point = status["access_point"].as_str().unwrap();
    assert_eq!(url, format!("https://{access_point}:{port}/"));
    assert_eq!(provisioned[0]["url"], url);

    let live = finish(&mut world.device(&["status"]))
        .expect(0)
        .json()
        .remove(0);
    assert_eq!(
        (&live["iot_connected"], &live["remote_connected"]),
        (&true.into(), &true.into()),
        "{live}"
    );
    assert_eq!(live["pid"], run.pid());
    assert_eq!(live["url"], url);

    // A second instance on the same directory is refused, and names the process.
    let pid = run.pid().to_string();
    finish(&mut world.device(&["run"]))
        .expect(1)
        .says(&["in use", &pid]);
    finish(&mut world.device(&["reset", "--yes"]))
        .expect(1)
        .says(&["in use", &pid]);

    let wanted = world.control(Method::POST, &format!("/devices/{SN}/rotate"), None);
    let rotated = run.wait_for("remote.certificate");
    assert_eq!(rotated["serial"], wanted["serial"]);
    let after = world.certificates();
    assert_eq!(after["remote"]["serial"], wanted["serial"]);
    assert_ne!(after["remote"]["serial"], before["remote"]["serial"]);
    assert_eq!(after["iot"], before["iot"]);

    world.control(Method::POST, "/broadcast", Some("hello".into()));
    let message = run.wait_for("platform.message");
    assert_eq!(
        (&message["topic"], &message["payload"]),
        (&"c/platform".into(), &"\"hello\"".into())
    );

    let stderr = run.terminate();
    let idle = finish(&mut world.device(&["status"]))
        .expect(0)
        .json()
        .remove(0);
    assert_eq!(
        (&idle["provisioned"], &idle["sn"]),
        (&true.into(), &SN.into())
    );
    assert_eq!(
        (&idle["iot_connected"], &idle["remote_connected"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(run.events().last(), Some(&"stopped"));
    assert_eq!(run.events()[..2], ["initialized", "iot.connected"]);
    assert!(!stderr.is_empty() && !stderr.contains("PRIVATE KEY") && !stderr.contains(world.key()));
    for file in ["iot_key.pem", "remote_key.pem"] {
        let pem = fs::read_to_string(world.config().join(file)).unwrap();
        for line in pem.lines().filter(|line| !line.starts_with('-')) {
            assert!(!stderr.contains(line), "a line of {file} is in the log");
        }
    }
    world.wait_for_history(&["ONLINE", "OFFLINE"]);

    assert_eq!(
        finish(&mut world.device(&["reset", "--yes"]))
            .expect(0)
            .json()[0]["removed"],
        true
    );
    assert!(!world.config().exists());
    finish(&mut world.device(&["run"]))
        .expect(3)
        .says(&["not provisioned"]);
    world.sim.interrupt();
}

#[test]
fn key_comes_from_file_stdin_or_environment_and_is_redacted() {
    let world = TestCloud::new();
    let mut piped = world.device(&["provision", "--token-file", "-", "-vv"]);
    piped
        .env("CLESYDE_SN", "SN-0002")
        .env("CLESYDE_BASE_PATH", world.home.path().join("other"));
    let ended = finish_with_input(&mut piped, &format!("{}\n", world.key())).expect(0);
    assert!(!ended.stderr.contains(world.key()) && !ended.stdout.contains(world.key()));

    let file = world.home.path().join("key");
    fs::write(&file, world.key()).unwrap();
    finish(&mut world.device(&["provision", "--token-file", file.to_str().unwrap()])).expect(0);
    assert_eq!(
        world.provision(&[]).expect(0).json()[0]["event"],
        "already_provisioned"
    );
}

#[test]
fn invalid_key_sends_and_stores_nothing() {
    let world = TestCloud::new();
    let empty = world.home.path().join("empty");
    fs::write(&empty, "\n").unwrap();
    let missing = world.home.path().join("missing");
    for file in [&empty, &missing] {
        let file = file.to_str().unwrap();
        finish(&mut world.device(&["provision", "--token-file", file]))
            .expect(1)
            .says(&[file, "nothing was sent"]);
    }
    finish(&mut world.device(&["provision"]))
        .expect(1)
        .says(&["CLESYDE_TOKEN", "--token-file"]);
    let ended = finish(
        world
            .device(&["provision"])
            .env("CLESYDE_TOKEN", "wrong-key-1234"),
    )
    .expect(1);
    let ended = ended.says(&[world.ready["api_url"].as_str().unwrap()]);
    assert!(!ended.stderr.contains("wrong-key-1234"), "{}", ended.stderr);
    assert_eq!(
        world.control(Method::GET, "/devices", None),
        serde_json::json!([])
    );
    finish(&mut world.device(&["cert", "show"])).expect(3);
}

#[test]
fn force_keeps_old_configuration_until_registered() {
    let world = TestCloud::provisioned();
    let before = world.certificates();
    // The platform has registered the device already, so it refuses; the stored configuration
    // stays.
    world.provision(&["--force"]).expect(1);
    assert_eq!(world.certificates(), before);
    world.control(Method::DELETE, &format!("/devices/{SN}"), None);
    assert_eq!(
        world.provision(&["--force"]).expect(0).json()[0]["event"],
        "provisioned"
    );
    assert_ne!(
        world.certificates()["iot"]["serial"],
        before["iot"]["serial"]
    );
}

/// Another program, which ignores the journal, stores a newer pair after `provision --force` was
/// killed.
#[test]
fn newer_pair_survives_a_killed_provision_force() {
    let world = TestCloud::provisioned();
    world.control(Method::DELETE, &format!("/devices/{SN}"), None);
    let provision = world.device(&["provision", "--force"]);
    let mut traced = Command::new("strace");
    traced
        .args(["-f", "-qq", "-o", "trace"])
        .args(["-e", "trace=?rename,renameat,renameat2"])
        .args([
            "-e",
            "inject=?rename,renameat,renameat2:signal=SIGKILL:when=2",
        ])
        .arg(provision.get_program())
        .args(provision.get_args())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(
            provision
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .env("CLESYDE_TOKEN", world.key())
        .current_dir(world.home.path());
    let committed = world.config().join(".committed");
    if traced.output().is_err() || !committed.exists() {
        println!("not run: strace is not there, or may not trace");
        assert!(std::env::var_os("CI").is_none(), "CI must run this");
        return;
    }
    let made = Pair::self_signed("newest.example");
    let newest = [
        ("remote_cert.pem", made.certificate),
        ("remote_key.pem", made.key),
    ];
    for (file, text) in &newest {
        fs::write(world.config().join(file), text).unwrap();
    }
    let survives = || {
        newest
            .iter()
            .all(|(file, text)| fs::read_to_string(world.config().join(file)).unwrap() == *text)
    };

    for command in ["status", "cert"] {
        let arguments: &[&str] = if command == "cert" {
            &["cert", "show"]
        } else {
            &[command]
        };
        finish(&mut world.device(arguments)).expect(0);
        assert!(survives() && committed.exists(), "{command} changed it");
    }
    assert_eq!(world.certificates()["remote"]["names"][0], "newest.example");
    let mut run = BackgroundProgram::start(&mut world.device(&["run"]));
    run.wait_for("initialized");
    assert!(survives(), "a start put the old pair in its place");
    assert!(!committed.exists());
    assert!(run.terminate().contains("newer files"));
}

#[test]
fn unreachable_api_is_exit_1_and_named() {
    let home = tempdir().unwrap();
    let unused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{unused}");
    let ended = finish(
        program(&home)
            .args([
                "provision",
                "--sn",
                SN,
                "--api-url",
                &url,
                "--base-path",
                "base",
            ])
            .env("CLESYDE_TOKEN", "key"),
    );
    ended.expect(1).says(&[&url]);
}

#[test]
fn stop_cancels_reconnect_delay() {
    let mut world = TestCloud::provisioned();
    world.sim.terminate();
    let mut run = BackgroundProgram::start(&mut world.device(&["run"]));
    assert!(
        run.wait_for("iot.disconnected")["retry_in"]
            .as_f64()
            .unwrap()
            > 0.0
    );
    run.interrupt();
    assert_eq!(run.events().last(), Some(&"stopped"));
}

#[test]
fn damaged_remote_certificate_is_reported_and_replaced() {
    let world = TestCloud::provisioned();
    let mut run = BackgroundProgram::start(&mut world.device(&["run"]));
    run.wait_for("remote.connected");
    world.wait_until_reported();
    run.terminate();
    let before = world.certificates();
    let cert = world.config().join("remote_cert.pem");
    fs::write(&cert, "-----BEGIN CERTIFICATE-----\nMIIB").unwrap();

    // The exit code and the JSON line say the same.
    let idle = finish(&mut world.device(&["status"]))
        .expect(1)
        .says(&["remote access cannot run", "remote_cert.pem"])
        .json();
    assert_eq!(idle[0]["remote_not_after"], Value::Null);
    assert_eq!(idle[0]["iot_not_after"], before["iot"]["not_after"]);
    assert_eq!(idle[0]["can_run"], false);
    let problem = idle[0]["problems"][0].as_str().unwrap();
    assert!(problem.contains("remote_cert.pem"), "{problem}");
    finish(&mut world.device(&["provision"]))
        .expect(0)
        .says(&["remote_cert.pem"]);
    let mut show = program(&world.home);
    let base = world.base();
    show.args(["cert", "show", "--base-path", base.to_str().unwrap()]);
    let shown = finish(&mut show).expect(1).says(&["remote_cert.pem"]);
    assert!(shown.stdout.contains("for messaging"), "{}", shown.stdout);
    let report = ["shadow", "report", "{\"a\": 1}"];
    finish(&mut world.device(&report)).expect(0);

    let mut run = BackgroundProgram::start(&mut world.device(&["run"]));
    let down = run.wait_for("remote.disconnected");
    let reason = down["reason"].as_str().unwrap();
    assert!(reason.contains("remote_cert.pem"), "{reason}");
    run.wait_for("iot.connected");
    let serial = run.wait_for("remote.certificate")["serial"].clone();
    assert_eq!(serial, before["remote"]["serial"]);
    run.wait_for("remote.connected");
    assert!(run.terminate().contains("remote_cert.pem"));
    assert_eq!(world.certificates(), before);
    let sound = finish(&mut world.device(&["status"])).expect(0).json();
    assert_eq!(sound[0]["can_run"], true);
    assert_eq!(sound[0]["problems"], Value::Array(Vec::new()));

    // The files that messaging needs.
    fs::write(world.config().join("iot_cert.pem"), "").unwrap();
    let damaged = finish(&mut world.device(&["status"]))
        .expect(1)
        .says(&["iot_cert.pem"])
        .json();
    assert_eq!(damaged[0]["provisioned"], true);
    assert_eq!(damaged[0]["can_run"], false);
}

#[test]
fn faults_match_help_text() {
    let world = TestCloud::provisioned();
    let help = finish(program(&world.home).args(["sim", "--help"]))
        .expect(0)
        .stdout;
    let faults: Vec<Value> = help
        .lines()
        .filter_map(|line| {
            let start = line.find("{\"fault\"")?;
            serde_json::Deserializer::from_str(&line[start..])
                .into_iter()
                .next()
                .unwrap()
                .ok()
        })
        .collect();
    assert_eq!(faults.len(), 9, "{faults:#?}");
    for mut fault in faults {
        if fault.get("sn").is_some() {
            fault["sn"] = SN.into();
        }
        world.control(Method::POST, "/faults", Some(fault));
    }
}
