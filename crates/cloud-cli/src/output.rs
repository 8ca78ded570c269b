//! Standard output: results as text, or with `--json` as one JSON object per line and nothing else.
//!
//! Logs and messages go to standard error instead. If the reader closes standard output, the
//! program ends without an error.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

use crate::error::{CliError, Result};
use crate::terminal;

/// The output for a command's results.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Prints a line of text; nothing with `--json`.
    pub(crate) fn text(self, line: impl fmt::Display) -> Result {
        if self.json {
            Ok(())
        } else {
            write(&terminal::text(&line.to_string()))
        }
    }

    /// Prints a line of text that is escaped already and may contain colours.
    pub(crate) fn escaped_text(self, line: impl fmt::Display) -> Result {
        if self.json {
            Ok(())
        } else {
            write(&line.to_string())
        }
    }

    /// Prints a JSON line; nothing without `--json`.
    pub(crate) fn json(self, value: &impl Serialize) -> Result {
        if self.json { write_json(value) } else { Ok(()) }
    }

    /// Prints a result in the selected form.
    pub(crate) fn result(self, value: &impl Serialize, line: impl fmt::Display) -> Result {
        self.text(line)?;
        self.json(value)
    }
}

/// Prints a JSON line regardless of `--json`, for output that only programs read.
pub(crate) fn write_json(value: &impl Serialize) -> Result {
    let line =
        json_line(value).map_err(|error| CliError::with_cause("could not write JSON", &error))?;
    write(&line)
}

/// Formats a value as one line of JSON that is safe for a terminal.
pub(crate) fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string(value).map(|line| terminal::line(&line).into_owned())
}

/// Writes bytes verbatim.
pub(crate) fn write_raw(bytes: &[u8]) -> Result {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(write_error)
}

fn write(line: &str) -> Result {
    // One write per line, so that lines of two tasks do not interleave.
    write_raw(format!("{line}\n").as_bytes())
}

/// Converts an error of writing to standard output.
pub(crate) fn write_error(error: io::Error) -> CliError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => CliError::OutputClosed,
        _ => CliError::with_cause("could not write to standard output", &error),
    }
}
