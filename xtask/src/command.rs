//! The commands of `cargo xtask`, with their help.

use std::fmt::Write;

use anyhow::{Result, bail};

use crate::{
    apps, attack, bench, chaos, check, ci, docs, fuzz, imports, interop, layering, profile_guided,
    publish, release, setup, test, tidy,
};

/// What a command does.
enum Action {
    /// Takes no arguments.
    Plain(fn() -> Result<()>),
    /// Parses its arguments itself.
    WithArguments(fn(&[String]) -> Result<()>),
}

use Action::{Plain, WithArguments};

/// A command of `cargo xtask`.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    arguments: &'static str,
    summary: &'static str,
    /// Shown by `--help` after the summary.
    details: &'static str,
    action: Action,
}

impl Command {
    pub(crate) fn run(&self, arguments: &[String]) -> Result<()> {
        match self.action {
            WithArguments(run) => run(arguments),
            Plain(run) if arguments.is_empty() => run(),
            Plain(_) => bail!(
                "`{}` takes no arguments, but was given {arguments:?}",
                self.name
            ),
        }
    }

    pub(crate) fn help(&self) -> String {
        let Self {
            name,
            arguments,
            summary,
            details,
            ..
        } = self;
        let space = if arguments.is_empty() { "" } else { " " };
        let mut help = format!("usage: cargo xtask {name}{space}{arguments}\n\n{summary}\n");
        if !details.is_empty() {
            let _ = write!(help, "\n{details}\n");
        }
        help
    }
}

/// The list of all commands.
pub(crate) fn usage() -> String {
    let mut usage = "usage: cargo xtask COMMAND [ARGUMENTS]\n\n".to_owned();
    for Command { name, summary, .. } in COMMANDS {
        let _ = writeln!(usage, "  {name:<10} {summary}");
    }
    usage + "\n`cargo xtask COMMAND --help` describes a command.\n"
}

pub(crate) const COMMANDS: &[Command] = &[
    Command {
        name: "setup",
        arguments: "",
        summary: "Installs what `interop` and `attack` need.",
        details: "\
mosquitto, openssl, curl, htpasswd, promtool, strace and the Python peers. Uses installed programs;
installs missing ones with the package manager of the distribution, and the Python peers under the
target directory.",
        action: Plain(|| setup::run().map(drop)),
    },
    Command {
        name: "test",
        arguments: "[--repeat N] [--fail-fast] [ARGUMENTS]",
        summary: "Runs unit, integration and documentation tests and builds the examples.",
        details: "\
Without `-p`, tests the whole workspace. Runs all test programs even if one fails, shows the
sum after each, and at the end the sum and the names of the failed tests.

  --repeat N   runs the tests N times, and stops after the first run with a failure
  --fail-fast  stops after the first test program with a failure

Other arguments go to `cargo test`: `cargo xtask test -p snitun --test it mux::`.
The tests are built with the profile `test`, which is unoptimized.",
        action: WithArguments(test::run),
    },
    Command {
        name: "interop",
        arguments: "[ARGUMENTS]",
        summary: "Tests the device and the simulator against mosquitto and the Python packages.",
        details: "\
Runs `setup` first. Arguments go to `cargo test`. Without Python 3.13, set
INTEROP_WITHOUT_SNITUN_047=1 to omit the tests against that version.",
        action: WithArguments(interop::run),
    },
    Command {
        name: "apps",
        arguments: apps::ARGUMENTS,
        summary: "Uses web applications behind the built program in Chromium.",
        details: apps::DETAILS,
        action: WithArguments(apps::run),
    },
    Command {
        name: "chaos",
        arguments: "[--seeds N | --seed SEED]",
        summary: "Runs devices against a platform with random faults, on virtual time.",
        details: "  --seeds N    number of runs, each with a new seed; 500 by default
  --seed SEED  repeats one run, with a log of its steps",
        action: WithArguments(chaos::run),
    },
    Command {
        name: "attack",
        arguments: attack::ARGUMENTS,
        summary: "Attacks the built program as callers, platforms and local programs could.",
        details: attack::DETAILS,
        action: WithArguments(attack::run),
    },
    Command {
        name: "bench",
        arguments: "[NAME [ARGUMENTS]]",
        summary: "Compares the performance with that of other programs.",
        details: bench::DETAILS,
        action: WithArguments(bench::run),
    },
    Command {
        name: "fuzz",
        arguments: "[TARGET [--secs N]]",
        summary: "Fuzzes snitun; needs a nightly toolchain.",
        details: "Without TARGET, lists the targets. Without --secs, runs for 60 seconds.",
        action: WithArguments(fuzz::run),
    },
    Command {
        name: "imports",
        arguments: "",
        summary: "Checks that no files of a crate import each other in a circle.",
        details: "",
        action: Plain(imports::run),
    },
    Command {
        name: "layering",
        arguments: "",
        summary: "Checks which crate depends on which.",
        details: "",
        action: Plain(layering::run),
    },
    Command {
        name: "tidy",
        arguments: "",
        summary: "Checks the text of the tree: unfinished work, paths, links, word list, width.",
        details: "",
        action: Plain(tidy::run),
    },
    Command {
        name: "policy",
        arguments: "",
        summary: "Checks licences, sources and bans of the dependencies with cargo-deny.",
        details: "Builds cargo-deny under the target directory if it is not installed.",
        action: Plain(check::policy),
    },
    Command {
        name: "alone",
        arguments: "",
        summary: "Checks that each crate builds by itself, with the features that it declares.",
        details: "",
        action: Plain(check::each_alone),
    },
    Command {
        name: "examples",
        arguments: "",
        summary: "Builds and runs each example; each must exit with code 0.",
        details: "",
        action: Plain(check::examples),
    },
    Command {
        name: "snippets",
        arguments: "",
        summary: "Runs the shell examples of docs/start.md and docs/relay.md.",
        details: "Needs curl and openssl.",
        action: Plain(check::snippets),
    },
    Command {
        name: "docs",
        arguments: docs::ARGUMENTS,
        summary: "Builds the book and the documentation of the crates, and checks their links.",
        details: docs::DETAILS,
        action: WithArguments(docs::run_docs),
    },
    Command {
        name: "publish",
        arguments: publish::ARGUMENTS,
        summary: "Checks that the crates can be published; uploads nothing.",
        details: publish::DETAILS,
        action: WithArguments(publish::run_publish),
    },
    Command {
        name: "program",
        arguments: profile_guided::ARGUMENTS,
        summary: "Builds the program with profile-guided optimization, as for a release.",
        details: profile_guided::DETAILS,
        action: WithArguments(profile_guided::run_program),
    },
    Command {
        name: "release",
        arguments: release::ARGUMENTS,
        summary: "Builds the archives of the program and the packages of the crates.",
        details: release::DETAILS,
        action: WithArguments(release::run_release),
    },
    Command {
        name: "ci",
        arguments: "",
        summary: "Runs all checks, formatting, lints, documentation and the demo; tests last.",
        details: "",
        action: Plain(ci::run),
    },
];

#[cfg(test)]
mod tests {
    use super::{COMMANDS, usage};

    #[test]
    fn every_command_is_listed_and_has_help() {
        let usage = usage();
        for command in COMMANDS {
            assert!(usage.contains(command.summary), "{}", command.name);
            let help = command.help();
            let first = format!("usage: cargo xtask {}", command.name);
            assert!(help.starts_with(&first), "{help}");
            for line in usage.lines().chain(help.lines()) {
                assert!(line.chars().count() <= 100, "{line}");
            }
        }
    }
}
