//! A download by an interpreted program, which is slower than the tunnel.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use testkit::load::client::Target;

const SCRIPT: &str = include_str!("reader.py");

/// How to start the program.
#[derive(Clone)]
pub(super) struct Reader {
    python: PathBuf,
    certificate: PathBuf,
}

impl Reader {
    pub(super) fn new(python: &Path, certificate: &Path) -> Self {
        let (python, certificate) = (python.to_owned(), certificate.to_owned());
        Self {
            python,
            certificate,
        }
    }

    /// Downloads from `target` while `look` runs; returns the rate in MB/s, too.
    pub(super) fn beside<T>(&self, target: &Target, look: impl FnOnce() -> T) -> (T, f64) {
        let Target { address, hostname } = target;
        let mut program = Command::new(&self.python)
            .args(["-c", SCRIPT])
            .args([address.ip().to_string(), address.port().to_string()])
            .args([hostname.as_ref(), self.certificate.as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a Python program");
        let mut output = BufReader::new(program.stdout.take().expect("piped")).lines();
        let mut line = || output.next().expect("a line").expect("text");
        assert_eq!(line(), "reading");
        let seen = look();
        drop(program.stdin.take());
        let rate: f64 = line().parse().expect("a rate");
        program.wait().expect("its end");
        (seen, rate / 1e6)
    }
}
