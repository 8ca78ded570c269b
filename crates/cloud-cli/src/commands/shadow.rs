//! `shadow`: gets, reports or watches a named shadow of the device, by default `config`.

use clap::{Args, Subcommand};
use cloud_facade::shadow::{RequestError, ShadowClient, ShadowId};
use cloud_facade::{ClesydeCloud, CloudBuilder};
use serde_json::{Map, Value, json};

use crate::commands::session::{interrupted, with_session};
use crate::error::{CliError, Result};
use crate::options::GlobalOptions;
use crate::output::Output;
use crate::time_fmt::now;
use crate::value_parsers::shadow_state;

/// The name of the configuration shadow.
const DEFAULT_NAME: &str = "config";

/// Arguments of `shadow`.
#[derive(Debug, Args)]
#[command(after_help = exclusive_help!())]
pub(crate) struct ShadowArgs {
    /// The shadow's name: 1 to 64 of a-z A-Z 0-9 : _ -
    #[arg(long, global = true, default_value = DEFAULT_NAME, value_parser = shadow_name)]
    name: String,

    #[command(subcommand)]
    command: ShadowCommand,
}

fn shadow_name(name: &str) -> Result<String, String> {
    match ShadowId::named("thing", name) {
        Ok(_) => Ok(name.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Subcommands of `shadow`.
#[derive(Debug, Subcommand)]
pub(crate) enum ShadowCommand {
    /// Show the desired and the reported state
    #[command(after_help = exclusive_help!())]
    Get,
    /// Report a part of the device's state; null removes a key
    #[command(
        after_help = exclusive_help!("Example:\n  clesyde-cloud shadow report '{\"firmware\": \"1.2.3\"}'")
    )]
    Report {
        /// The state, a JSON object
        #[arg(value_name = "JSON", value_parser = shadow_state)]
        state: Map<String, Value>,
    },
    /// Print the delta, now and after each change, until SIGINT or SIGTERM
    #[command(after_help = exclusive_help!())]
    Watch,
}

pub(crate) async fn run(global: &GlobalOptions, arguments: &ShadowArgs, output: &Output) -> Result {
    let ShadowArgs { name, command } = arguments;
    let on_interrupt = match command {
        ShadowCommand::Watch => Ok(()),
        _ => interrupted(),
    };
    let settings = |settings: CloudBuilder| settings.shadow(name);
    with_session(global, settings, on_interrupt, async |cloud| {
        let shadow = shadow(cloud, name)?;
        check_permitted(cloud, &shadow)?;
        match command {
            ShadowCommand::Get => get(&shadow, output).await,
            ShadowCommand::Report { state } => report(&shadow, state, output).await,
            ShadowCommand::Watch => watch(&shadow, output).await,
        }
    })
    .await
}

fn shadow(cloud: &ClesydeCloud, name: &str) -> Result<ShadowClient> {
    cloud
        .named_shadow(name)
        .map_err(|error| CliError::with_cause("the shadow is unavailable", &error))?
        .ok_or_else(|| CliError::Failed(format!("the shadow {name} was not requested")))
}

/// Without its answers each request would only end with its time limit.
fn check_permitted(cloud: &ClesydeCloud, shadow: &ShadowClient) -> Result {
    let session = cloud
        .iot()
        .map_err(|error| CliError::with_cause("the shadow is unavailable", &error))?;
    let [accepted, ..] = shadow.id().filters();
    if session
        .refused_subscriptions()
        .iter()
        .any(|filter| filter.as_str() == accepted)
    {
        return Err(CliError::Failed(format!(
            "the broker does not permit this device to subscribe to {accepted}: \
             the platform's policy for this device has to allow it"
        )));
    }
    Ok(())
}

async fn get(shadow: &ShadowClient, output: &Output) -> Result {
    let document = shadow.get().await.map_err(|error| failure(&error))?;
    let line = json!({
        "event": "shadow",
        "version": document.version,
        "desired": document.desired,
        "reported": document.reported,
        "delta": document.delta(),
    });
    let sections = json!({ "desired": document.desired, "reported": document.reported });
    output.result(&line, format_args!("{sections:#}"))
}

async fn report(shadow: &ShadowClient, state: &Map<String, Value>, output: &Output) -> Result {
    let version = shadow
        .report(state.clone())
        .await
        .map_err(|error| failure(&error))?;
    let line = match version {
        Some(version) => format!("reported; the shadow has version {version}"),
        None => "the shadow has this state already; nothing was sent".to_owned(),
    };
    output.result(&json!({ "event": "reported", "version": version }), line)
}

async fn watch(shadow: &ShadowClient, output: &Output) -> Result {
    let mut deltas = shadow.delta();
    loop {
        let delta = deltas.borrow_and_update().clone();
        if !delta.is_empty() {
            let line = json!({ "event": "shadow.delta", "state": delta.state, "version": delta.version, "ts": now() });
            output.result(&line, Value::Object(delta.state))?;
        }
        tokio::select! {
            changed = deltas.changed() => if changed.is_err() {
                return Ok(());
            },
            () = output.closed() => return Err(CliError::OutputClosed),
        }
    }
}

fn failure(error: &RequestError) -> CliError {
    if error.is_not_found() {
        CliError::Failed("there is no shadow yet; the first `shadow report` creates it".to_owned())
    } else {
        CliError::with_cause("the shadow service", error)
    }
}
