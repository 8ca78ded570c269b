//! Runs the real program, and keeps what it said.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod background;
pub(crate) mod captured;
pub(crate) mod dated;
pub(crate) mod findings;
pub(crate) mod scripted_broker;
pub(crate) mod world;

use std::io::Write;
use std::process::{Command, Stdio};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;
use tempfile::TempDir;

/// What the program left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Ended {
    /// Fails the test, with all that was said, unless the exit code is this one.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "exit code\nstdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self
    }

    /// Fails the test unless standard error has each of these.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "{part:?} is not in: {}",
                self.stderr
            );
        }
        self
    }

    /// Standard output as JSON lines, which with `--json` is all that may be there.
    #[track_caller]
    pub(crate) fn json(&self) -> Vec<Value> {
        self.stdout
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
            })
            .collect()
    }
}

/// The program, in an environment in which nothing is set but a home of its own, in which it also leaves what it would have
/// removed if it had not been killed.
pub(crate) fn program(home: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clesyde-cloud"));
    command
        .env_clear()
        .env("HOME", home.path())
        .env("TMPDIR", home.path())
        .current_dir(home.path())
        .stdin(Stdio::null());
    command
}

/// Runs the program to its end with these arguments.
pub(crate) fn run(home: &TempDir, arguments: &[&str]) -> Ended {
    finish(program(home).args(arguments))
}

/// Runs a prepared command to its end.
pub(crate) fn finish(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output
            .status
            .code()
            .unwrap_or_else(|| panic!("ended by a signal: {output:?}")),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs a prepared command to its end, with this on its standard input.
pub(crate) fn finish_with_input(command: &mut Command, input: &str) -> Ended {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    Ended {
        code: output
            .status
            .code()
            .unwrap_or_else(|| panic!("ended by a signal: {output:?}")),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A web client that trusts these roots and no others.
pub(crate) fn http_client(
    roots: &[&[u8]],
    with: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> reqwest::Client {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut trusted = rustls::RootCertStore::empty();
    for pem in roots {
        for root in CertificateDer::pem_slice_iter(pem) {
            trusted.add(root.unwrap()).unwrap();
        }
    }
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    with(
        reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy(),
    )
    .build()
    .unwrap()
}
