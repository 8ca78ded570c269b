//! Tasks of this workspace: `cargo xtask COMMAND`.
//!
//! Each task of contributors and of CI beyond plain `cargo` is a command here, so that both run the
//! same. Commands start programs with `std::process`, without a shell, and keep their state under
//! the target directory.
//!
//! Not here: what `cargo` does by itself, and what a test can check.

mod apps;
mod archive;
mod attack;
mod bench;
mod chaos;
mod check;
mod ci;
mod command;
mod docs;
mod fuzz;
mod home_assistant;
mod imports;
mod interop;
mod layering;
mod links;
mod process;
mod profile_guided;
mod publish;
mod python;
mod release;
mod setup;
mod static_build;
mod test;
mod tidy;
mod tools;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::command::{COMMANDS, usage};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<()> {
    let Some((name, rest)) = arguments.split_first() else {
        print!("{}", usage());
        return Ok(());
    };
    if matches!(name.as_str(), "help" | "-h" | "--help") {
        print!("{}", usage());
        return Ok(());
    }
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        bail!("there is no command `{name}`\n\n{}", usage());
    };
    // Arguments after `--` are for the program that the command runs.
    let ours = rest.iter().take_while(|argument| *argument != "--");
    if ours
        .into_iter()
        .any(|argument| argument == "-h" || argument == "--help")
    {
        print!("{}", command.help());
        return Ok(());
    }
    command.run(rest)
}
