//! The control socket of `run`: commands and other programs beside a running instance.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;
use std::{fs, thread};

use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::mqtt::{Granted, ScriptedBroker};
use testkit::wait::block_until;

use crate::common::background_program::BackgroundProgram;
use crate::common::finish;
use crate::common::test_cloud::{SN, TestCloud};

/// Interval after which a platform's message is sent again.
const AGAIN: Duration = Duration::from_millis(50);

/// Time limit for a response; generous for a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);

fn socket(world: &TestCloud) -> PathBuf {
    world.base().join("clesyde-cloud.sock")
}

/// Sends a request, and returns the status and the body.
fn call(world: &TestCloud, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut stream = open(world, method, path, body);
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {response}"));
    (status, body)
}

/// Sends a request.
fn open(world: &TestCloud, method: &str, path: &str, body: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket(world)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream
}

fn running(world: &TestCloud) -> BackgroundProgram {
    let mut run = BackgroundProgram::start(&mut world.device(&["run"]));
    run.wait_for("remote.connected");
    run
}

fn note() -> String {
    format!("c/d/{SN}/note")
}

#[test]
fn commands_use_running_instance() {
    let world = TestCloud::provisioned();
    let mut run = running(&world);
    let topic = note();
    let mut subscribe =
        BackgroundProgram::start(&mut world.device(&["subscribe", &topic, "--count", "2"]));
    subscribe.wait_for("subscribed");
    let published = finish(&mut world.device(&[
        "publish",
        &topic,
        "21.5",
        "--content-type",
        "text/plain",
        "--response-topic",
        "a/b",
        "--correlation-data",
        "AP8=",
        "--user-property",
        "unit=°C",
        "--user-property",
        "unit=K",
        "--expires-in",
        "60",
    ]))
    .expect(0)
    .json();
    assert_eq!(published, [json!({ "event": "published", "topic": topic })]);
    let mut message = subscribe.wait_for("message");
    message.as_object_mut().unwrap().remove("ts").unwrap();
    let expected = json!({
        "event": "message", "topic": topic, "payload": "21.5", "qos": 1, "retain": false,
        "content_type": "text/plain", "response_topic": "a/b", "correlation_data": "AP8=",
        "user_properties": [["unit", "°C"], ["unit", "K"]],
    });
    assert_eq!(message, expected);
    let queued = finish(&mut world.device(&["publish", &topic, "x", "--wait", "queued"]));
    assert_eq!(queued.expect(0).json()[0]["event"], "queued");
    assert_eq!(subscribe.wait_for("message")["payload"], "x");
    assert_eq!(subscribe.wait().0, Some(0));

    let answer = || {
        let path = format!("/devices/{SN}/actions/weather");
        world.control(Method::POST, &path, Some(json!({ "sun": true })));
    };
    let mut request = BackgroundProgram::start(&mut world.device(&["request", "weather", "{}"]));
    let line = request.wait_for_doing("answer", AGAIN, answer);
    assert_eq!(line["answer"], json!({ "sun": true }));

    for name in ["config", "light"] {
        let shadow = |arguments: &[&str]| {
            finish(&mut world.device(&[&["shadow", "--name", name], arguments].concat()))
        };
        let reported = shadow(&["report", r#"{"on":true}"#]).expect(0).json();
        assert_eq!(reported[0]["event"], "reported");
        assert_eq!(shadow(&["get"]).expect(0).json()[0]["reported"]["on"], true);
    }
    let mut watch = BackgroundProgram::start(&mut world.device(&["shadow", "watch"]));
    let desired = format!("/devices/{SN}/shadow/desired");
    let change = || {
        world.control(Method::PUT, &desired, Some(json!({ "firmware": "1.3.0" })));
    };
    let delta = watch.wait_for_doing("shadow.delta", AGAIN, change);
    assert_eq!(delta["state"]["firmware"], "1.3.0");
    watch.interrupt();

    let mut events = BackgroundProgram::start(&mut world.device(&["events"]));
    let broadcast = || {
        world.control(Method::POST, "/broadcast", Some("hello".into()));
    };
    let event = events.wait_for_doing("platform.message", AGAIN, broadcast);
    let mut printed = loop {
        let line = run.wait_for("platform.message");
        if line["topic"] == event["topic"] {
            break line;
        }
    };
    for line in [&event, &printed] {
        assert!(line["ts"].is_string(), "{line}");
    }
    printed["ts"] = event["ts"].clone();
    assert_eq!(printed, event);
    // The stream ends with the instance, and so does the command.
    run.terminate();
    let (code, stderr) = events.wait();
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("the running instance has ended"),
        "{stderr}"
    );
    assert!(!socket(&world).exists());
    finish(&mut world.device(&["events"]))
        .expect(1)
        .says(&["no instance runs"]);
    assert!(!run.events().contains(&"iot.disconnected"));
}

#[test]
fn subscribe_without_instance_connects_for_itself() {
    let world = TestCloud::provisioned();
    let topic = note();
    let mut subscribe = BackgroundProgram::start(&mut world.device(&["subscribe", &topic]));
    subscribe.wait_for("subscribed");
    subscribe.interrupt();
    finish(&mut world.device(&["subscribe", "c/d/SN-0002/note"]))
        .expect(1)
        .says(&["c/d/SN-0002/note", "policy", "0x87"]);
    finish(&mut world.device(&["subscribe", "a/#/b"]))
        .expect(1)
        .says(&["#"]);
}

#[test]
fn errors_are_json_with_status_and_without_secrets() {
    let world = TestCloud::provisioned();
    let mut run = running(&world);
    let foreign = r#"{"topic":"c/d/SN-0002/x","payload":""}"#;
    for (method, path, body, status, code) in [
        ("GET", "/v2/status", "", 404, "unsupported_version"),
        ("GET", "/v1/nothing", "", 404, "not_found"),
        ("POST", "/v1/status", "", 405, "method_not_allowed"),
        ("GET", "/v1/subscribe", "", 400, "invalid_request"),
        (
            "GET",
            "/v1/subscribe?filter=a/%23/b",
            "",
            400,
            "invalid_request",
        ),
        ("POST", "/v1/publish", "{", 400, "invalid_request"),
        (
            "POST",
            "/v1/publish",
            r#"{"topic":"t"}"#,
            400,
            "invalid_request",
        ),
        (
            "POST",
            "/v1/publish",
            r#"{"topic":"t","base64":"?"}"#,
            400,
            "invalid_request",
        ),
        (
            "POST",
            "/v1/publish",
            r#"{"topic":"t","payload":"","qos":2}"#,
            400,
            "invalid_request",
        ),
        (
            "POST",
            "/v1/publish",
            r#"{"topic":"a/+","payload":""}"#,
            400,
            "invalid_topic",
        ),
        (
            "POST",
            "/v1/publish",
            r#"{"topic":"t","payload":"","wait":"stored"}"#,
            409,
            "no_outbox",
        ),
        ("POST", "/v1/publish", foreign, 403, "refused"),
        (
            "POST",
            "/v1/request",
            r#"{"action":"a/b"}"#,
            400,
            "invalid_request",
        ),
        (
            "POST",
            "/v1/request",
            r#"{"action":"remotetoken"}"#,
            403,
            "secret_action",
        ),
        ("GET", "/v1/actions/remotecr", "", 403, "secret_action"),
        ("GET", "/v1/actions/iotcr", "", 403, "secret_action"),
        ("POST", "/v1/actions/reboot/1", "", 404, "unknown_message"),
        ("GET", "/v1/shadow/light", "", 404, "no_shadow"),
        ("GET", "/v1/shadow/a.b", "", 400, "invalid_name"),
        ("POST", "/v1/shadow/config", "[]", 400, "invalid_request"),
        (
            "PUT",
            "/v1/access",
            r#"{"allow":["x"]}"#,
            400,
            "invalid_request",
        ),
        (
            "PUT",
            "/v1/access",
            r#"{"allowed":[]}"#,
            400,
            "invalid_request",
        ),
    ] {
        let (found, body) = call(&world, method, path, body);
        let error = &body["error"];
        assert_eq!(
            (found, &error["code"]),
            (status, &code.into()),
            "{path} {body}"
        );
        assert!(!error["message"].as_str().unwrap().is_empty(), "{body}");
    }
    let large = format!(r#"{{"topic":"t","payload":"{}"}}"#, "x".repeat(300_000));
    assert_eq!(call(&world, "POST", "/v1/publish", &large).0, 413);

    // A wildcard subscription does not deliver the platform's responses with secrets.
    let mut all = open(
        &world,
        "GET",
        &format!("/v1/subscribe?filter=c/d/{SN}/%23"),
        "",
    );
    let mut received = String::new();
    while !received.contains("subscribed") {
        received.push_str(&read_some(&mut all));
    }
    world.control(Method::POST, &format!("/devices/{SN}/rotate"), None);
    run.wait_for("remote.certificate");
    let publish = json!({ "topic": note(), "payload": "end of test" }).to_string();
    assert_eq!(call(&world, "POST", "/v1/publish", &publish).0, 200);
    while !received.contains("end of test") {
        received.push_str(&read_some(&mut all));
    }
    assert!(!received.contains("remotecr"), "{received}");
    run.terminate();
}

fn read_some(stream: &mut UnixStream) -> String {
    let mut buffer = [0; 4096];
    let read = stream.read(&mut buffer).unwrap();
    assert_ne!(read, 0, "the stream ended");
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}

#[test]
fn action_is_registered_answered_and_unregistered() {
    let world = TestCloud::provisioned();
    let mut run = running(&world);
    let mut answers = open(
        &world,
        "GET",
        &format!("/v1/subscribe?filter=c/d/{SN}/add/req"),
        "",
    );
    while !read_some(&mut answers).contains("subscribed") {}

    let mut stream = open(&world, "GET", "/v1/actions/add", "");
    while !read_some(&mut stream).contains("registered") {}
    let (status, body) = call(&world, "GET", "/v1/actions/add", "");
    assert_eq!(
        (status, &body["error"]["code"]),
        (409, &"registered".into())
    );

    let path = format!("/devices/{SN}/actions/add");
    world.control(Method::POST, &path, Some(json!([1, 2])));
    let mut lines = String::new();
    let message = loop {
        lines.push_str(&read_some(&mut stream));
        let found = lines.lines().find_map(|line| {
            let value = serde_json::from_str::<Value>(line).ok()?;
            (value["event"] == "action").then_some(value)
        });
        if let Some(message) = found {
            break message;
        }
    };
    assert_eq!(message["payload"], "[1,2]");
    let answer = format!("/v1/actions/add/{}", message["id"].as_str().unwrap());
    assert_eq!(call(&world, "POST", &answer, r#"{"sum":3}"#).0, 200);
    while !read_some(&mut answers).contains(r#"{\"sum\":3}"#) {}
    assert_eq!(call(&world, "POST", &answer, "{}").0, 404);

    drop(stream);
    block_until("the action is free", || {
        let mut again = open(&world, "GET", "/v1/actions/add", "");
        read_some(&mut again).contains("200 OK")
    });
    run.terminate();
}

#[test]
fn hanging_clients_delay_neither_others_nor_stop() {
    let world = TestCloud::provisioned();
    let mut run = running(&world);
    let mode = fs::metadata(socket(&world)).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    assert_eq!(mode.uid(), rustix::process::geteuid().as_raw());

    let streams: Vec<_> = (0..16)
        .map(|_| {
            let mut stream = open(&world, "GET", "/v1/events", "");
            assert!(read_some(&mut stream).contains("200 OK"));
            stream
        })
        .collect();
    assert!(call_any(&world, "/v1/events").contains("too_many"));
    let mut silent = Vec::new();
    let refused = loop {
        assert!(silent.len() < 200, "no connection is refused");
        silent.push(UnixStream::connect(socket(&world)).unwrap());
        let response = call_any(&world, "/v1/status");
        if response.contains("503") {
            break response;
        }
    };
    assert!(refused.contains("too_many"), "{refused}");
    drop(silent);
    block_until("a connection is free", || {
        call_any(&world, "/v1/status").contains("200 OK")
    });
    // Nobody reads the streams, whose sockets hold less than this.
    let large = Some(Value::from("x".repeat(60_000)));
    for _ in 0..20 {
        world.control(Method::POST, "/broadcast", large.clone());
        run.wait_for("platform.message");
    }
    run.terminate();
    drop(streams);
}

/// Sends a request, and returns the response, or the first bytes of a successful one.
fn call_any(world: &TestCloud, path: &str) -> String {
    let mut stream = UnixStream::connect(socket(world)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let _ = write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut response = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).unwrap_or_default();
        response.extend(&buffer[..read]);
        if read == 0 || response.starts_with(b"HTTP/1.1 200") {
            return String::from_utf8_lossy(&response).into_owned();
        }
    }
}

#[test]
fn access_rules_apply_to_new_connections() {
    let world = TestCloud::provisioned();
    let mut run = running(&world);
    let everyone = json!({ "allow": [], "deny": [], "unknown_callers": "by_rules" });
    assert_eq!(call(&world, "GET", "/v1/access", ""), (200, everyone));
    let none = json!({ "allow": ["192.0.2.1/32"], "deny": [], "unknown_callers": "deny" });
    let body = r#"{"allow":["192.0.2.1"],"unknown_callers":"deny"}"#;
    assert_eq!(call(&world, "PUT", "/v1/access", body), (200, none.clone()));
    assert_eq!(call(&world, "GET", "/v1/access", ""), (200, none));
    run.terminate();
}

#[test]
fn health_is_logged_at_interval() {
    let world = TestCloud::provisioned();
    let mut run = BackgroundProgram::start(&mut world.device(&["run", "--health-log", "1"]));
    run.wait_for("remote.connected");
    let is_logged = |text| {
        let (_, log) = call(&world, "GET", "/v1/log", "");
        log["log"].as_str().unwrap().contains(text)
    };
    block_until("a line", || is_logged("health: everything is connected"));
    for fault in [
        json!({ "fault": "refuse_mqtt", "seconds": 600 }),
        json!({ "fault": "drop_mqtt" }),
    ] {
        world.control(Method::POST, "/faults", Some(fault));
    }
    block_until("a warning", || is_logged("health: iot is not connected"));
    run.terminate();
    for bad in ["0", "-1", "often"] {
        finish(&mut world.device(&["run", "--health-log", bad])).expect(2);
    }
}

#[test]
fn runtime_directory_holds_socket_and_base_path_a_link() {
    let world = TestCloud::provisioned();
    let runtime = world.home.path().join("run");
    fs::create_dir(&runtime).unwrap();
    let mut command = world.device(&["run"]);
    let mut run = BackgroundProgram::start(command.env("RUNTIME_DIRECTORY", &runtime));
    run.wait_for("iot.connected");
    assert_eq!(
        fs::read_link(socket(&world)).unwrap(),
        runtime.join("clesyde-cloud.sock")
    );
    let status = finish(&mut world.device(&["status"])).expect(0).json();
    assert_eq!(status[0]["iot_connected"], true);
    run.terminate();
    assert_eq!(fs::read_dir(&runtime).unwrap().count(), 0);
    assert!(fs::symlink_metadata(socket(&world)).is_err());
}

/// Before the control socket, an instance wrote its status as one line.
#[test]
fn instance_of_older_program_is_named() {
    let world = TestCloud::provisioned();
    let listener = UnixListener::bind(socket(&world)).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(br#"{"pid":1,"iot_connected":true,"remote_connected":true}"#);
        }
    });
    for arguments in [&["publish", "t", "x"][..], &["shadow", "get"], &["events"]] {
        finish(&mut world.device(arguments))
            .expect(1)
            .says(&["another version", "restart it"]);
    }
}

#[test]
fn stored_messages_survive_kill_and_arrive_in_order() {
    let world = TestCloud::provisioned();
    // Nothing listens there.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let file = world.config().join("cloud_config.json");
    let mut document: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    document["iot_endpoint"] = format!("localhost:{port}").into();
    fs::write(&file, document.to_string()).unwrap();
    let outbox = world.home.path().join("outbox");
    let run = ["run", "--outbox", outbox.to_str().unwrap()];
    let mut first = BackgroundProgram::start(&mut world.device(&run));
    first.wait_for("iot.disconnected");
    let sent: Vec<String> = (0..20).map(|n| format!("message {n}")).collect();
    for payload in &sent {
        let arguments = ["publish", &note(), payload, "--wait", "stored"];
        let stored = finish(&mut world.device(&arguments)).expect(0).json();
        assert_eq!(stored[0]["event"], "stored");
    }
    first.signal(Signal::KILL);
    block_until("it is killed", || !first.is_running());

    let (sender, received) = channel();
    let broker = ScriptedBroker::start(move |_, request| {
        if let Granted::Publish { topic, payload } = request
            && topic == note()
        {
            let payload = String::from_utf8_lossy(payload).into_owned();
            let _ = sender.send(payload);
        }
        Ok(())
    });
    world.set_broker(&broker);
    let mut second = BackgroundProgram::start(&mut world.device(&run));
    let received: Vec<String> = (0..20)
        .map(|_| received.recv_timeout(LIMIT).unwrap())
        .collect();
    assert_eq!(received, sent);
    second.terminate();
}

/// Opens a stream of messages that the client acknowledges, and waits for the subscription.
fn held_stream(world: &TestCloud) -> BufReader<UnixStream> {
    let path = format!("/v1/subscribe?filter={}&ack=manual", note());
    let mut stream = BufReader::new(open(world, "GET", &path, ""));
    assert_eq!(next_line(&mut stream)["event"], "subscribed");
    stream
}

/// Returns the next line of a stream, which is a chunk of its own.
fn next_line(stream: &mut BufReader<UnixStream>) -> Value {
    loop {
        let mut line = String::new();
        assert_ne!(stream.read_line(&mut line).unwrap(), 0, "the stream ended");
        if line.starts_with('{') {
            return serde_json::from_str(&line).unwrap();
        }
    }
}

#[test]
fn unacknowledged_message_returns_to_next_stream_and_next_process() {
    let world = TestCloud::provisioned();
    let start = || {
        let arguments = ["run", "--session-expiry", "600"];
        let mut run = BackgroundProgram::start(&mut world.device(&arguments));
        run.wait_for("iot.connected");
        run
    };
    let publish = |payload: &str| {
        let body = json!({ "topic": note(), "payload": payload }).to_string();
        assert_eq!(call(&world, "POST", "/v1/publish", &body).0, 200);
    };
    let acknowledge = |message: &Value| {
        let body = json!({ "id": message["id"] }).to_string();
        call(&world, "POST", "/v1/ack", &body)
    };
    let expect = |stream: &mut BufReader<UnixStream>, payload: &str, redelivered: bool| {
        let message = next_line(stream);
        assert_eq!(message["payload"], payload, "{message}");
        assert_eq!(message["redelivered"], redelivered, "{message}");
        message
    };

    let mut run = start();
    let mut stream = held_stream(&world);
    publish("one");
    publish("two");
    let one = expect(&mut stream, "one", false);
    let two = expect(&mut stream, "two", false);
    assert_eq!(acknowledge(&one).0, 200);
    let (status, body) = acknowledge(&one);
    let code = &body["error"]["code"];
    assert_eq!((status, code), (404, &"unknown_message".into()));
    drop(stream);
    let mut stream = held_stream(&world);
    expect(&mut stream, "two", true);
    assert_eq!(acknowledge(&two).0, 404, "of the former stream");
    run.signal(Signal::KILL);
    block_until("it is killed", || !run.is_running());

    let mut run = start();
    let mut stream = held_stream(&world);
    let two = expect(&mut stream, "two", false);
    assert_eq!(acknowledge(&two).0, 200);
    publish("three");
    expect(&mut stream, "three", false);
    run.terminate();

    let mut run = start();
    let mut stream = held_stream(&world);
    let three = expect(&mut stream, "three", false);
    assert_eq!(acknowledge(&three).0, 200);
    publish("four");
    expect(&mut stream, "four", false);
    run.terminate();
}

#[test]
fn manual_acknowledgement_needs_session_and_quality_of_service_1() {
    let world = TestCloud::provisioned();
    let mut run = running(&world);
    for (path, status, code) in [
        ("/v1/subscribe?filter=a&ack=manual", 409, "no_session"),
        (
            "/v1/subscribe?filter=a&ack=manual&qos=0",
            400,
            "invalid_request",
        ),
        ("/v1/subscribe?filter=a&ack=x", 400, "invalid_request"),
    ] {
        let (found, body) = call(&world, "GET", path, "");
        assert_eq!((found, &body["error"]["code"]), (status, &code.into()));
    }
    run.terminate();
}

/// Every `sh` block of the documentation, with curl, and the client in Python.
#[test]
#[ignore = "needs curl and python3: `cargo xtask interop`"]
fn control_examples_of_documentation_run() {
    let world = TestCloud::provisioned();
    let arguments = ["run", "--session-expiry", "600"];
    let mut run = BackgroundProgram::start(&mut world.device(&arguments));
    run.wait_for("remote.connected");
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs");
    let text = fs::read_to_string(format!("{docs}/control-socket.md")).unwrap();
    let blocks: Vec<&str> = text
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(blocks.len() > 8, "{blocks:?}");
    let platform = Command::new("bash")
        .args(["-c", PLATFORM])
        .env("CONTROL", world.ready["control_url"].as_str().unwrap())
        .env("SOCKET", socket(&world))
        .env("SN", SN)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _platform = Killed(platform);
    for block in blocks {
        let mut shell = Command::new("bash");
        shell.args(["-euc", block]);
        let ended = finish(shell.env("SOCKET", socket(&world)).env("SN", SN)).expect(0);
        println!("{block}{}\n{}", ended.stdout, ended.stderr);
        assert_ne!(ended.stdout.trim(), "", "{block}");
    }
    let mut client = Command::new("python3");
    client.arg(format!("{docs}/examples/control_client.py"));
    let ended = finish(client.arg(socket(&world)).arg(SN)).expect(0);
    let lines: Vec<_> = ended.stdout.lines().collect();
    assert!(lines[0].starts_with("page: https://"), "{lines:?}");
    let received = r#"received: {"hello":"world"}"#;
    let rest = [
        "subscribed",
        received,
        "acknowledged",
        "reported: reported",
        "answered",
    ];
    assert_eq!(&lines[1..], rest);
    run.terminate();
}

/// What the platform and another program do meanwhile, again and again.
const PLATFORM: &str = r#"
while sleep 0.05; do
  curl -sS --json '"hello"' "$CONTROL/broadcast"
  for action in weather reboot add; do curl -sS --json '[1,2]' "$CONTROL/devices/$SN/actions/$action"; done
  curl -sS -X PUT --json '{"firmware":"1.3.0"}' "$CONTROL/devices/$SN/shadow/desired"
  curl -sS --unix-socket "$SOCKET" -d '{"topic":"c/d/'$SN'/note","payload":"x"}' http://localhost/v1/publish
done"#;

/// A process that ends with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
