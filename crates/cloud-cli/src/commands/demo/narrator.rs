//! Tells the steps of the demonstration: numbered, for people, and as JSON lines for programs.

use std::fmt::Display;

use serde_json::{Value, json};

use crate::failure::Outcome;
use crate::moment::now;
use crate::output::Output;

/// Counts the steps as they are told.
#[derive(Debug)]
pub(crate) struct Narrator {
    output: Output,
    step: u32,
}

impl Narrator {
    pub(crate) fn new(output: Output) -> Self {
        Self { output, step: 0 }
    }

    /// A step that has been done, and what there is to say of it: name and value.
    pub(crate) fn step(
        &mut self,
        name: &str,
        title: impl Display,
        facts: &[(&str, &str)],
    ) -> Outcome {
        self.step += 1;
        self.output.text(format_args!("{}. {title}", self.step))?;
        for (fact, value) in facts {
            let mut lines = value.lines();
            self.output.text(format_args!(
                "     {fact:<13}{}",
                lines.next().unwrap_or_default()
            ))?;
            for line in lines {
                self.output.text(format_args!("     {:<13}{line}", ""))?;
            }
        }
        let mut line = json!({ "event": "demo.step", "step": self.step, "name": name });
        for (fact, value) in facts {
            line[fact.replace(' ', "_")] = Value::from(*value);
        }
        line["ts"] = now().into();
        self.output.json(&line)
    }

    /// How to visit the page from outside, while the demonstration goes on.
    pub(crate) fn invite(&self, url: &str, command: &str) -> Outcome {
        let line = json!({ "event": "demo.open", "url": url, "command": command, "ts": now() });
        self.output.result(
            &line,
            format_args!("\nReach the page yourself, until you press Ctrl-C here:\n  {command}"),
        )
    }
}
