//! The workspace's tests: unit, integration and documentation tests, and the examples built.
//!
//! `cargo test` prints a result for each test program. This adds the sum so far after each program,
//! and at the end, also after a failure, the sum and the names of the failed tests.

use std::path::Path;
use std::process::Command;
use std::time::Instant;
use std::{fmt, fs};

use anyhow::{Context, Result, bail, ensure};

use crate::process::{cargo, run_reading};

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let options = Options::parse(arguments)?;
    for number in 1..=options.times {
        if options.times > 1 {
            println!("== run {number} of {}", options.times);
        }
        let mut sum = Sum::default();
        let begin = Instant::now();
        let scratch = tempfile::tempdir().context("no temporary directory for the tests")?;
        let mut command = options.command();
        command.env("TMPDIR", scratch.path());
        let result = run_reading(&mut command, |line| {
            if sum.add(line) {
                let (programs, seconds) = (sum.programs, begin.elapsed().as_secs());
                println!("-- {programs} test programs in {seconds} s; {sum}");
            }
        });
        // With other arguments, such as `-- --list`, there may be no result.
        println!();
        for name in &sum.failures {
            println!("failed: {name}");
        }
        if sum.programs > 0 {
            println!("{sum}");
        }
        result
            .and_then(|()| check_empty(scratch.path()))
            .with_context(|| format!("run {number} of {}", options.times))?;
        ensure!(
            sum.programs > 0 || !options.rest.is_empty(),
            "`cargo test` ran no test program"
        );
    }
    Ok(())
}

/// Checks that the tests removed their temporary files.
fn check_empty(scratch: &Path) -> Result<()> {
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

/// The results of all test programs of one run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    programs: u32,
    passed: u32,
    failed: u32,
    skipped: u32,
    /// Names of failed tests.
    failures: Vec<String>,
    /// Names of the last list of failures, until the result of the program.
    listed: Vec<String>,
    in_list: bool,
}

impl Sum {
    /// Reads a line of a test program. Returns whether it is its result, such as
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, line: &str) -> bool {
        if line == "failures:" {
            // The first list has the output of the failed tests; the last one has only names.
            self.listed.clear();
            self.in_list = true;
        } else if let Some(name) = line.strip_prefix("    ")
            && self.in_list
        {
            self.listed.push(name.to_owned());
        }
        let Some(result) = line.strip_prefix("test result: ") else {
            return false;
        };
        self.in_list = false;
        self.failures.append(&mut self.listed);
        self.programs += 1;
        let counts = result.split_once(". ").map_or("", |(_, counts)| counts);
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else {
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
        true
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

/// The arguments of `cargo xtask test`.
#[derive(Debug)]
struct Options {
    /// Number of runs.
    times: u32,
    fail_fast: bool,
    /// Arguments for `cargo test`.
    rest: Vec<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self {
            times: 1,
            fail_fast: false,
            rest: Vec::new(),
        };
        let mut left = arguments.iter();
        while let Some(argument) = left.next() {
            let value = match argument.strip_prefix("--repeat") {
                Some("") => left.next().context("`--repeat` needs a number")?.as_str(),
                Some(text) if text.starts_with('=') => &text[1..],
                _ if argument == "--fail-fast" => {
                    options.fail_fast = true;
                    continue;
                }
                _ if argument == "--" => {
                    options.rest.push(argument.clone());
                    options.rest.extend(left.cloned());
                    break;
                }
                _ => {
                    options.rest.push(argument.clone());
                    continue;
                }
            };
            options.times = match value.parse() {
                Ok(number) if number > 0 => number,
                _ => bail!("`--repeat` needs a number from 1 on, not `{value}`"),
            };
        }
        Ok(options)
    }

    fn command(&self) -> Command {
        let mut command = cargo();
        command.arg("test");
        let of_cargo = || self.rest.iter().take_while(|argument| *argument != "--");
        if !self.fail_fast && of_cargo().all(|argument| argument != "--no-fail-fast") {
            command.arg("--no-fail-fast");
        }
        // With `--workspace`, cargo ignores `-p`.
        if !of_cargo()
            .any(|argument| argument.starts_with("-p") || argument.starts_with("--package"))
        {
            command.arg("--workspace");
        }
        command.args(&self.rest);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::{Options, Sum, check_empty};

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
    fn failed_tests_are_named_once() {
        let mut sum = Sum::default();
        let output = "test a::one ... FAILED\n\nfailures:\n\n---- a::one stdout ----\n    indented output\n\n\n\
            failures:\n    a::one\n    b::two\n\ntest result: FAILED. 4 passed; 2 failed; 0 ignored\n    a doc line\n\
            test result: ok. 1 passed; 0 failed; 0 ignored";
        let results = output.lines().filter(|line| sum.add(line)).count();
        assert_eq!(results, 2);
        assert_eq!(sum.failures, ["a::one", "b::two"]);
    }

    #[test]
    fn all_programs_run_unless_fail_fast() {
        let arguments = |text| {
            let command = Options::parse(&words(text)).unwrap().command();
            let arguments = command.get_args().map(|word| word.to_str().unwrap());
            arguments.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(arguments(""), "test --no-fail-fast --workspace");
        assert_eq!(arguments("--fail-fast -p snitun"), "test -p snitun");
        assert_eq!(
            arguments("--no-fail-fast -- -p --fail-fast"),
            "test --workspace --no-fail-fast -- -p --fail-fast"
        );
    }

    #[test]
    fn remaining_tests_are_reported() {
        let scratch = tempfile::tempdir().unwrap();
        check_empty(scratch.path()).unwrap();
        std::fs::create_dir(scratch.path().join("forgotten")).unwrap();
        let message = check_empty(scratch.path()).unwrap_err().to_string();
        assert!(message.ends_with("1 temporary files or directories: forgotten"));
    }

    #[test]
    fn repeat_is_removed_at_any_position() {
        for text in [
            "--repeat 10 -p snitun",
            "-p snitun --repeat 10",
            "-p snitun --repeat=10",
        ] {
            let options = Options::parse(&words(text)).unwrap();
            assert_eq!(
                (options.times, options.rest),
                (10, words("-p snitun")),
                "{text}"
            );
        }
        assert_eq!(Options::parse(&words("-p snitun")).unwrap().times, 1);
    }

    #[test]
    fn repeat_requires_positive_number() {
        for text in ["--repeat", "--repeat 0", "--repeat=many", "--repeat -p"] {
            assert!(Options::parse(&words(text)).is_err(), "{text}");
        }
    }
}
