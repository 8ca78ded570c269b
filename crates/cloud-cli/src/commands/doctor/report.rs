//! The results of the steps: as text, and as one JSON object per line.

use std::io::{self, IsTerminal};

use clap::builder::styling::{AnsiColor, Style};
use serde_json::{Value, json};

use crate::error::{CliError, Result};
use crate::output::Output;
use crate::terminal;

/// Widths of the columns: status and step.
const STATUS_WIDTH: usize = 8;
const STEP_WIDTH: usize = 19;

/// The result of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CheckResult {
    /// The step passed, with a detail.
    Passed(String),
    /// The step passed, with a problem to fix.
    Warning(Problem),
    /// The step failed.
    Failed(Problem),
    /// The step was skipped, with the reason.
    Skipped(String),
}

/// A problem and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(super) cause: String,
    pub(super) advice: String,
}

impl CheckResult {
    pub(super) fn warning(cause: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Warning(Problem {
            cause: cause.into(),
            advice: advice.into(),
        })
    }

    pub(super) fn failed(cause: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Failed(Problem {
            cause: cause.into(),
            advice: advice.into(),
        })
    }

    /// Skips a step because `step` did not pass.
    pub(super) fn requires(step: &str) -> Self {
        Self::Skipped(format!("{step} must pass first"))
    }

    /// Whether the steps that depend on this one can run.
    pub(super) fn is_usable(&self) -> bool {
        matches!(self, Self::Passed(_) | Self::Warning(_))
    }

    /// Returns the result as JSON.
    pub(crate) fn json(&self, step: &str) -> Value {
        let (detail, cause, advice) = self.texts();
        json!({
            "event": "check",
            "step": step,
            "status": self.status().0,
            "detail": detail,
            "cause": cause,
            "advice": advice,
        })
    }

    /// Returns the result in this JSON; `None` for another form.
    pub(super) fn from_json(line: &Value) -> Option<Self> {
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        let problem = || {
            Some(Problem {
                cause: text("cause")?,
                advice: text("advice")?,
            })
        };
        match line["status"].as_str()? {
            "ok" => text("detail").map(Self::Passed),
            "warning" => problem().map(Self::Warning),
            "failure" => problem().map(Self::Failed),
            "skipped" => text("cause").map(Self::Skipped),
            _ => None,
        }
    }

    /// Returns detail, cause and advice.
    fn texts(&self) -> (Option<&str>, Option<&str>, Option<&str>) {
        match self {
            Self::Passed(detail) => (Some(detail), None, None),
            Self::Skipped(because) => (None, Some(because), None),
            Self::Warning(Problem { cause, advice }) | Self::Failed(Problem { cause, advice }) => {
                (None, Some(cause), Some(advice))
            }
        }
    }

    fn status(&self) -> (&'static str, Style) {
        match self {
            Self::Passed(_) => ("ok", AnsiColor::Green.on_default()),
            Self::Warning(_) => ("warning", AnsiColor::Yellow.on_default().bold()),
            Self::Failed(_) => ("failure", AnsiColor::Red.on_default().bold()),
            Self::Skipped(_) => ("skipped", Style::new().dimmed()),
        }
    }
}

/// Prints each result and counts problems.
#[derive(Debug)]
pub(super) struct Report {
    output: Output,
    colour: bool,
    failures: Vec<&'static str>,
    warnings: usize,
    lines: Vec<Value>,
}

impl Report {
    pub(super) fn new(output: Output) -> Self {
        let colour = io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            output,
            colour,
            failures: Vec::new(),
            warnings: 0,
            lines: Vec::new(),
        }
    }

    /// Prints the result of a step. Returns whether dependent steps can run.
    pub(super) fn record(&mut self, step: &'static str, result: &CheckResult) -> Result<bool> {
        match result {
            CheckResult::Warning(_) => self.warnings += 1,
            CheckResult::Failed(_) => self.failures.push(step),
            CheckResult::Passed(_) | CheckResult::Skipped(_) => {}
        }
        let (detail, cause, advice) = result.texts();
        let (status, style) = result.status();
        let style = if self.colour { style } else { Style::new() };
        let text = terminal::line(detail.or(cause).unwrap_or_default());
        self.output.escaped_text(format_args!(
            "{style}{status:<STATUS_WIDTH$}{style:#} {step:<STEP_WIDTH$} {text}"
        ))?;
        if let Some(advice) = advice {
            self.output.text(format_args!(
                "{:<STATUS_WIDTH$} {:<STEP_WIDTH$} what to do: {advice}",
                "", ""
            ))?;
        }
        let line = result.json(step);
        self.output.json(&line)?;
        self.lines.push(line);
        Ok(result.is_usable())
    }

    /// Returns the results so far, as JSON.
    pub(super) fn lines(&self) -> &[Value] {
        &self.lines
    }

    /// Prints the summary.
    ///
    /// # Errors
    /// At least one step failed.
    pub(super) fn finish(&self) -> Result {
        if !self.failures.is_empty() {
            return Err(CliError::Failed(format!(
                "failed: {}",
                self.failures.join(", ")
            )));
        }
        let line = match self.warnings {
            0 => "\nall checks passed".to_owned(),
            1 => "\nall checks passed, with one warning".to_owned(),
            warnings => format!("\nall checks passed, with {warnings} warnings"),
        };
        self.output.text(line)
    }
}
