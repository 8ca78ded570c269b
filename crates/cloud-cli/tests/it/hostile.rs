//! Peers that send terminal controls, or flood the log.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use reqwest::Method;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};
use tempfile::tempdir;
use testkit::mqtt::{BrokerConnection, Granted, ScriptedBroker};

use crate::common::captured_output::CapturedProgram;
use crate::common::public_caller::send_request;
use crate::common::test_cloud::{SN, TestCloud};
use crate::common::{ProgramOutput, finish, program};

/// ESC and C1 control sequences, BEL, DEL, BS, CR LF, bidirectional controls, and a line separator.
const HOSTILE: &str =
    "\u{1b}[2J\u{9b}2J\u{7}\u{7f}\u{8}\r\nINJECTED \u{202e}\u{2066}\u{61c}\u{2028}\u{85}end";

/// The same text as escaped by `UntrustedText`.
const ESCAPED: &str =
    r"\u{1b}[2J\u{9b}2J\u{7}\u{7f}\u{8}\r\nINJECTED \u{202e}\u{2066}\u{61c}\u{2028}\u{85}end";

/// Asserts that `text` has no raw controls, and no line that a peer has started.
#[track_caller]
fn assert_harmless(text: &str) {
    let raw: Vec<_> = text
        .chars()
        .filter(|character| {
            (character.is_control() && !matches!(character, '\n' | '\t'))
                || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        })
        .collect();
    assert!(raw.is_empty(), "{raw:?} in {text:?}");
    assert!(
        !text.lines().any(|line| line.starts_with("INJECTED")),
        "injected line: {text}"
    );
}

#[track_caller]
fn harmless(ended: ProgramOutput) -> ProgramOutput {
    assert_harmless(&ended.stdout);
    assert_harmless(&ended.stderr);
    ended
}

/// Responds to a request for the shadow with hostile messages, a rejection and a DISCONNECT.
fn send_hostile_text(link: &mut BrokerConnection, granted: Granted<'_>) -> std::io::Result<()> {
    let Granted::Publish { topic, payload } = granted else {
        return Ok(());
    };
    let Some(shadow) = topic.strip_suffix("/get") else {
        return Ok(());
    };
    let token = &serde_json::from_slice::<Value>(payload)?["clientToken"];
    link.publish(format!("c/d/{SN}/{HOSTILE}/res").as_bytes(), b"{}")?;
    link.publish(format!("{shadow}/{HOSTILE}").as_bytes(), b"{}")?;
    link.publish(b"c/platform", HOSTILE.as_bytes())?;
    let delta = json!({ "version": 1, "state": { HOSTILE: HOSTILE, "remoteCertSn": HOSTILE, "iotCertSn": HOSTILE } });
    link.publish(
        format!("{shadow}/update/delta").as_bytes(),
        delta.to_string().as_bytes(),
    )?;
    let refusal = json!({ "code": 403, "message": HOSTILE, "clientToken": token });
    link.publish(
        format!("{shadow}/get/rejected").as_bytes(),
        refusal.to_string().as_bytes(),
    )?;
    // 0x97: quota exceeded.
    link.disconnect(0x97, HOSTILE)
}

#[test]
fn broker_text_is_escaped_in_logs_and_events() {
    let world = TestCloud::provisioned();
    world.set_broker(&ScriptedBroker::start(send_hostile_text));
    for format in ["text", "json"] {
        let mut command = world.device(&["run", "-vv", "--log-format", format]);
        let mut run = CapturedProgram::start(&world.home, &mut command);
        run.wait_until("refusal and disconnection", |stdout, stderr| {
            stdout.contains("platform.message")
                && stdout.contains("shadow.delta")
                && stdout.contains("quota exceeded")
                && stderr.contains("refused the get: 403: ")
        });
        run.terminate();
        let (stdout, stderr) = (run.stdout(), run.stderr());
        assert_harmless(&stdout);
        assert_harmless(&stderr);
        let shown = match format {
            "text" => ESCAPED.to_owned(),
            _ => ESCAPED.replace('\\', r"\\"),
        };
        for line in [
            "the server disconnected: quota exceeded (0x97): ",
            "refused the get: 403: ",
        ] {
            assert!(
                stderr.contains(&format!("{line}{shown}")),
                "{line}: {stderr}"
            );
        }
        // JSON values are exact.
        let events: Vec<Value> = stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let of = |name: &str| events.iter().find(|event| event["event"] == name).unwrap();
        assert_eq!(of("shadow.delta")["state"][HOSTILE], HOSTILE);
        assert!(events.iter().any(|event| event["payload"] == HOSTILE));
        assert!(
            events
                .iter()
                .any(|event| event["topic"] == format!("c/d/{SN}/{HOSTILE}/res"))
        );
    }
}

