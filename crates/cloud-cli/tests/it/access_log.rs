//! The access log of `run`, in a file and on standard error, and lines for the journal.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use serde_json::Value;
use tempfile::tempdir;
use testkit::wait::block_until;

use crate::common::background_program::BackgroundProgram;
use crate::common::finish;
use crate::common::program;
use crate::common::public_caller::send_request;
use crate::common::test_cloud::TestCloud;

/// Starts a device that is reachable.
fn reachable(world: &TestCloud, arguments: &[&str]) -> BackgroundProgram {
    let mut run = BackgroundProgram::start(&mut world.device(&[&["run"], arguments].concat()));
    run.wait_for("remote.connected");
    run
}

/// Sends a request with headers of a caller that means harm.
fn request(world: &TestCloud) {
    let host = world.device_status()["access_point"].clone();
    let request = format!(
        "GET /a\"b?key=secret HTTP/1.1\r\nHost: {}\r\nUser-Agent: bad\"\t\\agent\r\n\
         Referer: https://example.com/?key=secret\r\nConnection: close\r\n\r\n",
        host.as_str().unwrap()
    );
    send_request(world, request.as_bytes());
}

/// Waits for a line, and returns it.
fn line_of(path: &Path) -> String {
    let read = || fs::read_to_string(path).unwrap_or_default();
    block_until("a line of the access log", || read().ends_with('\n'));
    let text = read();
    assert_eq!(text.lines().count(), 1, "{text}");
    text.trim_end().to_owned()
}

#[test]
fn access_log_file_has_a_json_line_per_request_without_its_query() {
    let world = TestCloud::provisioned();
    let path = world.home.path().join("access.log");
    let file = path.to_str().unwrap();
    let mut run = reachable(&world, &["--access-log", "json", "--access-log-file", file]);
    request(&world);
    let text = line_of(&path);
    assert!(!text.contains("secret"), "{text}");
    let line: Value = serde_json::from_str(&text).unwrap();
    for (field, value) in [
        ("event", "request".into()),
        ("address", "127.0.0.1".into()),
        ("method", "GET".into()),
        ("path", "/a\"b".into()),
        ("protocol", "HTTP/1.1".into()),
        ("status", 404.into()),
        ("user_agent", r#"bad"\t\\agent"#.into()),
        ("referer", "https://example.com/".into()),
        ("upstream", Value::Null),
        ("cut", false.into()),
    ] {
        assert_eq!(line[field], value, "{field}: {line}");
    }
    assert!(line["sent"].as_u64() > Some(0), "{line}");
    assert!(line["duration_s"].as_f64().is_some(), "{line}");
    let stderr = run.terminate();
    assert!(!stderr.contains("agent"), "{stderr}");
}

#[test]
fn access_log_on_standard_error_has_common_format_and_the_query_if_wanted() {
    let world = TestCloud::provisioned();
    let mut run = reachable(&world, &["--access-log", "common", "--access-log-query"]);
    request(&world);
    let stderr = run.terminate();
    let line = stderr.lines().find(|line| line.contains("secret"));
    let line = line.unwrap_or_else(|| panic!("{stderr}"));
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    assert!(
        line.contains(r#" +0000] "GET /a\"b?key=secret HTTP/1.1" 404 "#),
        "{line}"
    );
}

#[test]
fn access_log_has_a_line_per_connection_of_forward_tcp() {
    let world = TestCloud::provisioned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || listener.incoming().for_each(drop));
    let path = world.home.path().join("access.log");
    let file = path.to_str().unwrap();
    let mut run = reachable(
        &world,
        &[
            "--forward-tcp",
            &address,
            "--access-log",
            "json",
            "--access-log-file",
            file,
        ],
    );
    send_request(&world, b"hello");
    let line: Value = serde_json::from_str(&line_of(&path)).unwrap();
    assert_eq!(line["event"], "connection");
    assert_eq!(line["upstream"], address.as_str());
    assert!(line["received"].as_u64() > Some(0), "{line}");
    run.terminate();
}

#[test]
fn access_log_that_cannot_be_written_fails_at_once() {
    let world = TestCloud::provisioned();
    let arguments = [
        "run",
        "--access-log",
        "json",
        "--access-log-file",
        "/nonexistent/a.log",
    ];
    finish(&mut world.device(&arguments))
        .expect(1)
        .says(&["cannot write the access log", "/nonexistent/a.log"]);
    finish(&mut world.device(&["run", "--access-log-file", "a.log"])).expect(2);
}

/// Returns standard error of a command that logs a warning and fails, with this `JOURNAL_STREAM`.
fn stderr_with_stream(stream: impl FnOnce(&File) -> String) -> String {
    let home = tempdir().unwrap();
    let path = home.path().join("stderr");
    let file = File::create(&path).unwrap();
    let mut command = program(&home);
    command
        .args(["status"])
        .env("RUST_LOG", "cloud_remote=loud")
        .env("JOURNAL_STREAM", stream(&file));
    let status = command.stderr(file).status().unwrap();
    assert_eq!(status.code(), Some(3));
    fs::read_to_string(&path).unwrap()
}

#[test]
fn lines_for_the_journal_have_a_priority_and_no_time() {
    let identity = |file: &File| {
        let metadata = file.metadata().unwrap();
        format!("{}:{}", metadata.dev(), metadata.ino())
    };
    let stderr = stderr_with_stream(identity);
    let lines: Vec<_> = stderr.lines().collect();
    assert!(lines[0].starts_with("<4> WARN cloud_cli"), "{stderr}");
    assert!(lines.len() > 1, "{stderr}");
    assert!(
        lines[1..].iter().all(|line| line.starts_with("<3>")),
        "{stderr}"
    );

    // The variable is inherited, and names another file.
    let stderr = stderr_with_stream(|_| "1:2".to_owned());
    let mut lines = stderr.lines();
    assert!(lines.next().unwrap().starts_with("20"), "{stderr}");
    assert!(lines.next().unwrap().starts_with("error: "), "{stderr}");
}
