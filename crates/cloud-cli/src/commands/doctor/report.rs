//! What is found, told step by step: to people in words, to programs one JSON object a line.

use std::io::{self, IsTerminal};

use clap::builder::styling::{AnsiColor, Style};
use serde_json::json;

use crate::failure::{Failure, Outcome};
use crate::output::Output;
use crate::terminal;

/// The columns of the text: what was found, and at which step.
const STATUS_WIDTH: usize = 8;
const STEP_WIDTH: usize = 19;

/// What was found at one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// As it should be; in what way.
    Good(String),
    /// It works, but should not stay so.
    Warning(Trouble),
    /// It does not work.
    Bad(Trouble),
    /// Not looked at, and why.
    Skipped(String),
}

/// What is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) cause: String,
    pub(super) advice: String,
}

impl Finding {
    pub(super) fn warning(cause: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Warning(Trouble {
            cause: cause.into(),
            advice: advice.into(),
        })
    }

    pub(super) fn bad(cause: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Bad(Trouble {
            cause: cause.into(),
            advice: advice.into(),
        })
    }

    /// For a step that another one has to go before.
    pub(super) fn after(step: &str) -> Self {
        Self::Skipped(format!("{step} must be right first"))
    }

    /// Whether the steps that build on it make sense.
    pub(super) fn holds(&self) -> bool {
        matches!(self, Self::Good(_) | Self::Warning(_))
    }

    fn status(&self) -> (&'static str, Style) {
        match self {
            Self::Good(_) => ("ok", AnsiColor::Green.on_default()),
            Self::Warning(_) => ("warning", AnsiColor::Yellow.on_default().bold()),
            Self::Bad(_) => ("failure", AnsiColor::Red.on_default().bold()),
            Self::Skipped(_) => ("skipped", Style::new().dimmed()),
        }
    }
}

/// Tells each finding as it comes, and counts.
#[derive(Debug)]
pub(super) struct Report {
    output: Output,
    colour: bool,
    failures: Vec<&'static str>,
    warnings: usize,
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
        }
    }

    /// Tells what was found at a step, and whether it holds.
    pub(super) fn tell(&mut self, step: &'static str, finding: &Finding) -> Outcome<bool> {
        let (detail, trouble) = match finding {
            Finding::Good(detail) => (Some(detail), None),
            Finding::Skipped(because) => (None, Some((because, None))),
            Finding::Warning(Trouble { cause, advice }) => {
                self.warnings += 1;
                (None, Some((cause, Some(advice))))
            }
            Finding::Bad(Trouble { cause, advice }) => {
                self.failures.push(step);
                (None, Some((cause, Some(advice))))
            }
        };
        let cause = trouble.map(|(cause, _)| cause);
        let advice = trouble.and_then(|(_, advice)| advice);
        let (status, style) = finding.status();
        let style = if self.colour { style } else { Style::new() };
        let words = terminal::line(detail.or(cause).map_or("", String::as_str));
        self.output.escaped_text(format_args!(
            "{style}{status:<STATUS_WIDTH$}{style:#} {step:<STEP_WIDTH$} {words}"
        ))?;
        if let Some(advice) = advice {
            self.output.text(format_args!(
                "{:<STATUS_WIDTH$} {:<STEP_WIDTH$} what to do: {advice}",
                "", ""
            ))?;
        }
        self.output.json(&json!({
            "event": "check",
            "step": step,
            "status": status,
            "detail": detail,
            "cause": cause,
            "advice": advice,
        }))?;
        Ok(finding.holds())
    }

    /// How it ends: well, unless something failed.
    pub(super) fn end(self) -> Outcome {
        if !self.failures.is_empty() {
            return Err(Failure::Failed(format!(
                "not in order: {}",
                self.failures.join(", ")
            )));
        }
        let line = match self.warnings {
            0 => "\nall of it is in order".to_owned(),
            1 => "\nit works, with one warning".to_owned(),
            warnings => format!("\nit works, with {warnings} warnings"),
        };
        self.output.text(line)
    }
}