#[test]
fn shadow_service_refusal_is_escaped() {
    let world = TestCloud::provisioned();
    world.set_broker(&ScriptedBroker::start(send_hostile_text));
    let refused = harmless(finish(&mut world.device(&["shadow", "get"])).expect(1));
    assert!(refused.stderr.contains(ESCAPED), "{}", refused.stderr);
}

#[test]
fn platform_values_are_escaped() {
    let world = TestCloud::provisioned();
    let device = |arguments: &[&str]| {
        let mut command = program(&world.home);
        command
            .args(arguments)
            .env("CLESYDE_BASE_PATH", world.base())
            .env("CLESYDE_SN", SN);
        command
    };
    let desired = json!({ HOSTILE: HOSTILE });
    let path = format!("/devices/{SN}/shadow/desired");
    world.control(Method::PUT, &path, Some(desired.clone()));
    let shown = harmless(finish(&mut device(&["shadow", "get"])).expect(0));
    let shadow: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shadow["desired"], desired);

    // The response to a request, as text and as JSON.
    for json in [false, true] {
        let mut command = device(&["request", "weather", "{}"]);
        if json {
            command.arg("--json");
        }
        let mut request = CapturedProgram::start(&world.home, &mut command);
        world.wait_until_online();
        let answer = || {
            let path = format!("/devices/{SN}/actions/weather");
            world.control(Method::POST, &path, Some(json!({ "sun": HOSTILE })));
        };
        request.wait_until("answer", |stdout, _| {
            answer();
            stdout.ends_with('\n')
        });
        let stdout = request.stdout();
        assert_harmless(&stdout);
        let value: Value = serde_json::from_str(&stdout).unwrap();
        let value = if json { &value["answer"] } else { &value };
        assert_eq!(value["sun"], HOSTILE);
    }

    // The names in a certificate.
    let mut params =
        rcgen::CertificateParams::new(["\u{1b}[2J\u{7f}\r\nINJECTED".to_owned()]).unwrap();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, HOSTILE);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    fs::write(world.config().join("remote_cert.pem"), certificate).unwrap();
    fs::write(world.config().join("remote_key.pem"), key.serialize_pem()).unwrap();
    let shown = harmless(finish(&mut device(&["cert", "show"])).expect(0));
    assert!(shown.stdout.contains("INJECTED"), "{}", shown.stdout);
    let shown = harmless(finish(&mut world.device(&["cert", "show"])).expect(0)).json();
    let subject = shown[0]["remote"]["subject"].as_str().unwrap();
    assert!(subject.contains("\u{1b}[2J"), "{subject:?}");
    let mut doctor = device(&[
        "doctor",
        "--api-url",
        world.ready["api_url"].as_str().unwrap(),
    ]);
    let found = harmless(finish(&mut doctor).expect(1));
    assert!(found.stdout.contains("INJECTED"), "{}", found.stdout);
}

/// An API with a hostile refusal, Location and reason phrase.
fn hostile_api() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let refusal = json!({ "registration": { "error": HOSTILE } }).to_string();
        // Bytes that HTTP allows in a reason phrase.
        let words = "\u{9b}2J\u{202e}INJECTED";
        let answers = [
            format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{refusal}",
                refusal.len()
            ),
            format!(
                "HTTP/1.1 302 {words}\r\nlocation: http://{words}/\r\ncontent-length: 0\r\n\r\n"
            ),
            format!("HTTP/1.1 418 {words}\r\ncontent-length: 0\r\n\r\n"),
        ];
        for (stream, answer) in listener.incoming().zip(answers) {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    url
}

