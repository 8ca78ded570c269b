//! The examples `relay` and `forward` as programs: output, traffic and exit.
//!
//! `cargo test -p snitun` builds them; before `--test it` alone, run `cargo build -p snitun
//! --examples`.

#![cfg(unix)]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use crate::support::{client_hello, with_timeout};

const HOST: &str = "device.example.com";

/// A running example.
struct Program {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
    errors: Lines<BufReader<ChildStderr>>,
}

fn command(name: &str, arguments: &[&str]) -> Command {
    let directory: PathBuf = std::env::current_exe().unwrap();
    let program = directory
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples")
        .join(name);
    assert!(
        program.exists(),
        "`cargo build -p snitun --examples` builds {name}"
    );
    let mut command = Command::new(&program);
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs an example until it exits; returns the exit code, standard output and standard error.
async fn end_of(name: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = with_timeout(command(name, arguments).output())
        .await
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

impl Program {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let mut child = command(name, arguments)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be run: {error}"));
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        let errors = BufReader::new(child.stderr.take().unwrap()).lines();
        Self {
            child,
            output,
            errors,
        }
    }

    async fn line(&mut self) -> Value {
        let line = with_timeout(self.output.next_line()).await.unwrap();
        serde_json::from_str(&line.expect("a line")).unwrap()
    }

    async fn error(&mut self) -> String {
        let line = with_timeout(self.errors.next_line()).await.unwrap();
        line.expect("a line on standard error")
    }

    /// Sends SIGTERM and checks the exit.
    async fn terminate(&mut self) {
        let pid = Pid::from_raw(self.child.id().unwrap() as i32).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let status = with_timeout(self.child.wait()).await.unwrap();
        assert_eq!(status.code(), Some(0), "{status}");
    }
}

/// A temporary directory, removed on drop.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("snitun-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// A file in the directory.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn relay_and_forward_serve_until_signalled() {
    let directory = Directory::new("examples");
    let file = directory.0.join("token.json");
    // The file existed before, readable by all.
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
    let (mut served, _) = with_timeout(service.accept()).await.unwrap();
    let mut received = vec![0; hello.len()];
    with_timeout(served.read_exact(&mut received))
        .await
        .unwrap();
    assert_eq!(received, hello);
    served.write_all(b"answer").await.unwrap();
    drop(served);
    let mut answer = String::new();
    with_timeout(caller.read_to_string(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer, "answer");
    drop(caller);

    forward.terminate().await;
    relay.terminate().await;
    let counted = relay.line().await;
    assert_eq!(counted["metrics"]["devices_connected"], 1);
    assert_eq!(counted["metrics"]["callers_connected"], 1);
}

/// A relay that accepts and then sends nothing.
#[tokio::test]
async fn forward_stops_while_connecting() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = silent.local_addr().unwrap().to_string();
    let directory = Directory::new("forward");
    let token = directory.file("token", "gAtoken");
    let (key, iv) = ("00".repeat(32), "00".repeat(16));
    let mut forward = Program::start(
        "forward",
        &[
            "--server",
            &server,
            "--to",
            "127.0.0.1:9",
            "--token-file",
            &token,
            "--key",
            &key,
            "--iv",
            &iv,
        ],
    );
    let (mut stream, _) = with_timeout(silent.accept()).await.unwrap();
    with_timeout(stream.read_exact(&mut [0; 7])).await.unwrap();
    forward.terminate().await;
}

