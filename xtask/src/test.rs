//! The workspace's tests: unit, integration and documentation tests, and the examples built.
//!
//! `cargo test` closes with the figures of each test program; the sum of them is printed at the very end.

use std::path::Path;
use std::process::Command;
use std::{fmt, fs};

use anyhow::{Context, Result, bail, ensure};

use crate::process::{cargo, run_reading};

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (times, rest) = split_repeat(arguments)?;
    for number in 1..=times {
        if times > 1 {
            println!("== run {number} of {times}");
        }
        let mut sum = Sum::default();
        let scratch = tempfile::tempdir().context("no temporary directory for the tests")?;
        let mut command = command(rest.clone());
        command.env("TMPDIR", scratch.path());
        run_reading(&mut command, |line| sum.add(line))
            .and_then(|()| left_empty(scratch.path()))
            .with_context(|| format!("run {number} of {times}"))?;
        // Arguments may ask for something else than a run, such as `-- --list`.
        ensure!(
            sum.programs > 0 || !rest.is_empty(),
            "`cargo test` ran no test program"
        );
        if sum.programs > 0 {
            println!("\n{sum}");
        }
    }
    Ok(())
}

/// Whether nothing is left in the directory for temporary files: what a test makes there, it removes.
fn left_empty(scratch: &Path) -> Result<()> {
    let mut left = Vec::new();
    for entry in fs::read_dir(scratch)? {
        left.push(entry?.file_name().display().to_string());
    }
    left.sort();
    ensure!(
        left.is_empty(),
        "the tests left {} temporary files or directories: {}",
        left.len(),
        left.join(", ")
    );
    Ok(())
}

/// What the test programs of one run say at their end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    programs: u32,
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Sum {
    /// Counts a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`; any other is nothing to it.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        self.programs += 1;
        let figures = result.split_once(". ").map_or("", |(_, figures)| figures);
        for figure in figures.split("; ") {
            let Some((number, what)) = figure.split_once(' ') else {
                continue;
            };
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
            ..
        } = self;
        write!(
            f,
            "tests: {passed} passed, {failed} failed, {skipped} skipped"
        )
    }
}

fn command(arguments: Vec<String>) -> Command {
    let mut command = cargo();
    command.arg("test");
    // `-p` chooses packages; together with `--workspace` cargo would ignore it.
    let chosen = arguments
        .iter()
        .take_while(|argument| *argument != "--")
        .any(|argument| argument.starts_with("-p") || argument.starts_with("--package"));
    if !chosen {
        command.arg("--workspace");
    }
    command.args(arguments);
    command
}

/// Takes `--repeat N` or `--repeat=N` out of what goes to `cargo test`.
fn split_repeat(arguments: &[String]) -> Result<(u32, Vec<String>)> {
    let mut times = 1;
    let mut rest = Vec::new();
    let mut left = arguments.iter();
    while let Some(argument) = left.next() {
        let value = match argument.strip_prefix("--repeat") {
            Some("") => left.next().context("`--repeat` wants a number")?.as_str(),
            Some(text) if text.starts_with('=') => &text[1..],
            _ => {
                rest.push(argument.clone());
                continue;
            }
        };
        times = match value.parse() {
            Ok(number) if number > 0 => number,
            _ => bail!("`--repeat` wants a number from 1 on, not `{value}`"),
        };
    }
    Ok((times, rest))
}

#[cfg(test)]
mod tests {
    use super::{Sum, left_empty, split_repeat};

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn counts_of_all_programs_are_summed() {
        let mut sum = Sum::default();
        for line in [
            "test wire::one ... ok",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.52s",
            "",
            "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.00s",
        ] {
            sum.add(line);
        }
        assert_eq!(sum.programs, 2);
        assert_eq!(sum.to_string(), "tests: 7 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn remaining_tests_are_reported() {
        let scratch = tempfile::tempdir().unwrap();
        left_empty(scratch.path()).unwrap();
        std::fs::create_dir(scratch.path().join("forgotten")).unwrap();
        let message = left_empty(scratch.path()).unwrap_err().to_string();
        assert!(message.ends_with("1 temporary files or directories: forgotten"));
    }

    #[test]
    fn repeat_is_removed_at_any_position() {
        for text in [
            "--repeat 10 -p snitun",
            "-p snitun --repeat 10",
            "-p snitun --repeat=10",
        ] {
            assert_eq!(
                split_repeat(&words(text)).unwrap(),
                (10, words("-p snitun")),
                "{text}"
            );
        }
        assert_eq!(split_repeat(&words("-p snitun")).unwrap().0, 1);
    }

    #[test]
    fn repeat_requires_positive_number() {
        for text in ["--repeat", "--repeat 0", "--repeat=many", "--repeat -p"] {
            assert!(split_repeat(&words(text)).is_err(), "{text}");
        }
    }
}
