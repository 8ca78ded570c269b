//! The program `clesyde-cloud`: connects a device to the Clesyde cloud from the command line.
//!
//! | command | does |
//! |---|---|
//! | `provision` | registers the device, once |
//! | `run` | connects and stays connected; what the tunnel serves is a status page, a local web application or a local port |
//! | `status` | tells what is provisioned, and how a running instance is connected |
//! | `doctor` | checks the whole path, and tells what to do about what is wrong |
//! | `cert show` | tells what the device's certificates say |
//! | `shadow get`, `report`, `watch` | the device's configuration shadow, or another one by `--name` |
//! | `publish`, `request` | one message; one question and its answer |
//! | `reset` | removes the configuration |
//! | `sim` | a Clesyde cloud on this machine |
//! | `demo` | all of it in one process, step by step |
//! | `completions`, `man` | for shells and for readers |
//!
//! `sim` and `demo` come with the feature `sim`, which is on by default; a device needs neither.
//!
//! Everything a host application would want too is in `cloud_facade`; here is only what a program adds: reading the
//! command line, telling people and scripts what happens, exit codes. Scripts may count on this:
//!
//! - Results go to standard output, with `--json` as one JSON object a line and nothing else. Logs and messages go to
//!   standard error. Control characters and bidirectional controls are escaped in both, in JSON as `\uXXXX`.
//! - Exit codes: 0 done, 1 failed, 2 wrong usage (nothing was sent or written), 3 not provisioned.
//! - No secret is taken from the command line, printed or logged. A value that could be one is not repeated in a message.
//! - SIGINT and SIGTERM end everything in an orderly way.
//!
//! The program as a function, which is what its `main` calls:
//!
//! ```
//! let exit = cloud_cli::run(["clesyde-cloud", "--version"]);
//! assert_eq!(format!("{exit:?}"), format!("{:?}", std::process::ExitCode::SUCCESS));
//! ```
//!
//! The example `demo` runs the demonstration: `cargo run -p cloud-cli --example demo`.

mod api;
mod cli;
mod commands;
mod device;
mod event_line;
mod failure;
mod health;
mod key;
mod live;
mod logging;
mod moment;
mod output;
mod possible_secret;
mod proxy;
mod shutdown;
mod status_page;
mod supervisor;
mod telling;
mod terminal;
mod usage;
mod values;
mod visitor;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::{Cli, Command};
use crate::commands::{
    cert, doctor, generate, messages, provision, reset, run as run_command, shadow, status,
};
#[cfg(feature = "sim")]
use crate::commands::{demo, sim};
use crate::failure::{Failure, Outcome};
use crate::output::Output;

/// Runs the program with these arguments, the first of which is its own name, until it is done.
///
/// Starts a runtime of its own, so it must not be called from asynchronous code. Starts logging, unless that has
/// been done already.
pub fn run<I, T>(arguments: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let cli = match cli::parse(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let code = error.exit_code();
            cli::print(error);
            return ExitCode::from(u8::try_from(code).unwrap_or(1));
        }
    };
    match dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !matches!(failure, Failure::OutputClosed) {
                let message = failure.to_string();
                let _ = writeln!(std::io::stderr(), "error: {}", terminal::text(&message));
            }
            failure.exit_code()
        }
    }
}

fn dispatch(cli: &Cli) -> Outcome {
    let global = &cli.global;
    logging::start(
        global.log_format,
        global.verbose,
        global.quiet,
        cli.command.is_long_running(),
    );
    let output = Output::new(global.json);
    match &cli.command {
        Command::Provision(arguments) => run_async(provision::run(global, arguments, output)),
        Command::Run(arguments) => run_async(run_command::run(global, arguments, output)),
        Command::Status => status::show(global, output),
        Command::Doctor(arguments) => run_async(doctor::run(global, arguments, output)),
        Command::Cert(cert::CertCommand::Show) => cert::show(global, output),
        Command::Shadow(arguments) => run_async(shadow::run(global, arguments, output)),
        Command::Publish(arguments) => run_async(messages::publish(global, arguments, output)),
        Command::Request(arguments) => run_async(messages::request(global, arguments, output)),
        Command::Reset(arguments) => reset::run(global, arguments, output),
        #[cfg(feature = "sim")]
        Command::Sim(arguments) => run_async(sim::run(arguments)),
        #[cfg(feature = "sim")]
        Command::Demo(arguments) => run_async(demo::run(global, arguments, output)),
        Command::Completions(arguments) => generate::completions(arguments),
        Command::Man(arguments) => generate::man(arguments),
    }
}

/// Runs a command that waits for things.
fn run_async(command: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| Failure::because("could not start the runtime", &error))?;
    let outcome = runtime.block_on(command);
    // Without a network a name look-up can hang in the system's resolver; the end does not wait for it.
    runtime.shutdown_timeout(RUNTIME_END);
    outcome
}

/// Everything that matters has ended by itself before; this is for what cannot be ended.
const RUNTIME_END: Duration = Duration::from_millis(200);

/// Two, whatever the machine has: one connection and one tunnel want no more, and on a small board every thread is
/// memory. Two rather than one, so that encrypting a large transfer does not hold up the connection's keep-alive.
const WORKERS: usize = 2;
