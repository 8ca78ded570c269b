//! Readers of standard output, standard error and the service manager's socket that stop reading or
//! go away: they delay and end nothing that they should not.

use std::fs::OpenOptions;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::background_program::BackgroundProgram;
use crate::common::captured_output::CapturedProgram;
use crate::common::public_caller::send_request;
use crate::common::test_cloud::{SN, TestCloud};
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use testkit::wait::block_until;

/// Time limit for a wait; generous for a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);

/// The program exits within 5 s of a signal; the rest is for a loaded machine.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// A pipe whose buffer is full: a write to it blocks.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    // The size of a pipe on Linux.
    writer.write_all(&[b'x'; 64 << 10]).unwrap();
    (reader, writer)
}

/// A program whose output the test handles; killed if the test ends first.
struct Program(Child);

impl Program {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Waits until it exits by itself; returns its exit code.
    #[track_caller]
    fn ended(&mut self, limit: Duration) -> Option<i32> {
        let end = Instant::now() + limit;
        while self.is_running() {
            assert!(Instant::now() < end, "it does not end");
            sleep(Duration::from_millis(20));
        }
        self.0.wait().unwrap().code()
    }

    /// Stops it with SIGTERM; returns its exit code.
    #[track_caller]
    fn terminated(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.ended(STOP_LIMIT)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for_tunnel(world: &TestCloud) {
    block_until("the tunnel opens", || {
        world.device_status()["tunnel"] == true
    });
}

fn send_broadcast(world: &TestCloud) {
    world.control(Method::POST, "/broadcast", Some(json!("x".repeat(10_000))));
}

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

/// Returns the lines that an outlet has lost.
fn lost_lines(address: &str, outlet: &str) -> u64 {
    let name = format!("clesyde_lines_lost_total{{outlet=\"{outlet}\"}} ");
    let metrics = health(address, "/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

/// An address that was free a moment ago: nothing reports the port of a program whose output is not
/// read.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn unread_standard_error_delays_nothing_and_gets_count_of_lost_lines() {
    let world = TestCloud::provisioned();
    let (mut reader, writer) = full_pipe();
    let address = free_address();
    let mut command = world.device(&["run", "-vvv", "--health", &address]);
    let mut run = Program::start(command.stdout(Stdio::null()).stderr(writer));
    drop(command);
    wait_for_tunnel(&world);
    // Each request leaves some lines at this level.
    block_until("log lines are lost", || {
        for _ in 0..10 {
            send_request(&world, b"GET / HTTP/1.0\r\n\r\n");
        }
        assert!(health(&address, "/healthz").starts_with("HTTP/1.1 200 "));
        lost_lines(&address, "log") > 0
    });
    // Keep-alive and tunnel go on.
    assert!(health(&address, "/readyz").starts_with("HTTP/1.1 200 "));
    assert_eq!(world.device_status()["online"], true);

    // The reader goes on for a moment.
    let mut text = String::new();
    let mut buffer = [0; 16 << 10];
    block_until("the loss is reported", || {
        let length = reader.read(&mut buffer).unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
        text.contains(" log lines were lost because standard error was not read\n")
    });
    assert_eq!(run.terminated(), Some(0));
    world.wait_for_history(&["ONLINE", "OFFLINE"]);
}

#[test]
fn unread_standard_error_does_not_delay_shutdown() {
    let world = TestCloud::provisioned();
    let (_reader, writer) = full_pipe();
    let mut command = world.device(&["run", "-vv"]);
    let mut run = Program::start(command.stdout(Stdio::null()).stderr(writer));
    wait_for_tunnel(&world);
    assert_eq!(run.terminated(), Some(0));
    world.wait_for_history(&["ONLINE", "OFFLINE"]);
}

#[test]
fn unread_standard_output_delays_neither_device_nor_shutdown() {
    let world = TestCloud::provisioned();
    let (_reader, writer) = full_pipe();
    let mut command = world.device(&["run"]);
    let mut run = Program::start(command.stdout(writer).stderr(Stdio::null()));
    wait_for_tunnel(&world);
    assert_eq!(run.terminated(), Some(0));
    world.wait_for_history(&["ONLINE", "OFFLINE"]);
}

/// A service manager that does not read.
#[test]
fn full_notification_socket_delays_neither_device_nor_shutdown() {
    let world = TestCloud::provisioned();
    let path = world.home.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"x", &path).is_ok() {}
    let address = free_address();
    let mut command = world.device(&["run", "--health", &address]);
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "100000");
    let mut run = Program::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    wait_for_tunnel(&world);
    assert!(health(&address, "/healthz").starts_with("HTTP/1.1 200 "));
    assert_eq!(lost_lines(&address, "systemd"), 0);

    // What is queued arrives once it reads.
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut message = [0; 1024];
    block_until("READY=1", || {
        let length = socket.recv(&mut message).unwrap();
        &message[..length] == b"READY=1\n"
    });
    while filler.send_to(b"x", &path).is_ok() {}
    assert_eq!(run.terminated(), Some(0));
    world.wait_for_history(&["ONLINE", "OFFLINE"]);
}

/// The tunnel may be needed to free space.
#[test]
fn full_disk_behind_standard_output_does_not_stop_run() {
    let world = TestCloud::provisioned();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = world.device(&["run"]);
    let mut run = Program::start(command.stdout(full).stderr(Stdio::null()));
    wait_for_tunnel(&world);
    assert_eq!(run.terminated(), Some(0));

    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut get = world.device(&["shadow", "report", "{\"a\": 1}"]);
    let output = get.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("could not write to standard output"),
        "{stderr}"
    );
}

