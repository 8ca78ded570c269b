//! Standard output for a program that must not block on it: a reader that stops reading delays
//! nothing.
//!
//! A thread of its own writes the lines and may block. Its queue is bounded: when it is full, lines
//! are dropped and counted, and once there is room again a line reports their number. Commands that
//! print a result and exit use [`Output`].

use std::fmt;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use cloud_net::{LogThrottle, warn_throttled};
use serde::Serialize;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::error::{CliError, Result};
use crate::output::{self, Output};
use crate::terminal;
use crate::time_fmt::now;

/// Capacity of the queue in lines: some minutes of a busy device, and at most times a few hundred
/// KiB.
const QUEUE_CAPACITY: usize = 1024;

/// Time limit for the reader to read the last lines; the program has 5 s to exit.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Writes lines without waiting for the reader.
#[derive(Debug)]
pub(crate) struct NonBlockingStdout {
    output: Output,
    lines: SyncSender<String>,
    /// The result of the thread.
    closed: oneshot::Receiver<Result>,
    /// Lines dropped since the last line that was queued.
    dropped: u64,
    missed_log: LogThrottle,
}

impl NonBlockingStdout {
    /// Starts the thread that writes to standard output.
    pub(crate) fn start(output: Output) -> Result<Self> {
        Self::with_writer(output, io::stdout())
    }

    /// Starts the thread with another writer, for tests.
    pub(crate) fn with_writer(output: Output, writer: impl Write + Send + 'static) -> Result<Self> {
        let (lines, waiting) = sync_channel(QUEUE_CAPACITY);
        let (close, closed) = oneshot::channel();
        thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || {
                // The receiver is gone while the program exits.
                let _ = close.send(write_all(&waiting, writer));
            })
            .map_err(|error| CliError::with_cause("could not start a thread", &error))?;
        Ok(Self {
            output,
            lines,
            closed,
            dropped: 0,
            missed_log: LogThrottle::new(),
        })
    }

    /// Queues a line of text; nothing with `--json`.
    pub(crate) fn text(&mut self, line: impl fmt::Display) {
        if !self.output.is_json() {
            self.line(terminal::text(&line.to_string()).into_owned());
        }
    }

    /// Queues a JSON line; nothing without `--json`.
    pub(crate) fn json(&mut self, value: &impl Serialize) {
        if self.output.is_json() {
            match output::json_line(value) {
                Ok(line) => self.line(line),
                Err(error) => tracing::warn!(%error, "could not serialize an event"),
            }
        }
    }

    fn line(&mut self, line: String) {
        if self.dropped > 0 {
            let note = json!({ "event": "missed", "lines": self.dropped, "ts": now() });
            let note = if self.output.is_json() {
                note.to_string()
            } else {
                format!(
                    "{} lines were dropped because standard output was not read",
                    self.dropped
                )
            };
            if self.lines.try_send(note).is_ok() {
                self.dropped = 0;
            }
        }
        // If the thread has ended, `closed` returns the reason.
        if let Err(TrySendError::Full(_)) = self.lines.try_send(line) {
            if self.dropped == 0 {
                warn_throttled!(
                    self.missed_log,
                    "standard output is not read; dropping lines"
                );
            }
            self.dropped += 1;
        }
    }

    /// Waits until standard output is closed, and returns the reason.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it completes loses nothing.
    pub(crate) async fn closed(&mut self) -> Result {
        let panicked = |_| {
            Err(CliError::Failed(
                "writing to standard output panicked".into(),
            ))
        };
        (&mut self.closed).await.unwrap_or_else(panicked)
    }

    /// Waits a short time for the reader to read the queued lines.
    pub(crate) async fn finish(self) -> Result {
        drop(self.lines);
        match timeout(FLUSH_TIMEOUT, self.closed).await {
            Ok(closed) => closed.unwrap_or(Ok(())),
            Err(_) => Ok(()),
        }
    }
}