#[tokio::test]
async fn option_errors_name_the_option() {
    let directory = Directory::new("options");
    let token = directory.file("token", "gAtoken");
    let broken = directory.file("broken.json", "{\"token\": ");
    let misplaced = directory.file(
        "misplaced.json",
        "{\"token\": \"t\", \"protocol_version\": \"zz\"}",
    );
    let (key, iv) = ("00".repeat(32), "00".repeat(16));
    let nowhere = directory.0.join("nowhere").display().to_string();
    let to = ["--server", "127.0.0.1:1", "--to", "127.0.0.1:1"];
    let with_file = |file, more: &[&'static str]| [&to[..], &["--token-file", file], more].concat();

    for (name, arguments, code, expected) in [
        (
            "forward",
            vec!["--to", "127.0.0.1:1"],
            2,
            "--server <HOST:PORT>",
        ),
        (
            "forward",
            vec!["--server", "nocolon"],
            2,
            "'--server <HOST:PORT>': use HOST:PORT",
        ),
        (
            "forward",
            with_file(&token, &["--cipher", "foo"]),
            2,
            "'--cipher <CIPHER>': the session cipher is not supported; use aes-cbc, aes-gcm or aes-gcm-siv",
        ),
        (
            "forward",
            with_file(&token, &["--protocol-version", "9"]),
            2,
            "version 9 is not supported; use 0, 1 or 2",
        ),
        (
            "forward",
            with_file(&token, &["--throttling", "0"]),
            2,
            "--throttling",
        ),
        (
            "forward",
            with_file(&token, &["--wrong", "1"]),
            2,
            "'--wrong'",
        ),
        (
            "forward",
            with_file(&token, &[]),
            2,
            "--key is missing: the token file",
        ),
        (
            "forward",
            [with_file(&token, &["--key", "zz", "--iv"]), vec![&iv]].concat(),
            2,
            "--key: the session key must be 32 bytes, as 64 hexadecimal digits",
        ),
        (
            "forward",
            [with_file(&token, &["--iv", "zz", "--key"]), vec![&key]].concat(),
            2,
            "--iv: the session's initialization vector must be 16 bytes, as 32 hexadecimal digits",
        ),
        (
            "forward",
            with_file(&nowhere, &[]),
            1,
            &format!("the token file {nowhere}: No such file"),
        ),
        (
            "forward",
            with_file(&broken, &[]),
            1,
            &format!("the JSON in the token file {broken}: EOF while parsing"),
        ),
        (
            "forward",
            with_file(&misplaced, &[]),
            1,
            "a field is missing or of the wrong type",
        ),
        ("relay", vec!["--wrong"], 2, "'--wrong'"),
        ("relay", vec!["--listen"], 2, "'--listen <ADDR>'"),
        (
            "relay",
            vec!["--fernet-key", "short"],
            2,
            "--fernet-key: a Fernet key must be 32 bytes",
        ),
        (
            "relay",
            vec!["--fernet-key", "-hort"],
            2,
            "--fernet-key: a Fernet key must be 32 bytes",
        ),
        ("relay", vec!["--valid", "0"], 2, "'--valid <SECONDS>'"),
        (
            "relay",
            vec!["--cipher", "foo"],
            2,
            "use aes-cbc, aes-gcm or aes-gcm-siv",
        ),
        (
            "relay",
            vec!["--protocol-version", "9"],
            2,
            "version 9 is not supported; use 0, 1 or 2",
        ),
        (
            "relay",
            vec!["--issue", ":file"],
            2,
            "\"\" is not a host name",
        ),
        (
            "relay",
            vec!["--issue", "two words:file"],
            2,
            "\"two words\" is not a host name",
        ),
        (
            "relay",
            vec!["--issue", "device.example.com:"],
            2,
            "the file is missing",
        ),
    ] {
        let (ended, output, errors) = end_of(name, &arguments).await;
        let what = format!("{name} {arguments:?}: {errors}");
        assert_eq!(ended, Some(code), "{what}");
        assert_eq!(output, "", "{what}");
        assert!(errors.starts_with("error: "), "{what}");
        assert!(errors.contains(expected), "{what}");
        assert!(!errors.contains("zz"), "the output contains a key: {what}");
    }
    for name in ["forward", "relay"] {
        for help in ["-h", "--help"] {
            let (ended, output, errors) = end_of(name, &[help]).await;
            assert_eq!((ended, &*errors), (Some(0), ""));
            assert!(output.contains("Usage: "), "{output}");
        }
    }
}

#[tokio::test]
async fn unreachable_resources_are_named() {
    let directory = Directory::new("addresses");
    let token = directory.file("token", "gAtoken");
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();

    let issued = directory.0.join("issued.json");
    let issue = format!("{HOST}:{}", issued.display());
    let (code, _, errors) = end_of("relay", &["--listen", &address, "--issue", &issue]).await;
    assert_eq!(code, Some(1));
    assert!(
        errors.starts_with(&format!("error: cannot listen on {address}: Address")),
        "{errors}"
    );
    assert!(
        !issued.exists(),
        "a relay that fails to start issues no token"
    );

    drop(taken);
    let (key, iv) = ("00".repeat(32), "00".repeat(16));
    let to = ["--to", "127.0.0.1:1", "--key", &key, "--iv", &iv];
    let server = ["--server", &address, "--token-file", &token];
    let (code, _, errors) = end_of("forward", &[&server[..], &to[..]].concat()).await;
    assert_eq!(code, Some(1));
    assert!(
        errors.starts_with(&format!(
            "error: cannot connect to the relay {address}: Connection refused"
        )),
        "{errors}"
    );
}

#[tokio::test]
async fn forward_reports_failures_and_exit_reason() {
    let directory = Directory::new("ends");
    let token = directory.file("token.json", "");
    let issue = format!("{HOST}:{token}");
    let mut relay = Program::start("relay", &["--listen", "127.0.0.1:0", "--issue", &issue]);
    let ready = relay.line().await;
    let server = ready["listen"].as_str().unwrap();
    let down = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = down.local_addr().unwrap().to_string();
    drop(down);
    let arguments = ["--server", server, "--token-file", &token, "--to", &to];
    let mut forward = Program::start("forward", &arguments);
    assert_eq!(forward.line().await["ready"], true);

    let mut caller = TcpStream::connect(server).await.unwrap();
    caller.write_all(&client_hello(HOST)).await.unwrap();
    let stderr = forward.error().await;
    assert!(
        stderr.starts_with(&format!("cannot connect to {to}: Connection refused")),
        "{stderr}"
    );
    with_timeout(caller.read_to_end(&mut Vec::new()))
        .await
        .unwrap();

    relay.terminate().await;
    let stderr = forward.error().await;
    for part in [
        "error: the tunnel to the relay",
        "the relay has stopped",
        "does not reconnect",
    ] {
        assert!(stderr.contains(part), "{stderr}");
    }
    let status = with_timeout(forward.child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(1));
}