/// A device does not end because the reader of its events has.
#[test]
fn closed_standard_output_does_not_stop_run() {
    let world = TestCloud::provisioned();
    let (reader, writer) = std::io::pipe().unwrap();
    let (mut errors, stderr) = std::io::pipe().unwrap();
    let mut command = world.device(&["run"]);
    let mut run = Program::start(command.stdout(writer).stderr(stderr));
    drop(command);
    drop(reader);
    wait_for_tunnel(&world);
    send_broadcast(&world);
    let path = format!("/devices/{SN}/rotate");
    let desired = world.control(Method::POST, &path, None);
    block_until("the certificate is rotated", || {
        world.device_status()["reported"]["remoteCertSn"] == desired["serial"]
    });
    assert_eq!(run.terminated(), Some(0));
    world.wait_for_history(&["ONLINE", "OFFLINE"]);
    let mut stderr = String::new();
    errors.read_to_string(&mut stderr).unwrap();
    let lines = stderr
        .lines()
        .filter(|line| line.contains("standard output"));
    assert_eq!(lines.count(), 1, "{stderr}");
}

#[test]
fn unread_standard_output_of_watch_delays_nothing() {
    let world = TestCloud::provisioned();
    let (_reader, writer) = full_pipe();
    let mut command = world.device(&["shadow", "watch"]);
    let mut watch = Program::start(command.stdout(writer).stderr(Stdio::null()));
    world.wait_until_online();
    for number in 0..3 {
        let path = format!("/devices/{SN}/shadow/desired");
        world.control(Method::PUT, &path, Some(json!({ "a": number })));
    }
    assert!(watch.is_running());
    assert_eq!(watch.terminated(), Some(0));
    world.wait_for_history(&["ONLINE", "OFFLINE"]);
}

/// Like `tail -f` behind `head`: the command ends with the next line, without a message.
#[test]
fn closed_standard_output_ends_commands_whose_purpose_is_output() {
    let world = TestCloud::provisioned();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let (mut errors, stderr) = std::io::pipe().unwrap();
    let mut command = world.device(&["shadow", "watch"]);
    let mut watch = Program::start(command.stdout(writer).stderr(stderr));
    drop(command);
    world.wait_until_online();
    let path = format!("/devices/{SN}/shadow/desired");
    world.control(Method::PUT, &path, Some(json!({ "a": 1 })));
    assert_eq!(watch.ended(LIMIT), Some(0));

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = world.device(&["shadow", "get"]);
    let get = command.stdout(writer).output().unwrap();
    assert_eq!((get.status.code(), get.stderr), (Some(0), Vec::new()));
    let mut stderr = String::new();
    errors.read_to_string(&mut stderr).unwrap();
    assert_eq!(stderr, "");
}

/// A reader may be slow, such as a pager; only a signal ends the wait for it.
#[test]
fn unread_result_waits_for_reader_or_signal() {
    let world = TestCloud::provisioned();
    let path = format!("/devices/{SN}/shadow/desired");
    world.control(Method::PUT, &path, Some(json!({ "a": 1 })));
    for signalled in [true, false] {
        let (mut reader, writer) = full_pipe();
        let mut command = world.device(&["shadow", "get"]);
        let mut get = Program::start(command.stdout(writer).stderr(Stdio::null()));
        drop(command);
        let sessions = if signalled { 1 } else { 2 };
        block_until("the session is over", || {
            let history = world.device_status()["status_history"].clone();
            let offline = history.as_array().unwrap().iter();
            offline.filter(|status| *status == "OFFLINE").count() == sessions
        });
        assert!(get.is_running());
        if signalled {
            assert_eq!(get.terminated(), Some(1));
        } else {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            assert!(
                text.trim_start_matches('x').contains("\"desired\""),
                "{text}"
            );
            assert_eq!(get.ended(STOP_LIMIT), Some(0));
        }
    }
}

#[test]
fn hangup_does_not_end_run() {
    let world = TestCloud::provisioned();
    let mut run = BackgroundProgram::start(&mut world.device(&["run"]));
    run.wait_for("remote.connected");
    run.signal(Signal::HUP);
    send_broadcast(&world);
    run.wait_for("platform.message");
    let stderr = run.terminate();
    assert!(stderr.contains("none has changed"), "{stderr}");
}

/// `RUST_LOG` sets the level if no option does; dependencies may log secrets below `info`.
#[test]
fn log_level_comes_from_option_or_variable() {
    let world = TestCloud::provisioned();
    let logged = |arguments: &[&str], directives: &str| {
        let mut command = world.device(&[&["run"], arguments].concat());
        command.env("RUST_LOG", directives);
        let mut run = CapturedProgram::start(&world.home, &mut command);
        run.wait_until("tunnel", |stdout, _| stdout.contains("remote.connected"));
        run.terminate();
        run.stderr()
    };
    let debug = logged(&[], "trace");
    assert!(debug.contains("DEBUG cloud_"), "{debug}");
    for line in debug.lines() {
        let own = line.contains(" cloud_") || line.contains(" snitun");
        let is_low = line.contains(" DEBUG ") || line.contains(" TRACE ");
        assert!(own || !is_low, "{line}");
    }
    let one = logged(&[], "off,cloud_remote=debug");
    assert!(
        one.contains("DEBUG cloud_remote") && !one.contains("cloud_iot"),
        "{one}"
    );
    assert_eq!(logged(&["-qqq"], "trace"), "");
    let invalid = logged(&[], "cloud_remote=loud");
    assert!(invalid.contains("RUST_LOG is ignored"), "{invalid}");
}
