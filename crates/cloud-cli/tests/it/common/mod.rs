//! Runs the program and captures its output.

pub(crate) mod background_program;
pub(crate) mod captured_output;
pub(crate) mod check_results;
pub(crate) mod public_caller;
pub(crate) mod shifted_clock_api;
pub(crate) mod test_cloud;

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The result of a run.
#[derive(Debug)]
pub(crate) struct ProgramOutput {
    /// The exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl ProgramOutput {
    /// Asserts the exit code; a failure shows the output.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "exit code\nstdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self
    }

    /// Asserts that standard error contains each of these texts.
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

    /// Parses standard output as JSON lines, the only content with `--json`.
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

/// Creates a command for the program, with only a home directory in its environment. Files of a
/// killed process stay in that directory.
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

/// Runs the program with these arguments until it exits.
pub(crate) fn run(home: &TempDir, arguments: &[&str]) -> ProgramOutput {
    finish(program(home).args(arguments))
}

/// Runs a command until it exits.
pub(crate) fn finish(command: &mut Command) -> ProgramOutput {
    let output = command.output().unwrap();
    ProgramOutput {
        code: output
            .status
            .code()
            .unwrap_or_else(|| panic!("ended by a signal: {output:?}")),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs a command with this standard input until it exits.
pub(crate) fn finish_with_input(command: &mut Command, input: &str) -> ProgramOutput {
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
    ProgramOutput {
        code: output
            .status
            .code()
            .unwrap_or_else(|| panic!("ended by a signal: {output:?}")),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Creates an HTTP client that trusts only these roots.
pub(crate) fn http_client(
    roots: &[&[u8]],
    with: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> reqwest::Client {
    let roots = String::from_utf8(roots.concat()).unwrap();
    with(
        reqwest::Client::builder()
            .tls_backend_preconfigured(testkit::tls::client(&roots, &[]))
            .no_proxy(),
    )
    .build()
    .unwrap()
}
