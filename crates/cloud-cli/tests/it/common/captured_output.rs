//! The program in the background, with its output in files, byte for byte.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Time limit for a wait; generous for a loaded machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A running program; killed if the test ends first.
pub(crate) struct CapturedProgram {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl CapturedProgram {
    /// Starts a prepared command, with files in `home` as standard output and standard error.
    pub(crate) fn start(home: &TempDir, command: &mut Command) -> Self {
        let (stdout, stderr) = (home.path().join("stdout"), home.path().join("stderr"));
        let child = command
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            stdout,
            stderr,
        }
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8(fs::read(&self.stdout).unwrap()).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8(fs::read(&self.stderr).unwrap()).unwrap()
    }

    /// Waits until `found` accepts standard output and standard error.
    #[track_caller]
    pub(crate) fn wait_until(&mut self, what: &str, found: impl Fn(&str, &str) -> bool) {
        let end = Instant::now() + LIMIT;
        loop {
            // The last character may be incomplete.
            let read = |path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
            let (stdout, stderr) = (read(&self.stdout), read(&self.stderr));
            if found(&stdout, &stderr) {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < end,
                "no {what} ({ended:?})\nstdout: {stdout}\nstderr: {stderr}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal without waiting.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Sends SIGTERM and waits for exit code 0.
    #[track_caller]
    pub(crate) fn terminate(&mut self) {
        self.signal(Signal::TERM);
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{}", self.stderr());
    }
}

impl Drop for CapturedProgram {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
