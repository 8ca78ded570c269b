//! `shadow`: gets, reports or watches a named shadow of the device, by default `config`.

use axum::http::Method;
use clap::{Args, Subcommand};
use cloud_facade::shadow::ShadowId;
use serde_json::{Map, Value, json};

use crate::commands::messages::print_lines;
use crate::commands::session::{interrupted, with_device};
use crate::control_socket::ControlClient;
use crate::error::Result;
use crate::options::GlobalOptions;
use crate::output::Output;
use crate::value_parsers::shadow_state;

/// The name of the configuration shadow.
const DEFAULT_NAME: &str = "config";

/// Arguments of `shadow`.
#[derive(Debug, Args)]
#[command(after_help = shared_help!())]
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
    #[command(after_help = shared_help!())]
    Get,
    /// Report a part of the device's state; null removes a key
    #[command(
        after_help = shared_help!("Example:\n  clesyde-cloud shadow report '{\"firmware\": \"1.2.3\"}'")
    )]
    Report {
        /// The state, a JSON object
        #[arg(value_name = "JSON", value_parser = shadow_state)]
        state: Map<String, Value>,
    },
    /// Print the delta, now and after each change, until SIGINT or SIGTERM
    #[command(after_help = shared_help!())]
    Watch,
}

pub(crate) async fn run(global: &GlobalOptions, arguments: &ShadowArgs, output: &Output) -> Result {
    let ShadowArgs { name, command } = arguments;
    let on_interrupt = match command {
        ShadowCommand::Watch => Ok(()),
        _ => interrupted(),
    };
    let path = format!("shadow/{name}");
    with_device(global, on_interrupt, async |device| match command {
        ShadowCommand::Get => get(device, &path, output).await,
        ShadowCommand::Report { state } => report(device, &path, state, output).await,
        ShadowCommand::Watch => {
            let mut deltas = device.stream(&format!("{path}/delta")).await?;
            print_lines(&mut deltas, output, |line| line["state"].to_string()).await
        }
    })
    .await
}

async fn get(device: &ControlClient, path: &str, output: &Output) -> Result {
    let line: Value = device.call(Method::GET, path, None).await?;
    let sections = json!({ "desired": line["desired"], "reported": line["reported"] });
    output.result(&line, format_args!("{sections:#}"))
}

async fn report(
    device: &ControlClient,
    path: &str,
    state: &Map<String, Value>,
    output: &Output,
) -> Result {
    let state = Value::Object(state.clone());
    let line: Value = device.call(Method::POST, path, Some(&state)).await?;
    let text = match line["version"].as_u64() {
        Some(version) => format!("reported; the shadow has version {version}"),
        None => "the shadow has this state already; nothing was sent".to_owned(),
    };
    output.result(&line, text)
}
