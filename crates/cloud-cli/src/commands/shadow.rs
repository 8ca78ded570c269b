//! `shadow`: a named shadow of the device, `config` unless another one is meant, looked at, reported to, and followed.

use clap::{Args, Subcommand};
use cloud_facade::shadow::{RequestError, ShadowClient, ShadowId};
use cloud_facade::{ClesydeCloud, DeviceSettings};
use serde_json::{Map, Value, json};

use crate::cli::GlobalOptions;
use crate::commands::online::{online, unfinished};
use crate::failure::{Failure, Outcome};
use crate::moment::now;
use crate::output::Output;
use crate::values::json_object;

/// The configuration's.
const DEFAULT_NAME: &str = "config";

/// What `shadow` takes.
#[derive(Debug, Args)]
#[command(after_help = alone!())]
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

/// What `shadow` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum ShadowCommand {
    /// Show the desired and the reported state
    #[command(after_help = alone!())]
    Get,
    /// Report a part of the device's state; null removes a key
    #[command(
        after_help = alone!("Example:\n  clesyde-cloud shadow report '{\"firmware\": \"1.2.3\"}'")
    )]
    Report {
        /// The state, a JSON object
        #[arg(value_name = "JSON", value_parser = json_object)]
        state: Map<String, Value>,
    },
    /// Show what the platform wants changed, now and from now on, until SIGINT or SIGTERM
    #[command(after_help = alone!())]
    Watch,
}

pub(crate) async fn run(global: &GlobalOptions, arguments: &ShadowArgs, output: Output) -> Outcome {
    let ShadowArgs { name, command } = arguments;
    let interrupted = match command {
        ShadowCommand::Watch => Ok(()),
        _ => unfinished(),
    };
    let settings = |settings: DeviceSettings| settings.with_shadow(name);
    online(global, settings, interrupted, async |cloud| {
        let shadow = shadow(cloud, name)?;
        match command {
            ShadowCommand::Get => get(&shadow, output).await,
            ShadowCommand::Report { state } => report(&shadow, state, output).await,
            ShadowCommand::Watch => watch(&shadow, output).await,
        }
    })
    .await
}

fn shadow(cloud: &ClesydeCloud, name: &str) -> Outcome<ShadowClient> {
    cloud
        .named_shadow(name)
        .map_err(|error| Failure::because("the shadow cannot be reached", &error))?
        .ok_or_else(|| Failure::Failed(format!("the shadow {name} was not asked for")))
}

async fn get(shadow: &ShadowClient, output: Output) -> Outcome {
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

async fn report(shadow: &ShadowClient, state: &Map<String, Value>, output: Output) -> Outcome {
    let version = shadow
        .report(state.clone())
        .await
        .map_err(|error| failure(&error))?;
    let line = match version {
        Some(version) => format!("reported; the shadow has version {version}"),
        None => "the shadow says so already; nothing was sent".to_owned(),
    };
    output.result(&json!({ "event": "reported", "version": version }), line)
}

async fn watch(shadow: &ShadowClient, output: Output) -> Outcome {
    let mut deltas = shadow.delta();
    loop {
        let delta = deltas.borrow_and_update().clone();
        if !delta.is_empty() {
            let line = json!({ "event": "shadow.delta", "state": delta.state, "version": delta.version, "ts": now() });
            output.result(&line, Value::Object(delta.state))?;
        }
        if deltas.changed().await.is_err() {
            return Ok(());
        }
    }
}

fn failure(error: &RequestError) -> Failure {
    if error.is_not_found() {
        Failure::Failed("there is no shadow yet; the first `shadow report` makes one".to_owned())
    } else {
        Failure::because("the shadow service", error)
    }
}
