//! Prints the steps of the demonstration: numbered as text, and as JSON lines.

use std::fmt::Display;

use serde_json::{Value, json};

use crate::error::Result;
use crate::output::Output;
use crate::time_fmt::now;

/// Numbers and prints the steps.
#[derive(Debug)]
pub(crate) struct StepPrinter {
    output: Output,
    step: u32,
}

impl StepPrinter {
    pub(crate) fn new(output: Output) -> Self {
        Self { output, step: 0 }
    }

    /// Prints a completed step with its properties, as name and value.
    pub(crate) fn step(
        &mut self,
        name: &str,
        title: impl Display,
        properties: &[(&str, &str)],
    ) -> Result {
        self.step += 1;
        self.output.text(format_args!("{}. {title}", self.step))?;
        for (property, value) in properties {
            let mut lines = value.lines();
            self.output.text(format_args!(
                "     {property:<13}{}",
                lines.next().unwrap_or_default()
            ))?;
            for line in lines {
                self.output.text(format_args!("     {:<13}{line}", ""))?;
            }
        }
        let mut line = json!({ "event": "demo.step", "step": self.step, "name": name });
        for (property, value) in properties {
            line[property.replace(' ', "_")] = Value::from(*value);
        }
        line["ts"] = now().into();
        self.output.json(&line)
    }

    /// Prints how to open the page while the demonstration runs.
    pub(crate) fn open_page(&self, url: &str, command: &str) -> Result {
        let line = json!({ "event": "demo.open", "url": url, "command": command, "ts": now() });
        self.output.result(
            &line,
            format_args!("\nOpen the page yourself, until you press Ctrl-C here:\n  {command}"),
        )
    }
}
