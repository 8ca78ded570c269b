//! Child processes that report events on standard output, one JSON object per line.

use std::process::{ExitStatus, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use testkit::wait::timeout;

/// A running child. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts `command` with its standard output read by us and its standard error passed on.
    pub fn spawn(name: &str, command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdout = child.stdout.take().context("no standard output")?;
        Ok(Self {
            name: name.to_owned(),
            child,
            lines: BufReader::new(stdout).lines(),
        })
    }

    /// Returns the next object whose `event` is this one. Skips other lines.
    pub async fn event(&mut self, event: &str) -> anyhow::Result<Value> {
        timeout(&format!("{} to say {event}", self.name), async {
            while let Some(line) = self.lines.next_line().await? {
                let Ok(value) = serde_json::from_str::<Value>(&line) else {
                    continue;
                };
                if value["event"] == event {
                    return Ok(value);
                }
            }
            bail!("{} ended before it said {event}", self.name)
        })
        .await
    }

    /// Sends SIGTERM and waits for the exit.
    pub async fn terminate(mut self) -> anyhow::Result<ExitStatus> {
        self.signal(rustix::process::Signal::TERM)?;
        let status = timeout(&format!("{} to end", self.name), self.child.wait()).await?;
        Ok(status)
    }

    /// Kills it with SIGKILL.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        timeout(&format!("{} to exit", self.name), self.child.kill()).await?;
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) -> anyhow::Result<()> {
        let id = self
            .child
            .id()
            .and_then(|id| rustix::process::Pid::from_raw(id as i32));
        rustix::process::kill_process(id.context("already ended")?, signal)?;
        Ok(())
    }
}
