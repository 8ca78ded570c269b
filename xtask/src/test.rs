//! The workspace's tests: unit, integration and documentation tests, and the examples built.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{cargo, run as run_command};

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (times, rest) = split_repeat(arguments)?;
    for number in 1..=times {
        if times > 1 {
            println!("== run {number} of {times}");
        }
        run_command(&mut command(rest.clone()))
            .with_context(|| format!("run {number} of {times}"))?;
    }
    Ok(())
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
    use super::split_repeat;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn repeat_is_taken_out_wherever_it_stands() {
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
    fn repeat_wants_a_number_from_one_on() {
        for text in ["--repeat", "--repeat 0", "--repeat=many", "--repeat -p"] {
            assert!(split_repeat(&words(text)).is_err(), "{text}");
        }
    }
}
