//! Standard output: results as text, or with `--json` as one JSON object per line and nothing else.
//!
//! Logs and messages go to standard error instead.
//!
//! A command that reacts to signals or keeps a connection writes through an [`Outlet`], so that a
//! reader that stops reading delays nothing. The others write directly: a signal ends them.

use std::fmt;
use std::io::{self, Write};

use cloud_net::{LogThrottle, warn_throttled};
use serde::Serialize;
use serde_json::json;

use crate::error::{CliError, Result};
use crate::outlet::{End, LostLines, Outlet, OutletSettings};
use crate::terminal;
use crate::time_fmt::now;

/// The output for a command's results. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    json: bool,
    /// `None` if lines are written directly.
    outlet: Option<Outlet>,
}

impl Output {
    /// Output that blocks while its reader does not read.
    pub(crate) fn direct(json: bool) -> Self {
        let outlet = None;
        Self { json, outlet }
    }

    /// Output that never blocks.
    pub(crate) fn queued(json: bool) -> Result<Self> {
        Self::with_writer(json, io::stdout())
    }

    /// Output that never blocks, to any writer.
    pub(crate) fn with_writer(json: bool, writer: impl Write + Send + 'static) -> Result<Self> {
        let failure_log = LogThrottle::new();
        let settings = OutletSettings {
            name: "output",
            note: Box::new(move |lost| Some(lost_note(json, lost))),
            on_error: Box::new(move |error| {
                warn_throttled!(failure_log, %error, "could not write to standard output; dropping lines");
            }),
        };
        let outlet = Outlet::start(settings, writer)
            .map_err(|error| CliError::with_cause("could not start a thread", &error))?;
        let outlet = Some(outlet);
        Ok(Self { json, outlet })
    }

    /// Prints a line of text; nothing with `--json`.
    pub(crate) fn text(&self, line: impl fmt::Display) -> Result {
        if self.json {
            Ok(())
        } else {
            self.write(&terminal::text(&line.to_string()))
        }
    }

    /// Prints a line of text that is escaped already and may contain colours.
    pub(crate) fn escaped_text(&self, line: impl fmt::Display) -> Result {
        if self.json {
            Ok(())
        } else {
            self.write(&line.to_string())
        }
    }

    /// Prints a JSON line; nothing without `--json`.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result {
        if self.json {
            self.always_json(value)
        } else {
            Ok(())
        }
    }

    /// Prints a JSON line regardless of `--json`, for output that only programs read.
    pub(crate) fn always_json(&self, value: &impl Serialize) -> Result {
        let line = serde_json::to_string(value)
            .map_err(|error| CliError::with_cause("could not write JSON", &error))?;
        self.write(&terminal::line(&line))
    }

    /// Prints a result in the selected form.
    pub(crate) fn result(&self, value: &impl Serialize, line: impl fmt::Display) -> Result {
        self.text(line)?;
        self.json(value)
    }

    fn write(&self, line: &str) -> Result {
        // One write per line, so that lines of two tasks do not interleave.
        let line = format!("{line}\n");
        match &self.outlet {
            None => write_raw(line.as_bytes()),
            Some(outlet) => {
                // A lost line is reported to the reader.
                outlet.push(line);
                match outlet.end() {
                    End::Closed => Err(CliError::OutputClosed),
                    End::Open | End::Failed(_) => Ok(()),
                }
            }
        }
    }

    /// Returns once the reader has closed standard output; otherwise never.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn closed(&self) {
        match &self.outlet {
            Some(outlet) => outlet.closed().await,
            None => std::future::pending().await,
        }
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// Standard output was closed, or could not be written.
    pub(crate) async fn flush(&self) -> Result {
        let Some(outlet) = &self.outlet else {
            return Ok(());
        };
        outlet.flush().await;
        match outlet.end() {
            End::Open => Ok(()),
            End::Closed => Err(CliError::OutputClosed),
            End::Failed(error) => Err(write_error(&error)),
        }
    }

    /// Returns the count of lost lines.
    pub(crate) fn lost_lines(&self) -> Option<LostLines> {
        self.outlet.as_ref().map(Outlet::lost_lines)
    }
}

fn lost_note(json: bool, lost: u64) -> String {
    if json {
        format!(
            "{}\n",
            json!({ "event": "missed", "lines": lost, "ts": now() })
        )
    } else {
        format!("{lost} lines were lost because standard output was not read\n")
    }
}

/// Writes bytes verbatim, and blocks while the reader does not read.
pub(crate) fn write_raw(bytes: &[u8]) -> Result {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|error| write_error(&error))
}

fn write_error(error: &io::Error) -> CliError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::OutputClosed,
        _ => CliError::with_cause("could not write to standard output", error),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    /// Records what is written.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Recorder(Arc<Mutex<Vec<u8>>>);

    impl Recorder {
        /// Returns output to a new recorder.
        pub(crate) fn output(json: bool) -> (Self, Output) {
            let recorder = Self::default();
            let output = Output::with_writer(json, recorder.clone()).unwrap();
            (recorder, output)
        }

        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Recorder {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            written.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn result_is_text_or_json() {
        for (json, expected) in [(false, "the line\n"), (true, "{\"a\":1}\n")] {
            let (recorder, output) = Recorder::output(json);
            output.result(&json!({ "a": 1 }), "the line").unwrap();
            output.flush().await.unwrap();
            assert_eq!(recorder.text(), expected);
        }
    }

    #[test]
    fn note_about_lost_lines_has_the_form_of_the_output() {
        let note: serde_json::Value = serde_json::from_str(&lost_note(true, 10)).unwrap();
        assert_eq!(
            (&note["event"], &note["lines"]),
            (&"missed".into(), &10.into())
        );
        assert!(lost_note(false, 10).starts_with("10 lines were lost"));
    }
}