#[test]
fn provisioning_api_text_is_escaped() {
    let (home, api) = (tempdir().unwrap(), hostile_api());
    let provision = || {
        let mut command = program(&home);
        command
            .args(["provision", "-vv", "--sn", SN, "--api-url", &api])
            .env("CLESYDE_TOKEN", "key");
        harmless(finish(&mut command).expect(1))
    };
    let refused = provision();
    assert!(refused.stderr.contains(ESCAPED), "{}", refused.stderr);
    let redirected = provision();
    assert!(
        redirected.stderr.contains(r"\u{202e}INJECTED"),
        "{}",
        redirected.stderr
    );
    provision().says(&["418"]);
}

#[test]
fn arguments_and_environment_are_escaped() {
    let home = tempdir().unwrap();
    let repeated = |command: &mut Command, code| {
        let ended = harmless(finish(command).expect(code));
        // A possible secret is redacted.
        let is_named = ended.stderr.contains("INJECTED") || ended.stderr.contains("not shown");
        assert!(is_named, "{}", ended.stderr);
    };
    for arguments in [
        &["status", "--sn", HOSTILE][..],
        &["status", "--api-url", HOSTILE],
        &["status", HOSTILE],
        &["status", &format!("--{HOSTILE}")],
        &[HOSTILE],
        &["run", "--forward", HOSTILE],
        &["request", HOSTILE, "{}"],
        &["sim", "--cipher", HOSTILE],
    ] {
        repeated(program(&home).args(arguments), 2);
    }
    repeated(program(&home).arg("status").env("CLESYDE_SN", HOSTILE), 2);
    repeated(program(&home).args(["status", "--base-path", HOSTILE]), 3);
}

/// A terminal, and the end that receives what is written to it.
fn terminal() -> (fs::File, fs::File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    (master.into(), slave)
}

