//! A child process: its JSON lines as they come, what it logs, and the memory that it takes.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::AsyncBufReadExt;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::process::{Child as Process, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Output that is kept. What goes beyond it is counted in lines and dropped: a flood of log lines
/// is what some attacks want.
const KEPT: usize = 8 * 1024 * 1024;

/// For an event that will come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running program. Killed when dropped.
pub(crate) struct Child {
    name: &'static str,
    process: Process,
    events: mpsc::UnboundedReceiver<Value>,
    stdout: Arc<Mutex<Output>>,
    stderr: Arc<Mutex<Output>>,
}

/// What a child has written to one of its two outputs.
#[derive(Default, Clone)]
pub(crate) struct Output {
    pub(crate) bytes: Vec<u8>,
    pub(crate) lines: usize,
}

impl Output {
    fn add(&mut self, bytes: &[u8]) {
        self.lines += bytes.iter().filter(|byte| **byte == b'\n').count();
        let room = KEPT.saturating_sub(self.bytes.len());
        self.bytes.extend(bytes.iter().take(room));
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Memory of a process, in KiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident now.
    pub(crate) resident: u64,
    /// Resident at most so far.
    pub(crate) peak: u64,
}

impl Child {
    /// Starts `command`.
    pub(crate) fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let (sender, events) = mpsc::unbounded_channel();
        let (stdout, stderr) = (
            Arc::<Mutex<Output>>::default(),
            Arc::<Mutex<Output>>::default(),
        );
        let mut lines = BufReader::new(process.stdout.take().context("no standard output")?);
        let kept = Arc::clone(&stdout);
        tokio::spawn(async move {
            let mut line = Vec::new();
            while lines
                .read_until(b'\n', &mut line)
                .await
                .is_ok_and(|read| read > 0)
            {
                lock(&kept).add(&line);
                if let Ok(value) = serde_json::from_slice(&line) {
                    let _ = sender.send(value);
                }
                line.clear();
            }
        });
        let mut errors = process.stderr.take().context("no standard error")?;
        let kept = Arc::clone(&stderr);
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = errors.read(&mut buffer).await {
                lock(&kept).add(&buffer[..read]);
            }
        });
        Ok(Self {
            name,
            process,
            events,
            stdout,
            stderr,
        })
    }

    /// The next line with this `event`; lines before it are dropped.
    pub(crate) async fn event(&mut self, event: &str) -> Result<Value> {
        self.event_within(event, PATIENCE).await
    }

    /// The same with another limit.
    pub(crate) async fn event_within(&mut self, event: &str, limit: Duration) -> Result<Value> {
        let wait = async {
            while let Some(value) = self.events.recv().await {
                if value["event"] == event {
                    return Some(value);
                }
            }
            None
        };
        match timeout(limit, wait).await {
            Ok(Some(value)) => Ok(value),
            Ok(None) => bail!(
                "{} ended before `{event}`: {}",
                self.name,
                self.last_words()
            ),
            Err(_) => bail!("{} sent no `{event}`: {}", self.name, self.last_words()),
        }
    }

    /// How many lines with this event there are since the last call of this or of
    /// [`event`](Self::event).
    pub(crate) fn count_events(&mut self, event: &str) -> usize {
        let mut count = 0;
        while let Ok(value) = self.events.try_recv() {
            count += usize::from(value["event"] == event);
        }
        count
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        self.process.id().context("the process has ended")
    }

    /// `None` while it runs.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    pub(crate) fn stderr(&self) -> Output {
        lock(&self.stderr).clone()
    }

    pub(crate) fn stdout(&self) -> Output {
        lock(&self.stdout).clone()
    }

    fn last_words(&self) -> String {
        let text = self.stderr().text();
        let lines: Vec<&str> = text.lines().rev().take(3).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }

    /// Fails if the process has ended, which counts as a bound that does not hold.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| {
                    line.strip_prefix(name)?
                        .split_whitespace()
                        .next()?
                        .parse()
                        .ok()
                })
                .with_context(|| format!("{} has ended: {}", self.name, self.last_words()))
        };
        Ok(Memory {
            resident: field("VmRSS:")?,
            peak: field("VmHWM:")?,
        })
    }

    /// Sends SIGTERM and waits for the end, `None` if there is none within `limit`.
    pub(crate) async fn terminate(&mut self, limit: Duration) -> Result<Option<Duration>> {
        let pid = Pid::from_raw(i32::try_from(self.pid()?)?).context("no process id")?;
        let begin = Instant::now();
        kill_process(pid, Signal::TERM)?;
        Ok(match timeout(limit, self.process.wait()).await {
            Ok(status) => {
                status?;
                Some(begin.elapsed())
            }
            Err(_) => None,
        })
    }

    /// Waits for an end that comes by itself, `None` if there is none within `limit`.
    pub(crate) async fn wait(&mut self, limit: Duration) -> Result<Option<(ExitStatus, Duration)>> {
        let begin = Instant::now();
        Ok(match timeout(limit, self.process.wait()).await {
            Ok(status) => Some((status?, begin.elapsed())),
            Err(_) => None,
        })
    }
}

fn lock(output: &Mutex<Output>) -> std::sync::MutexGuard<'_, Output> {
    output.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a command to its end. Returns the exit code and both outputs.
pub(crate) async fn finish(
    command: &mut Command,
    limit: Duration,
) -> Result<(Option<i32>, Output, Output)> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let run = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output();
    let output = timeout(limit, run)
        .await
        .context("a command did not end")??;
    let (mut stdout, mut stderr) = (Output::default(), Output::default());
    stdout.add(&output.stdout);
    stderr.add(&output.stderr);
    Ok((output.status.code(), stdout, stderr))
}
