//! What an attack has measured, as rows of a table.

use std::fmt;
use std::time::Duration;

/// What the whole process may take under any attack by callers, in KiB: there are small boards.
pub(crate) const MEMORY_LIMIT: u64 = 64 * 1024;

/// One bound.
pub(crate) struct Row {
    pub(crate) attack: String,
    pub(crate) bound: String,
    pub(crate) measured: String,
    pub(crate) held: bool,
}

impl Row {
    pub(crate) fn new(
        attack: impl Into<String>,
        bound: impl Into<String>,
        measured: impl Into<String>,
        held: bool,
    ) -> Self {
        Self {
            attack: attack.into(),
            bound: bound.into(),
            measured: measured.into(),
            held,
        }
    }

    /// An attack that has no result, which is as bad as a bound that does not hold.
    pub(crate) fn failed(attack: &str, error: &anyhow::Error) -> Self {
        Self::new(
            attack,
            "the attack runs to its end",
            format!("{error:#}"),
            false,
        )
    }

    /// No more than `limit` of something.
    pub(crate) fn at_most(
        attack: impl Into<String>,
        what: &str,
        limit: usize,
        found: usize,
    ) -> Self {
        Self::new(
            attack,
            format!("{what}: at most {limit}"),
            found.to_string(),
            found <= limit,
        )
    }

    /// The most memory that the process has taken, in KiB.
    pub(crate) fn memory(attack: impl Into<String>, limit: u64, peak: u64) -> Self {
        Self::new(
            attack,
            format!("memory stays below {} MiB", limit / 1024),
            format!("{:.1} MiB", peak as f64 / 1024.0),
            peak < limit,
        )
    }

    /// An end that came within `limit`, or did not while it was waited for.
    pub(crate) fn ended_within(
        attack: impl Into<String>,
        limit: Duration,
        waited: Duration,
        ended: Option<Duration>,
    ) -> Self {
        let measured = match ended {
            Some(after) => format!("{:.1} s", after.as_secs_f64()),
            None => format!("no end in {:.0} s", waited.as_secs_f64()),
        };
        let held = ended.is_some_and(|after| after <= limit);
        Self::new(
            attack,
            format!("ends within {} s", limit.as_secs()),
            measured,
            held,
        )
    }
}

impl fmt::Display for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = if self.held { "yes" } else { "NO" };
        let cell = |text: &str| text.replace('|', "\\|").replace(['\n', '\r'], " ");
        write!(
            formatter,
            "| {} | {} | {} | {held} |",
            cell(&self.attack),
            cell(&self.bound),
            cell(&self.measured)
        )
    }
}

/// The table in Markdown.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::from("| attack | bound | measured | held |\n|---|---|---|---|\n");
    for row in rows {
        text.push_str(&format!("{row}\n"));
    }
    text
}
