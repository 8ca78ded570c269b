//! `provision`: registers the device and stores what it gets.
//!
//! What it does is the facade's; here are the key's source, the order of checks, and the words.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use cloud_facade::config::LoadError;
use cloud_facade::provision::{ClockSkew, GeneratedKeys, RequestStage};
use cloud_facade::{Existing, Registered, register, register_with_keys};
use serde_json::json;
use tokio::time::timeout;

use crate::api::ApiArgs;
use crate::cli::GlobalOptions;
use crate::commands::{access_failure, device_store, store};
use crate::failure::{Failure, Outcome, chain};
use crate::key;
use crate::output::Output;
use crate::shutdown::Shutdown;
use crate::values::ApiUrl;

/// What storing gets to end when the program is told to: it has 5 s in all.
const STORING: Duration = Duration::from_secs(4);

const EXAMPLES: &str = "\
The provisioning key is never taken from the command line, where other users could see it: put it into
a file that only you can read, pipe it in (--token-file -), or set CLESYDE_TOKEN.

Examples:
  clesyde-cloud provision --sn SN0001 --api-url https://api.example.com --token-file key.txt
  pass clesyde/SN0001 | clesyde-cloud provision --sn SN0001 --api-url https://api.example.com --token-file -
  clesyde-cloud provision --sn SN0001 --api-url https://api.example.com --token-file key.txt --own-keys";

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

    /// Make the private keys on this device and send signing requests; a platform that does not take them sends its own
    /// keys nevertheless
    #[arg(long)]
    own_keys: bool,

    #[command(flatten)]
    api: ApiArgs,
}

pub(crate) async fn run(
    global: &GlobalOptions,
    arguments: &ProvisionArgs,
    output: Output,
) -> Outcome {
    let sn = global.require_sn()?;
    let url = global.require_api_url()?;
    let store = if arguments.force {
        store(global)?
    } else {
        device_store(global)?
    };

    let provisioned = store
        .is_provisioned()
        .map_err(|error| access_failure(&error))?;
    if provisioned && !arguments.force {
        // Who starts the program next is to find what it needs.
        return match store.load_partial() {
            Ok(loaded) => {
                if let Err(damage) = &loaded.device.remote {
                    tracing::warn!("{}; `run` asks the platform for it again", chain(damage));
                }
                already(sn.as_str(), output)
            }
            Err(LoadError::Busy(_)) => already(sn.as_str(), output),
            Err(error) => Err(Failure::Failed(format!(
                "{}; it is not replaced without --force, which registers the device again",
                chain(&error)
            ))),
        };
    }
    let key = key::read(arguments.token_file.as_deref(), sn)?;
    let client = arguments.api.client(global, url)?;
    // Not before: reading the key and the roots can wait for somebody, and nothing of ours would end that.
    let mut shutdown = Shutdown::install()?;

    let existing = if arguments.force {
        Existing::Replace
    } else {
        Existing::Keep
    };
    let asked = async {
        if arguments.own_keys {
            register_with_keys(&store, &client, sn, &key, &GeneratedKeys, existing).await
        } else {
            register(&store, &client, sn, &key, existing).await
        }
    };
    tokio::pin!(asked);
    let registered = tokio::select! {
        registered = &mut asked => registered,
        () = shutdown.requested() => match client.stage() {
            // The key works once, so that an answer that is here is not given up.
            RequestStage::Answered => timeout(STORING, asked).await.map_err(|_| {
                Failure::Failed(format!(
                    "interrupted while the answer of {url} was stored, which took too long; see with `clesyde-cloud status` \
                     whether it is there, and get a new key for this device if it is not"
                ))
            })?,
            stage => return Err(Failure::Failed(interrupted(stage, url))),
        },
    };
    match registered.map_err(|error| Failure::Failed(chain(&error)))? {
        Registered::Now {
            access_point,
            url,
            own_keys,
            clock_skew,
        } => {
            // People are told by the log.
            let wrong_clock = clock_skew.filter(ClockSkew::is_significant);
            let result = json!({
                "event": "provisioned",
                "sn": sn.as_str(),
                "access_point": access_point,
                "url": url,
                "own_keys": own_keys,
                "clock_correction_ms": wrong_clock.map(|skew| skew.correction_ms()),
            });
            let mut line = format!("registered {sn}; its page will be at {url}");
            if own_keys {
                line += "\nits private keys were made on this device and have not left it";
            } else if arguments.own_keys {
                line += "\nthe platform takes no signing requests: it made the private keys itself";
            }
            output.result(&result, line)
        }
        _ => already(sn.as_str(), output),
    }
}

/// What may have become of the key.
fn interrupted(stage: RequestStage, url: &ApiUrl) -> String {
    match stage {
        RequestStage::Unsent => format!(
            "interrupted before {url} was asked to register the device: the key is as good as before"
        ),
        _ => format!(
            "interrupted while {url} was asked: it may have registered the device, and then needs a new key"
        ),
    }
}

fn already(sn: &str, output: Output) -> Outcome {
    output.result(
        &json!({ "event": "already_provisioned", "sn": sn }),
        "this device is already provisioned, and nothing was sent; --force registers it again",
    )
}
