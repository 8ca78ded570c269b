//! `shadow`: the device's configuration shadow, looked at, reported to, and followed.

use clap::Subcommand;
use cloud_facade::ClesydeCloud;
use cloud_facade::shadow::{RequestError, ShadowClient};
use serde_json::{Map, Value, json};

use crate::cli::GlobalOptions;
use crate::commands::online::{online, unfinished};
use crate::failure::{Failure, Outcome};
use crate::moment::now;
use crate::output::Output;
use crate::values::json_object;

/// What `shadow` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum ShadowCommand {
    /// Show the desired and the reported state
    Get,
    /// Report a part of the device's state; null removes a key
    #[command(after_help = "Example:\n  clesyde-cloud shadow report '{\"firmware\": \"1.2.3\"}'")]
    Report {
        /// The state, a JSON object
        #[arg(value_name = "JSON", value_parser = json_object)]
        state: Map<String, Value>,
    },
    /// Show what the platform wants changed, now and from now on, until SIGINT or SIGTERM
    Watch,
}

pub(crate) async fn run(
    global: &GlobalOptions,
    command: &ShadowCommand,
    output: Output,
) -> Outcome {
    match command {
        ShadowCommand::Get => {
            online(global, unfinished(), async |cloud| {
                get(&shadow(cloud)?, output).await
            })
            .await
        }
        ShadowCommand::Report { state } => {
            online(global, unfinished(), async |cloud| {
                report(&shadow(cloud)?, state, output).await
            })
            .await
        }
        ShadowCommand::Watch => {
            online(global, Ok(()), async |cloud| {
                watch(&shadow(cloud)?, output).await
            })
            .await
        }
    }
}

fn shadow(cloud: &ClesydeCloud) -> Outcome<ShadowClient> {
    cloud
        .shadow()
        .map_err(|error| Failure::because("the shadow cannot be reached", &error))
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
