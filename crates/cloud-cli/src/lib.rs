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
//! | `config show`, `check`, `template` | the settings and where they come from; checks the file |
//! | `subscribe` | the messages of a topic |
//! | `events` | the events of a running instance |
//! | `reset` | removes the configuration |
//! | `service install`, `uninstall`, `status` | the program as a service of systemd |
//! | `sim` | a simulated Clesyde cloud on this machine |
//! | `demo` | a demonstration of everything in one process |
//! | `completions`, `man` | shell completions and manual pages |
//!
//! The feature `sim`, enabled by default, adds `sim` and `demo`; a device needs neither.
//!
//! `shadow`, `publish`, `request`, `subscribe`, `events`, `status` and `doctor` use a running
//! instance through its control socket; other programs can too (docs/control-socket.md).
//!
//! Everything that a host application needs too is in `cloud_facade`; this crate adds the command
//! line, the output for people and scripts, and exit codes. The contract with scripts:
//!
//! - Results go to standard output, with `--json` as one JSON object per line and nothing else.
//!   Logs and messages go to standard error. Control characters and bidirectional controls are
//!   escaped in both, in JSON as `\uXXXX`.
//! - Exit codes: 0 done, 1 failed, 2 wrong usage (nothing was sent or written), 3 not provisioned.
//! - No secret is accepted on the command line, printed or logged. Messages do not repeat a value
//!   that may be one.
//! - SIGINT and SIGTERM shut everything down gracefully; SIGHUP reads the settings of `run` again.
//! - A reader of standard output or standard error that stops reading delays nothing. Lines beyond
//!   a bounded queue are lost, counted and reported.
//!
//! The program as a function, which its `main` calls:
//!
//! ```
//! let exit = cloud_cli::run(["clesyde-cloud", "--version"]);
//! assert_eq!(format!("{exit:?}"), format!("{:?}", std::process::ExitCode::SUCCESS));
//! ```
//!
//! The example `demo` runs the demonstration: `cargo run -p cloud-cli --example demo`.

mod access_log;
mod api;
mod application_check;
mod auth_options;
mod caller_records;
mod cli;
mod commands;
mod control_socket;
mod device;
mod error;
mod event_json;
mod forward_options;
mod forward_target;
mod health;
mod heap;
mod journal;
mod logging;
mod options;
mod outbox_options;
mod outlet;
mod output;
mod provisioning_key;
mod proxy;
mod public_client;
mod redact;
mod reload;
mod route;
mod session_options;
mod settings;
mod shutdown;
mod static_files;
mod status_page;
mod systemd;
mod terminal;
mod ticks;
mod time_fmt;
mod usage_error;
mod value_parsers;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::cli::{Cli, Command, documented};
use crate::commands::{
    cert, completions, config, doctor, manual, messages, provision, reset, run as run_command,
    service, shadow, status,
};
#[cfg(feature = "sim")]
use crate::commands::{demo, sim};
use crate::error::{CliError, Result};
use crate::output::Output;
use crate::reload::Reloaded;
use crate::shutdown::Shutdown;

/// Runs the program with these arguments, the first of which is its name, until it exits.
///
/// Starts its own runtime, so it must not be called from asynchronous code. Starts logging, and
/// logs panics, unless the caller has set up logging.
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
    let global = &cli.global;
    let started = logging::init(global.log_format, cli.log_level());
    if let Err(failure) = started {
        return report(&failure);
    }
    for warning in &cli.settings.warnings {
        tracing::warn!("{warning}");
    }
    match run_directly(&cli, &Output::direct(global.json)) {
        Some(result) => {
            let code = result.map_or_else(|failure| report(&failure), |()| ExitCode::SUCCESS);
            logging::blocking_flush();
            code
        }
        None => run_async(&cli).unwrap_or_else(|failure| report(&failure)),
    }
}

/// Runs a command that neither reacts to signals nor keeps a connection. `None` for the others.
fn run_directly(cli: &Cli, output: &Output) -> Option<Result> {
    let global = &cli.global;
    Some(match &cli.command {
        Command::Status => status::show(global, output),
        Command::Cert(cert::CertCommand::Show) => cert::show(global, output),
        Command::Config(command) => {
            config::run(global, &cli.settings, &cli::settings(), command, output)
        }
        Command::Reset(arguments) => reset::run(global, arguments, output),
        Command::Completions(arguments) => completions::completions(arguments, documented()),
        Command::Service(arguments) => service::run(global, arguments, output),
        Command::Man(arguments) => manual::man(arguments, documented()),
        _ => return None,
    })
}

