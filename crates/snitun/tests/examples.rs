//! The examples `relay` and `forward` as the programs that they are: what they say, what goes through them, how they end.
//!
//! `cargo test -p snitun` builds them; before `--test examples` alone, `cargo build -p snitun --examples` has to.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{client_hello, within};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};

const HOST: &str = "device.example.com";

/// A running example.
struct Program {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Program {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let directory: PathBuf = std::env::current_exe().unwrap();
        let program = directory
            .ancestors()
            .nth(2)
            .unwrap()
            .join("examples")
            .join(name);
        let mut child = Command::new(&program)
            .args(arguments)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be run: {error}", program.display()));
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, output }
    }

    async fn line(&mut self) -> Value {
        let line = within(self.output.next_line()).await.unwrap();
        serde_json::from_str(&line.expect("a line")).unwrap()
    }

    /// SIGTERM, and the exit that is expected of it.
    async fn terminate(&mut self) {
        let pid = Pid::from_raw(self.child.id().unwrap() as i32).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let status = within(self.child.wait()).await.unwrap();
        assert_eq!(status.code(), Some(0), "{status}");
    }
}

/// A directory of this test's own, gone at its end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("snitun-examples-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn relay_and_forward_serve_a_caller_and_end_when_told_to() {
    let directory = Directory::new();
    let file = directory.0.join("token.json");
    // It was there before, for everyone to read.
    std::fs::write(&file, "").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    let file = file.to_str().unwrap();
    let issue = format!("{HOST}:{file}");
    let listen = ["--listen", "127.0.0.1:0", "--public", "127.0.0.1:0"];
    let mut relay = Program::start("relay", &[&listen[..], &["--issue", &issue]].concat());
    let ready = relay.line().await;
    assert_eq!(ready["ready"], true);
    let (devices, public) = (&ready["listen"], &ready["public"]);
    assert_ne!(devices, public);
    let mode = std::fs::metadata(file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = service.local_addr().unwrap().to_string();
    let devices = devices.as_str().unwrap();
    let arguments = ["--server", devices, "--token-file", file, "--to", &to];
    let mut forward = Program::start("forward", &arguments);
    assert_eq!(forward.line().await["ready"], true);

    let hello = client_hello(HOST);
    let mut caller = TcpStream::connect(public.as_str().unwrap()).await.unwrap();
    caller.write_all(&hello).await.unwrap();
    let (mut served, _) = within(service.accept()).await.unwrap();
    let mut received = vec![0; hello.len()];
    within(served.read_exact(&mut received)).await.unwrap();
    assert_eq!(received, hello);
    served.write_all(b"answer").await.unwrap();
    drop(served);
    let mut answer = String::new();
    within(caller.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "answer");
    drop(caller);

    forward.terminate().await;
    relay.terminate().await;
    let counted = relay.line().await;
    assert_eq!(counted["metrics"]["devices_connected"], 1);
    assert_eq!(counted["metrics"]["callers_connected"], 1);
}

/// A relay that accepts and then says nothing.
#[tokio::test]
async fn forward_ends_when_told_to_while_it_connects() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = silent.local_addr().unwrap().to_string();
    let directory = std::env::temp_dir().join(format!("snitun-forward-{}", std::process::id()));
    std::fs::write(&directory, "gAtoken").unwrap();
    let token = directory.to_str().unwrap();
    let (key, iv) = ("00".repeat(32), "00".repeat(16));
    let mut forward = Program::start(
        "forward",
        &[
            "--server",
            &server,
            "--to",
            "127.0.0.1:9",
            "--token-file",
            token,
            "--key",
            &key,
            "--iv",
            &iv,
        ],
    );
    let (mut stream, _) = within(silent.accept()).await.unwrap();
    within(stream.read_exact(&mut [0; 7])).await.unwrap();
    std::fs::remove_file(&directory).unwrap();
    forward.terminate().await;
}
