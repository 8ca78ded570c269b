//! Child processes that tell on standard output, one JSON object a line, what they do.

use std::process::{ExitStatus, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::wait::timeout;

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

    /// Reads on until a line is an object whose `event` is `event`. Lines that are no JSON are skipped.
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

    /// Asks it to end and waits until it has.
    pub async fn terminate(mut self) -> anyhow::Result<ExitStatus> {
        self.signal(rustix::process::Signal::TERM)?;
        let status = timeout(&format!("{} to end", self.name), self.child.wait()).await?;
        Ok(status)
    }

    /// Ends it as a power cut would.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        timeout(&format!("{} to die", self.name), self.child.kill()).await?;
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

/// A loopback port that nothing listens on right now, for programs that cannot choose one themselves.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port())
}
