//! Standard output for a program that must not wait for it: a reader that has stopped reading delays nothing.
//!
//! Lines go to a thread of their own, which alone may block. The queue before it is bounded: when it is full, lines are
//! left out and counted, and a line tells how many as soon as there is room again. Commands that print a result and end
//! use [`Output`] alone.

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

use crate::failure::{Failure, Outcome};
use crate::moment::now;
use crate::output::{self, Output};
use crate::terminal;

/// Lines that may wait for the reader: some minutes of a busy device, and a few hundred KiB at most times.
const LINES: usize = 1024;

/// What the reader gets to take the last lines; the whole program has 5 s to end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Writes lines without waiting for whoever reads them.
#[derive(Debug)]
pub(crate) struct Telling {
    output: Output,
    lines: SyncSender<String>,
    /// How the thread ended.
    ended: oneshot::Receiver<Outcome>,
    /// Lines left out since the last one that was taken.
    missed: u64,
    missed_log: LogThrottle,
}

impl Telling {
    /// On standard output.
    pub(crate) fn start(output: Output) -> Outcome<Self> {
        Self::over(output, io::stdout())
    }

    /// The same over something else, for tests.
    pub(crate) fn over(output: Output, sink: impl Write + Send + 'static) -> Outcome<Self> {
        let (lines, waiting) = sync_channel(LINES);
        let (end, ended) = oneshot::channel();
        thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || {
                // Nobody is there any more to be told when the program is ending.
                let _ = end.send(write_all(&waiting, sink));
            })
            .map_err(|error| Failure::because("could not start a thread", &error))?;
        Ok(Self {
            output,
            lines,
            ended,
            missed: 0,
            missed_log: LogThrottle::new(),
        })
    }

    /// A line for people; nothing with `--json`.
    pub(crate) fn text(&mut self, line: impl fmt::Display) {
        if !self.output.is_json() {
            self.line(terminal::text(&line.to_string()).into_owned());
        }
    }

    /// A JSON line; nothing without `--json`.
    pub(crate) fn json(&mut self, value: &impl Serialize) {
        if self.output.is_json() {
            match output::json_line(value) {
                Ok(line) => self.line(line),
                Err(error) => tracing::warn!(%error, "an event could not be written as JSON"),
            }
        }
    }

    fn line(&mut self, line: String) {
        if self.missed > 0 {
            let note = json!({ "event": "missed", "lines": self.missed, "ts": now() });
            let note = if self.output.is_json() {
                note.to_string()
            } else {
                format!("{} lines were left out, as nobody read them", self.missed)
            };
            if self.lines.try_send(note).is_ok() {
                self.missed = 0;
            }
        }
        // A thread that has ended says why in `ended`.
        if let Err(TrySendError::Full(_)) = self.lines.try_send(line) {
            if self.missed == 0 {
                warn_throttled!(
                    self.missed_log,
                    "nobody reads standard output; lines are left out"
                );
            }
            self.missed += 1;
        }
    }

    /// Waits until nothing can be written any more, and says why.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped before it is ready.
    pub(crate) async fn ended(&mut self) -> Outcome {
        let panicked = |_| {
            Err(Failure::Failed(
                "writing to standard output panicked".into(),
            ))
        };
        (&mut self.ended).await.unwrap_or_else(panicked)
    }

    /// Lets the reader take what is left, if it does so soon.
    pub(crate) async fn finish(self) -> Outcome {
        drop(self.lines);
        match timeout(LAST_WORDS, self.ended).await {
            Ok(ended) => ended.unwrap_or(Ok(())),
            Err(_) => Ok(()),
        }
    }
}

/// Ends when the reader has gone. A file whose disk is full is no reason to: it may be the tunnel by which somebody comes to make
/// room.
fn write_all(lines: &Receiver<String>, mut sink: impl Write) -> Outcome {
    let mut failing = false;
    let log = LogThrottle::new();
    for line in lines {
        // One write for each line, so that what is read never ends within one. After a failure the last one may have.
        let start = if failing { "\n" } else { "" };
        let written = sink.write_all(format!("{start}{line}\n").as_bytes());
        match written.and_then(|()| sink.flush()) {
            Ok(()) => failing = false,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Err(output::failure(error));
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn_throttled!(log, %error, "standard output takes nothing; lines are left out");
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes nothing before it may, and keeps what it took.
    struct Slow {
        asked: SyncSender<()>,
        may: Receiver<()>,
        taken: SyncSender<String>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Errors mean that the test looks no more, and that it may from now on.
            let _ = self.asked.try_send(());
            let _ = self.may.recv();
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.taken.send(text).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_delays_nothing_and_learns_what_it_missed() {
        let (asked, asks) = sync_channel(1);
        let (go, may) = sync_channel(0);
        let (taken, read) = sync_channel(2 * LINES);
        let sink = Slow { asked, may, taken };
        let mut telling = Telling::over(Output::new(true), sink).unwrap();

        // One is being written, as many as there is room for wait, and ten are too many.
        telling.json(&0);
        asks.recv().unwrap();
        for number in 1..=LINES + 10 {
            telling.json(&number);
        }
        assert_eq!(telling.missed, 10);

        drop(go);
        let mut expected: Vec<_> = (0..=LINES).map(|number| format!("{number}\n")).collect();
        let mut lines: Vec<String> = read.iter().take(expected.len()).collect();
        assert_eq!(lines, expected);

        telling.json(&"at last");
        telling.finish().await.unwrap();
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
    async fn the_end_does_not_wait_for_a_reader_that_does_not_read() {
        let (asked, _asks) = sync_channel(1);
        let (_go, may) = sync_channel(0);
        let (taken, _read) = sync_channel(1);
        let mut telling = Telling::over(Output::new(true), Slow { asked, may, taken }).unwrap();
        telling.json(&1);
        telling.finish().await.unwrap();
    }

    /// A reader that has gone.
    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_is_noticed() {
        let mut telling = Telling::over(Output::new(true), Gone).unwrap();
        telling.json(&1);
        assert!(matches!(telling.ended().await, Err(Failure::OutputClosed)));
    }

    /// A file on a disk that is full for a while.
    struct Full {
        refuse: usize,
        taken: SyncSender<String>,
    }

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.refuse > 0 {
                self.refuse -= 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.taken.send(text).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_full_disk_costs_lines_and_nothing_else() {
        let (taken, read) = sync_channel(10);
        let mut telling = Telling::over(Output::new(true), Full { refuse: 2, taken }).unwrap();
        for number in 1..=4 {
            telling.json(&number);
        }
        telling.finish().await.unwrap();
        // The line before may have been cut.
        assert_eq!(read.iter().collect::<Vec<_>>(), ["\n3\n", "4\n"]);
    }
}
