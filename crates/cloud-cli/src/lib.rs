//! The program `clesyde-cloud`: connects a device to the Clesyde cloud from the command line.
//!
//! | command | does |
//! |---|---|
//! | `provision` | registers the device, once |
//! | `run` | connects and stays connected; what the tunnel serves is a status page, a local web application or a local port |
//! | `status` | prints the configuration, and the connections of a running instance |
//! | `doctor` | checks the whole path and suggests fixes |
//! | `cert show` | prints the device's certificates |
//! | `shadow get`, `report`, `watch` | the device's configuration shadow, or another one by `--name` |
//! | `publish`, `request` | one message; one request and its response |
//! | `reset` | removes the configuration |
//! | `sim` | a simulated Clesyde cloud on this machine |
//! | `demo` | a demonstration of everything in one process |
//! | `completions`, `man` | shell completions and manual pages |
//!
//! The feature `sim`, enabled by default, adds `sim` and `demo`; a device needs neither.
//!
//! Everything that a host application needs too is in `cloud_facade`; this crate adds the command
//! line, the output for people and scripts, and exit codes. The contract with scripts:
//!
//! - Results go to standard output, with `--json` as one JSON object per line and nothing else. Logs
//!   and messages go to standard error. Control characters and bidirectional controls are escaped in
//!   both, in JSON as `\uXXXX`.
//! - Exit codes: 0 done, 1 failed, 2 wrong usage (nothing was sent or written), 3 not provisioned.
//! - No secret is accepted on the command line, printed or logged. Messages do not repeat a value that
//!   may be one.
//! - SIGINT and SIGTERM shut everything down gracefully.
//!
//! The program as a function, which its `main` calls:
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
mod error;
mod event_json;
mod health;
mod logging;
mod options;
mod output;
mod provisioning_key;
mod proxy;
mod public_client;
mod redact;
mod shutdown;
mod status_page;
mod status_socket;
mod stdout;
mod systemd;
mod terminal;
mod time_fmt;
mod usage_error;
mod value_parsers;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::CommandFactory;

use crate::cli::{Cli, Command};
use crate::commands::{
    cert, completions, doctor, messages, provision, reset, run as run_command, shadow, status,
};
#[cfg(feature = "sim")]
use crate::commands::{demo, sim};
use crate::error::{CliError, Result};
use crate::output::Output;

/// Runs the program with these arguments, the first of which is its name, until it exits.
///
/// Starts its own runtime, so it must not be called from asynchronous code. Starts logging, unless
/// the caller has.
pub fn run<I, T>(arguments: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let cli = match cli::parse(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let code = error.exit_code();
            cli::print_error(error);
            return ExitCode::from(u8::try_from(code).unwrap_or(1));
        }
    };
    match dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !matches!(failure, CliError::OutputClosed) {
                let message = failure.to_string();
                let _ = writeln!(std::io::stderr(), "error: {}", terminal::text(&message));
            }
            failure.exit_code()
        }
    }
}

fn dispatch(cli: &Cli) -> Result {
    let global = &cli.global;
    logging::init(
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
        Command::Completions(arguments) => completions::completions(arguments, Cli::command()),
        Command::Man(arguments) => completions::man(arguments, Cli::command()),
    }
}

/// Runs an asynchronous command.
fn run_async(command: impl Future<Output = Result>) -> Result {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .map_err(|error| CliError::with_cause("could not start the runtime", &error))?;
    let result = runtime.block_on(command);
    // Without a network, a DNS lookup can block in the system's resolver; shutdown does not wait
    // for it.
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_TIMEOUT);
    result
}

/// Time limit for blocking tasks that cannot be cancelled; everything else has ended before.
const RUNTIME_SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(200);

/// Two on any machine: one connection and one tunnel need no more, and each thread costs memory on
/// a small board. Two rather than one, so that encrypting a large transfer does not delay the
/// connection's keep-alive.
const WORKER_THREADS: usize = 2;