/// On a terminal, log lines are coloured: a peer cannot imitate that either. At the most verbose
/// level.
#[test]
fn broker_text_is_escaped_on_a_terminal() {
    let world = TestCloud::provisioned();
    world.set_broker(&ScriptedBroker::start(send_hostile_text));
    let (mut master, slave) = terminal();
    let mut command = world.device(&["run"]);
    command
        .env("RUST_LOG", "trace")
        .env("TERM", "xterm")
        .stdout(fs::File::create(world.home.path().join("stdout")).unwrap())
        .stderr(slave);
    let mut run = command.spawn().unwrap();
    drop(command);
    let mut shown = String::new();
    let mut buffer = [0; 4096];
    while !(shown.contains("refused the get: 403: ") && shown.contains("quota exceeded")) {
        let length = master.read(&mut buffer).unwrap();
        assert!(length > 0, "{shown}");
        shown.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    run.kill().unwrap();
    run.wait().unwrap();

    // A terminal adds a carriage return to each line break.
    let shown = shown.replace("\r\n", "\n");
    let (complete, _) = shown.rsplit_once('\n').unwrap();
    let mut coloured = 0;
    for line in complete.lines() {
        // The time and the level.
        let rest = line.strip_prefix("\u{1b}[2m").map(|line| {
            let (time, rest) = line.split_once("\u{1b}[0m \u{1b}[3").unwrap();
            let (level, rest) = rest[2..].split_at(5);
            assert!(
                ["ERROR", " WARN", " INFO", "DEBUG", "TRACE"].contains(&level),
                "{line:?}"
            );
            coloured += 1;
            assert_harmless(time);
            rest.strip_prefix("\u{1b}[0m").unwrap()
        });
        assert_harmless(rest.unwrap_or(line));
    }
    assert!(coloured > 10, "{shown:?}");
}

/// Callers: hosts, targets, header names and values; and an application's response.
#[test]
fn text_of_callers_and_application_is_escaped() {
    let world = TestCloud::provisioned();
    let application = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = application.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for mut stream in application.incoming().map(Result::unwrap) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(format!("{HOSTILE}\r\n\r\n").as_bytes());
        }
    });
    for format in ["text", "json"] {
        let mut command = world.device(&["run", "--forward", &address, "--log-format", format]);
        command.env("RUST_LOG", "trace");
        let mut run = CapturedProgram::start(&world.home, &mut command);
        run.wait_until("tunnel", |stdout, _| stdout.contains("remote.connected"));
        let host = world.device_status()["access_point"].clone();
        let host = host.as_str().unwrap();
        let text = "\u{9b}2J\u{202e}INJECTED";
        for request in [
            format!("GET / HTTP/1.1\r\nHost: {text}.example\r\nConnection: close\r\n\r\n"),
            format!("GET /{HOSTILE} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
            format!("GET /{text} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
            format!("{HOSTILE} / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            format!(
                "GET / HTTP/1.1\r\nHost: {host}\r\n{text}: {text}\r\nConnection: close\r\n\r\n"
            ),
            format!(
                "GET / HTTP/1.1\r\nHost: {host}\r\nX-A: {text}\r\nUpgrade: {text}\r\nConnection: {text}\r\nConnection: close\r\n\r\n"
            ),
            // A refusal that is logged.
            "GET / HTTP/1.1\r\nHost: the-end.example\r\nConnection: close\r\n\r\n".to_owned(),
        ] {
            send_request(&world, request.as_bytes());
        }
        run.wait_until("refusal", |_, stderr| stderr.contains("the-end.example"));
        run.terminate();
        assert_harmless(&run.stdout());
        assert_harmless(&run.stderr());
    }
}

/// Names and serial numbers in the configuration, which the platform sent.
#[test]
fn damaged_configuration_is_escaped() {
    let world = TestCloud::provisioned();
    let path = world.config().join("cloud_config.json");
    let original: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for key in original.as_object().unwrap().keys() {
        let mut config = original.clone();
        config[key] = HOSTILE.into();
        fs::write(&path, config.to_string()).unwrap();
        for arguments in [&["status"][..], &["doctor"], &["cert", "show"]] {
            let mut command = program(&world.home);
            command
                .args(arguments)
                .env("RUST_LOG", "trace")
                .env("CLESYDE_BASE_PATH", world.base());
            let output = command.output().unwrap();
            assert_harmless(&String::from_utf8(output.stdout).unwrap());
            assert_harmless(&String::from_utf8(output.stderr).unwrap());
        }
    }
}

/// Sends junk on every topic that the device subscribes to.
fn flood(link: &mut BrokerConnection, granted: Granted<'_>) -> std::io::Result<()> {
    const EACH: usize = 3_000;
    let Granted::Publish { topic, .. } = granted else {
        return Ok(());
    };
    let Some(shadow) = topic.strip_suffix("/get") else {
        return Ok(());
    };
    for number in 0..EACH {
        for end in [
            "update/accepted",
            "get/accepted",
            "update/documents",
            "delete/accepted",
            "update/delta",
        ] {
            link.publish(format!("{shadow}/{end}").as_bytes(), b"junk")?;
        }
        // A valid delta with serial numbers that are invalid.
        let serial = format!("x{number}");
        let delta =
            json!({ "version": number, "state": { "remoteCertSn": serial, "iotCertSn": serial } });
        link.publish(
            format!("{shadow}/update/delta").as_bytes(),
            delta.to_string().as_bytes(),
        )?;
        link.publish(b"c/platform", b"junk")?;
        link.publish(format!("c/d/{SN}/remotetoken/res").as_bytes(), b"junk")?;
        link.publish(format!("c/d/{SN}/\u{9b}/res").as_bytes(), b"junk")?;
        link.publish(b"", b"junk")?;
    }
    // A busy device may drop some.
    for _ in 0..20 {
        link.publish(b"c/platform", b"the flood is over")?;
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

#[test]
fn flood_of_invalid_messages_logs_few_lines() {
    let world = TestCloud::provisioned();
    world.set_broker(&ScriptedBroker::start(flood));
    let mut run = CapturedProgram::start(&world.home, &mut world.device(&["run"]));
    run.wait_until("end of the flood", |stdout, _| {
        stdout.contains("the flood is over")
    });
    run.terminate();
    let stderr = run.stderr();
    let lines = stderr.lines().count();
    assert!(
        stderr.contains("unreadable shadow message"),
        "nothing was logged: {stderr}"
    );
    assert!(lines < 100, "{lines} lines: {stderr}");
}