/// Writes lines until the reader closes the pipe. A full disk does not end it: the tunnel may be
/// needed to free space.
fn write_all(lines: &Receiver<String>, mut writer: impl Write) -> Result {
    let mut failing = false;
    let log = LogThrottle::new();
    for line in lines {
        // One write per line, so that a reader never sees a partial line, except after an error.
        let start = if failing { "\n" } else { "" };
        let written = writer.write_all(format!("{start}{line}\n").as_bytes());
        match written.and_then(|()| writer.flush()) {
            Ok(()) => failing = false,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Err(output::write_error(error));
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn_throttled!(log, %error, "could not write to standard output; dropping lines");
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A writer that blocks until it is released, and records what is written.
    struct BlockingWriter {
        blocked: SyncSender<()>,
        release: Receiver<()>,
        written: SyncSender<String>,
    }

    impl Write for BlockingWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // An error means that the test has dropped the channel, which releases the writer.
            let _ = self.blocked.try_send(());
            let _ = self.release.recv();
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.written.send(text).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn slow_reader_delays_nothing_and_gets_count_of_dropped_lines() {
        let (blocked, is_blocked) = sync_channel(1);
        let (releaser, release) = sync_channel(0);
        let (written, read) = sync_channel(2 * QUEUE_CAPACITY);
        let sink = BlockingWriter {
            blocked,
            release,
            written,
        };
        let mut stdout = NonBlockingStdout::with_writer(Output::new(true), sink).unwrap();

        // One line is being written, the queue is full, and ten lines are dropped.
        stdout.json(&0);
        is_blocked.recv().unwrap();
        for number in 1..=QUEUE_CAPACITY + 10 {
            stdout.json(&number);
        }
        assert_eq!(stdout.dropped, 10);

        drop(releaser);
        let mut expected: Vec<_> = (0..=QUEUE_CAPACITY)
            .map(|number| format!("{number}\n"))
            .collect();
        let mut lines: Vec<String> = read.iter().take(expected.len()).collect();
        assert_eq!(lines, expected);

        stdout.json(&"at last");
        stdout.finish().await.unwrap();
        lines = read.iter().collect();
        let note: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(
            (&note["event"], &note["lines"]),
            (&"missed".into(), &10.into())
        );
        expected = vec!["\"at last\"\n".to_owned()];
        assert_eq!(lines[1..], expected);
    }

    #[tokio::test(start_paused = true)]
    async fn finish_does_not_wait_for_reader_that_does_not_read() {
        let (blocked, _is_blocked) = sync_channel(1);
        let (_releaser, release) = sync_channel(0);
        let (written, _read) = sync_channel(1);
        let mut stdout = NonBlockingStdout::with_writer(
            Output::new(true),
            BlockingWriter {
                blocked,
                release,
                written,
            },
        )
        .unwrap();
        stdout.json(&1);
        stdout.finish().await.unwrap();
    }

    /// A closed pipe.
    struct ClosedPipe;

    impl Write for ClosedPipe {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn closed_pipe_is_reported() {
        let mut stdout = NonBlockingStdout::with_writer(Output::new(true), ClosedPipe).unwrap();
        stdout.json(&1);
        assert!(matches!(stdout.closed().await, Err(CliError::OutputClosed)));
    }

    /// A file on a disk that is temporarily full.
    struct FullDisk {
        refuse: usize,
        written: SyncSender<String>,
    }

    impl Write for FullDisk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.refuse > 0 {
                self.refuse -= 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.written.send(text).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn full_disk_drops_lines_only() {
        let (written, read) = sync_channel(10);
        let mut stdout =
            NonBlockingStdout::with_writer(Output::new(true), FullDisk { refuse: 2, written })
                .unwrap();
        for number in 1..=4 {
            stdout.json(&number);
        }
        stdout.finish().await.unwrap();
        // The previous line may be incomplete.
        assert_eq!(read.iter().collect::<Vec<_>>(), ["\n3\n", "4\n"]);
    }
}