/// Runs an asynchronous command. Returns its exit code.
fn run_async(cli: &Cli) -> Result<ExitCode> {
    let output = Output::queued(cli.global.json)?;
    let mut builder = match cli.command {
        Command::Run(_) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .map_err(|error| CliError::with_cause("could not start the runtime", &error))?;
    let code = runtime.block_on(async {
        let result = run_queued(cli, &output).await;
        finish(result, &output, cli.command.is_long_running()).await
    });
    // Without a network, a DNS lookup can block in the system's resolver; shutdown does not wait
    // for it.
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_TIMEOUT);
    Ok(code)
}

async fn run_queued(cli: &Cli, output: &Output) -> Result {
    let global = &cli.global;
    match &cli.command {
        Command::Provision(arguments) => provision::run(global, arguments, output).await,
        Command::Run(arguments) => {
            run_command::run(global, arguments, &cli.settings, read_settings, output).await
        }
        Command::Doctor(arguments) => {
            doctor::run(global, arguments, &cli.settings, &cli::settings(), output).await
        }
        Command::Shadow(arguments) => shadow::run(global, arguments, output).await,
        Command::Events => messages::events(global, output).await,
        Command::Subscribe(arguments) => messages::subscribe(global, arguments, output).await,
        Command::Publish(arguments) => messages::publish(global, arguments, output).await,
        Command::Request(arguments) => messages::request(global, arguments, output).await,
        #[cfg(feature = "sim")]
        Command::Sim(arguments) => sim::run(global, arguments, output).await,
        #[cfg(feature = "sim")]
        Command::Demo(arguments) => demo::run(global, arguments, output).await,
        Command::Status
        | Command::Cert(_)
        | Command::Config(_)
        | Command::Reset(_)
        | Command::Service(_)
        | Command::Completions(_)
        | Command::Man(_) => Ok(()),
    }
}

/// Reads the settings of `run` again. The error is one line.
fn read_settings(arguments: Vec<OsString>) -> Result<Box<Reloaded>, String> {
    let cli = cli::parse(arguments).map_err(|error| cli::error_line(&error))?;
    let Command::Run(run) = &cli.command else {
        return Err("the command is not `run`".to_owned());
    };
    let served = run_command::served(&cli.global, run, &cli.settings);
    let served = served.map_err(|error| terminal::line(&error.to_string()).into_owned())?;
    Ok(Box::new(Reloaded {
        served,
        log_level: cli.log_level(),
        settings: cli.settings,
    }))
}

/// Reports an error, and waits until everything is written, but not longer than the user or a
/// supervisor wants.
async fn finish(result: Result, output: &Output, long_running: bool) -> ExitCode {
    let succeeded = result.is_ok();
    let mut code = result.map_or_else(|failure| report(&failure), |()| ExitCode::SUCCESS);
    let flush = async {
        let (written, ()) = tokio::join!(output.flush(), logging::flush());
        if let Err(failure) = written
            && succeeded
            && !long_running
        {
            code = report(&failure);
            logging::flush().await;
        }
    };
    tokio::select! {
        () = flush => {}
        is_interrupted = end_of_patience(long_running) => {
            if is_interrupted && succeeded {
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

/// Waits until unread output no longer delays the exit. Returns whether a signal interrupts a
/// command whose result is unread.
async fn end_of_patience(long_running: bool) -> bool {
    if !long_running
        && shutdown::requested_at().is_none()
        && let Ok(mut shutdown) = Shutdown::install()
    {
        // A reader may be slow, such as a person with a pager.
        shutdown.requested().await;
        return true;
    }
    let now = Instant::now();
    let limit = now + FLUSH_TIMEOUT;
    let deadline = shutdown::requested_at().map_or(limit, |at| (at + EXIT_TIMEOUT).min(limit));
    sleep_until(deadline.max(now + MIN_FLUSH_TIMEOUT)).await;
    false
}

/// Prints an error. Returns its exit code.
fn report(failure: &CliError) -> ExitCode {
    if !matches!(failure, CliError::OutputClosed) {
        logging::message(&format!("error: {failure}"));
    }
    failure.exit_code()
}

/// Time limit for blocking tasks that cannot be cancelled; everything else has ended before.
const RUNTIME_SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(200);

/// Time limit for readers to read the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
const MIN_FLUSH_TIMEOUT: Duration = Duration::from_millis(100);

/// The program has 5 s from a signal until it exits.
const EXIT_TIMEOUT: Duration = Duration::from_millis(4700);

/// Of all commands but `run`: a simulator serves several devices. A device is one thread, where the
/// tasks that a request passes through wake each other without system calls, and their frames are
/// written together; two threads need a third more processor time for a request, and memory of
/// their own. Encrypting a large transfer does not delay the session's keep-alive: after 64 KiB,
/// other tasks have their turn.
const WORKER_THREADS: usize = 2;
