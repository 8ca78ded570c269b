//! The program in the background; its JSON lines are read as they arrive.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Time limit for a wait; generous for a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);

/// The program exits within 5 s of a signal; the rest is for a loaded machine to start and end a
/// process.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// A running program; killed if the test ends first.
pub(crate) struct BackgroundProgram {
    child: Child,
    lines: Receiver<Value>,
    stderr: Option<JoinHandle<String>>,
    seen: Vec<Value>,
}

impl BackgroundProgram {
    /// Starts a prepared command.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut errors = child.stderr.take().unwrap();
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines() {
                let line = line.unwrap();
                let value =
                    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
                if sender.send(value).is_err() {
                    break;
                }
            }
        });
        let stderr = thread::spawn(move || {
            let mut text = String::new();
            errors.read_to_string(&mut text).unwrap();
            text
        });
        Self {
            child,
            lines,
            stderr: Some(stderr),
            seen: Vec::new(),
        }
    }

    /// Returns the next line with this event, and skips the lines before it.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, event: &str) -> Value {
        self.wait_for_doing(event, LIMIT, || {})
    }

    /// Like `event`, but calls `action` first, and again after each interval without a line.
    #[track_caller]
    pub(crate) fn wait_for_doing(
        &mut self,
        event: &str,
        every: Duration,
        mut done: impl FnMut(),
    ) -> Value {
        let end = Instant::now() + LIMIT;
        done();
        loop {
            match self.lines.recv_timeout(every) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line["event"] == event {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < end => done(),
                Err(RecvTimeoutError::Timeout) => {
                    self.give_up(&format!("no {event} within {} s", LIMIT.as_secs()))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.give_up(&format!("it ended without {event}"))
                }
            }
        }
    }

    /// Returns the process ID.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process is running.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until the program exits by itself. Returns the exit code and standard error.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> (Option<i32>, String) {
        let end = Instant::now() + LIMIT;
        while self.is_running() {
            if Instant::now() > end {
                self.give_up("it does not end");
            }
            thread::sleep(Duration::from_millis(20));
        }
        let status = self.child.wait().unwrap();
        let stderr = self.stderr.take().unwrap().join().unwrap();
        self.seen.extend(self.lines.iter());
        (status.code(), stderr)
    }

    /// Returns the names of all events so far, in order.
    pub(crate) fn events(&self) -> Vec<&str> {
        self.seen
            .iter()
            .filter_map(|line| line["event"].as_str())
            .collect()
    }

    /// Sends SIGTERM and waits for a prompt exit with code 0. Returns standard error.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> String {
        self.end_with(Signal::TERM)
    }

    /// Like `stop`, but with SIGINT.
    #[track_caller]
    pub(crate) fn interrupt(&mut self) -> String {
        self.end_with(Signal::INT)
    }

    /// Sends a signal without waiting.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    #[track_caller]
    fn end_with(&mut self, signal: Signal) -> String {
        self.signal(signal);
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if begin.elapsed() > STOP_LIMIT {
                self.give_up("it does not end");
            }
            thread::sleep(Duration::from_millis(20));
        };
        let stderr = self.stderr.take().unwrap().join().unwrap();
        assert_eq!(status.code(), Some(0), "{stderr}");
        self.seen.extend(self.lines.iter());
        stderr
    }

    #[track_caller]
    fn give_up(&mut self, why: &str) -> ! {
        let _ = self.child.kill();
        let stderr = self.stderr.take().map(|handle| handle.join().unwrap());
        panic!(
            "{why}\nseen: {:#?}\nstandard error: {}",
            self.seen,
            stderr.unwrap_or_default()
        );
    }
}

impl Drop for BackgroundProgram {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
