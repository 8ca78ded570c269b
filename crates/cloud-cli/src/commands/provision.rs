//! `provision`: registers the device and stores what it gets.
//!
//! What it does is the facade's; here are the key's source, the order of checks, and the words.

use std::path::PathBuf;

use clap::Args;
use cloud_facade::provision::Client;
use cloud_facade::{Existing, Registered, register};
use serde_json::json;

use crate::cli::GlobalOptions;
use crate::commands::{access_failure, store};
use crate::failure::{Failure, Outcome, chain};
use crate::key;
use crate::output::Output;
use crate::shutdown::Shutdown;

const EXAMPLES: &str = "\
The provisioning key is never taken from the command line, where other users could see it: put it into
a file that only you can read, pipe it in (--token-file -), or set CLESYDE_TOKEN.

Examples:
  clesyde-cloud provision --sn SN0001 --api-url https://api.example.com --token-file key.txt
  pass clesyde/SN0001 | clesyde-cloud provision --sn SN0001 --api-url https://api.example.com --token-file -";

/// What `provision` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ProvisionArgs {
    /// File that holds the provisioning key; - is standard input [default: the variable CLESYDE_TOKEN]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Register again although there is a configuration; it is kept until the new one is whole
    #[arg(long)]
    force: bool,

    /// Trust the root certificates in this PEM file for the API, besides the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

pub(crate) async fn run(
    global: &GlobalOptions,
    arguments: &ProvisionArgs,
    output: Output,
) -> Outcome {
    let sn = global.require_sn()?;
    let url = global.require_api_url()?;
    let store = store(global)?;
    let mut shutdown = Shutdown::install()?;

    let provisioned = store
        .is_provisioned()
        .map_err(|error| access_failure(&error))?;
    if provisioned && !arguments.force {
        return already(sn.as_str(), output);
    }
    let key = key::read(arguments.token_file.as_deref())?;
    let mut client = Client::builder(&url.to_string());
    if let Some(path) = &arguments.ca_file {
        let pem = std::fs::read(path).map_err(|error| {
            Failure::at("could not read the root certificates in", path, &error)
        })?;
        client = client.additional_roots_pem(pem);
    }
    let client = client
        .build()
        .map_err(|error| Failure::Failed(chain(&error)))?;

    let existing = if arguments.force {
        Existing::Replace
    } else {
        Existing::Keep
    };
    let registered = tokio::select! {
        registered = register(&store, &client, sn, &key, existing) => registered,
        () = shutdown.requested() => {
            return Err(Failure::Failed(format!(
                "interrupted while {url} was asked; it may have registered the device all the same, and then needs a new key"
            )));
        }
    };
    match registered.map_err(|error| Failure::Failed(chain(&error)))? {
        Registered::Now { access_point } => {
            let result =
                json!({ "event": "provisioned", "sn": sn.as_str(), "access_point": access_point });
            output.result(
                &result,
                format_args!("registered {sn}; its page will be at https://{access_point}/"),
            )
        }
        _ => already(sn.as_str(), output),
    }
}

fn already(sn: &str, output: Output) -> Outcome {
    output.result(
        &json!({ "event": "already_provisioned", "sn": sn }),
        "this device is already provisioned, and nothing was sent; --force registers it again",
    )
}
