//! Standard output: results for people, or with `--json` one JSON object a line and nothing else.
//!
//! Logs and messages go to standard error and never through here. A reader that goes away ends the program quietly.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

use crate::failure::{Failure, Outcome};
use crate::terminal;

/// Where a command's results go.
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

    /// A line for people; nothing with `--json`.
    pub(crate) fn text(self, line: impl fmt::Display) -> Outcome {
        if self.json {
            Ok(())
        } else {
            write(&terminal::text(&line.to_string()))
        }
    }

    /// The same for a line that is escaped already, and perhaps has colours.
    pub(crate) fn escaped_text(self, line: impl fmt::Display) -> Outcome {
        if self.json {
            Ok(())
        } else {
            write(&line.to_string())
        }
    }

    /// A JSON line; nothing without `--json`.
    pub(crate) fn json(self, value: &impl Serialize) -> Outcome {
        if self.json { write_json(value) } else { Ok(()) }
    }

    /// The same result in both forms, of which one is printed.
    pub(crate) fn result(self, value: &impl Serialize, line: impl fmt::Display) -> Outcome {
        self.text(line)?;
        self.json(value)
    }
}

/// A JSON line whatever the options: for what is always read by a program.
pub(crate) fn write_json(value: &impl Serialize) -> Outcome {
    let line =
        json_line(value).map_err(|error| Failure::because("could not write JSON", &error))?;
    write(&line)
}

/// A value as one line of JSON that a terminal can be given.
pub(crate) fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string(value).map(|line| terminal::line(&line).into_owned())
}

/// Text or bytes as they are.
pub(crate) fn write_raw(bytes: &[u8]) -> Outcome {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(failure)
}

fn write(line: &str) -> Outcome {
    // One write for each line, so that lines of two tasks never mix.
    write_raw(format!("{line}\n").as_bytes())
}

/// What it means that standard output takes nothing.
pub(crate) fn failure(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::because("could not write to standard output", &error),
    }
}
