//! The application behind `--forward` in the signs of life: first line, log, events, `/readyz`,
//! `/metrics`, `status` and `doctor`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

use crate::common::background_program::BackgroundProgram;
use crate::common::captured_output::CapturedProgram;
use crate::common::check_results::examine;
use crate::common::finish;
use crate::common::test_cloud::TestCloud;
use serde_json::Value;
use testkit::wait::block_until;

/// Time limit for a wait; generous for a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Returns the response of a health endpoint.
fn health(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

/// Answers each request with this response.
fn serve(listener: TcpListener, response: &'static str) {
    thread::spawn(move || {
        for mut stream in listener.incoming().map(Result::unwrap) {
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
                request.push(byte[0]);
            }
            if !request.is_empty() {
                stream.write_all(response.as_bytes()).unwrap();
            }
        }
    });
}

fn status(world: &TestCloud) -> Value {
    finish(&mut world.device(&["status"]))
        .expect(0)
        .json()
        .remove(0)
}

#[test]
fn application_that_does_not_run_is_reported_until_it_does() {
    let world = TestCloud::provisioned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let problem = format!("the application at {address} does not answer: Connection refused");

    let mut command = world.device(&["run", "--forward", &address, "--health", "127.0.0.1:0"]);
    let mut run = BackgroundProgram::start(&mut command);
    let at = run.wait_for("health")["address"]
        .as_str()
        .unwrap()
        .to_owned();
    let event = run.wait_for("application");
    assert_eq!(
        (&event["address"], &event["answers"]),
        (&address.as_str().into(), &false.into())
    );
    run.wait_for("remote.connected");
    let ready = health(&at, "/readyz");
    assert!(
        ready.starts_with("HTTP/1.1 503 ") && ready.contains(&problem),
        "{ready}"
    );
    assert!(health(&at, "/metrics").contains("\nclesyde_application_up 0\n"));
    let state = status(&world);
    assert_eq!(state["application"]["answers"], false);
    assert!(state["application"]["since"].is_string(), "{state}");

    // The page of the device itself is a failure.
    examine(&world, 1)
        .failed(&["page"])
        .says("page", "is reachable, but")
        .says("page", &problem);
    let metrics = health(&at, "/metrics");
    let failures = "clesyde_application_failures_total{kind=\"unreachable\"} ";
    let count = metrics.lines().find_map(|line| line.strip_prefix(failures));
    assert!(count.unwrap().parse::<u64>().unwrap() > 0, "{metrics}");

    serve(
        TcpListener::bind(&address).unwrap(),
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi",
    );
    while run.wait_for("application")["answers"] != true {}
    block_until("it is ready", || {
        health(&at, "/readyz").starts_with("HTTP/1.1 200 ")
    });
    examine(&world, 0).expect("ok", &["page"]);
    assert_eq!(status(&world)["application"]["answers"], true);
    let stderr = run.terminate();
    assert!(stderr.contains(&problem), "{stderr}");
    assert!(
        stderr.contains(&format!("the application at {address} answers now")),
        "{stderr}"
    );
}

/// As text; also with the application's socket as a path.
#[test]
fn first_line_names_application_that_does_not_run() {
    let world = TestCloud::provisioned();
    let socket = world.home.path().join("app.sock");
    let target = format!("unix:{}", socket.display());
    let mut command = crate::common::program(&world.home);
    command
        .args(["run", "--forward", &target])
        .env("CLESYDE_BASE_PATH", world.base());
    let mut run = CapturedProgram::start(&world.home, &mut command);
    run.wait_until("first line", |stdout, _| stdout.ends_with('\n'));
    let stdout = run.stdout();
    assert!(
        stdout.starts_with("reachable at https://")
            && stdout.contains(&format!(
                "/, but the application at {} does not answer: ",
                socket.display()
            )),
        "{stdout}"
    );
    let _listener = UnixListener::bind(&socket).unwrap();
    run.wait_until("answer", |_, stderr| stderr.contains("answers now"));

    // As text, `status` shows the application and the connections with their times.
    let mut command = crate::common::program(&world.home);
    command.arg("status").env("CLESYDE_BASE_PATH", world.base());
    let shown = finish(&mut command).expect(0).stdout;
    for line in [
        "\nMessaging       connected since ",
        "\nRemote access   connected since ",
        &format!("\nApplication     {}: answering since ", socket.display()),
    ] {
        assert!(shown.contains(line), "{line:?}: {shown}");
    }
    run.terminate();
}

/// What the application answers itself is no failure of the device.
#[test]
fn unavailable_page_of_application_itself_is_a_warning() {
    let world = TestCloud::provisioned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    serve(
        listener,
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    );
    let mut run = BackgroundProgram::start(&mut world.device(&["run", "--forward", &address]));
    run.wait_for("remote.connected");
    examine(&world, 0)
        .expect("warning", &["page"])
        .says("page", "503");
    run.terminate();
}

/// It accepts connections, and sends nothing.
#[test]
fn silent_application_is_reported_by_doctor() {
    let world = TestCloud::provisioned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut run = BackgroundProgram::start(&mut world.device(&["run", "--forward", &address]));
    run.wait_for("remote.connected");
    examine(&world, 1).failed(&["page"]).says(
        "page",
        &format!("the application at {address} does not answer: no response within"),
    );
    run.terminate();
}

#[test]
fn status_shows_why_and_since_when_nothing_is_connected() {
    let mut world = TestCloud::provisioned();
    world.sim.terminate();
    let mut run = BackgroundProgram::start(&mut world.device(&["run"]));
    run.wait_for("iot.disconnected");
    let state = status(&world);
    assert_eq!(state["iot_connected"], false);
    assert!(state["iot_since"].is_string(), "{state}");
    let reason = state["iot_reason"].as_str().unwrap();
    let mut command = crate::common::program(&world.home);
    command.arg("status").env("CLESYDE_BASE_PATH", world.base());
    let shown = finish(&mut command).expect(0).stdout;
    let line = shown
        .lines()
        .find(|line| line.starts_with("Messaging "))
        .unwrap();
    assert!(line.contains("not connected since 20"), "{line}");
    assert!(!reason.is_empty() && line.len() > 60, "{line}");
    run.terminate();
}
