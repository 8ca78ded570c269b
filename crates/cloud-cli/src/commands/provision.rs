//! `provision`: registers the device and stores its configuration.
//!
//! The facade does the work; this module reads the key, orders the checks and prints the result.

mod batch;

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use cloud_facade::config::{LoadError, SerialNumber, Store};
use cloud_facade::provision::{Client, ClockSkew, GeneratedKeys, ProvisioningKey, RequestStage};
use cloud_facade::{OnExisting, Registered, register, register_with_keys};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::api::ApiArgs;
use crate::commands::{device_store, store};
use crate::error::{CliError, Result, chain};
use crate::options::GlobalOptions;
use crate::output::Output;
use crate::provisioning_key;
use crate::shutdown::Shutdown;
use crate::value_parsers::ApiUrl;

/// Time limit for storing the configuration after a signal; the program has 5 s in all.
const STORE_TIMEOUT: Duration = Duration::from_secs(4);

/// Delay of the first line about what the registration waits for, interval of the others, and
/// interval at which a change is noticed.
const WAITING_DELAY: Duration = Duration::from_millis(1500);
const WAITING_INTERVAL: Duration = Duration::from_secs(15);
const STAGE_INTERVAL: Duration = Duration::from_millis(250);

const EXAMPLES: &str = "\
The provisioning key is never accepted on the command line, where other users could see it: put it into
a file that only you can read, pipe it in (--token-file -), or set CLESYDE_TOKEN.

Examples:
  clesyde-cloud provision --sn SN0001 --api-url https://api.example.com --token-file key.txt
  pass clesyde/SN0001 | clesyde-cloud provision --sn SN0001 --api-url https://api.example.com --token-file -
  clesyde-cloud provision --sn SN0001 --api-url https://api.example.com --token-file key.txt --own-keys

  A production line: a directory below --base-path for each serial number that a scanner writes
      scanner | clesyde-cloud provision --from - --base-path ./devices --api-url https://api.example.com --token-file key.txt --json

A line of --from is a serial number, or a JSON object {\"sn\": \"SN0001\", \"key\": \"...\"} whose key is that device's own. Each
line is answered by a line, in the same order: provisioned, already_provisioned or provision_failed. A failure does not
stop the rest; it makes the exit code 1.";

/// Arguments of `provision`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ProvisionArgs {
    /// File that contains the provisioning key; - is standard input [default: the variable
    /// CLESYDE_TOKEN]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Register again despite an existing configuration, which is kept until the new one is
    /// complete
    #[arg(long)]
    force: bool,

    /// Generate the private keys on this device and send certificate signing requests; a platform
    /// without support for them sends its own keys
    #[arg(long)]
    own_keys: bool,

    /// Register a device for each line of this file; - is standard input
    ///
    /// Each gets a directory of its own, named after its serial number, in the base path.
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,

    #[command(flatten)]
    api: ApiArgs,
}

/// The result of a registration: as JSON and as text.
type Report = (Value, String);

pub(crate) async fn run(
    global: &GlobalOptions,
    arguments: &ProvisionArgs,
    output: &Output,
) -> Result {
    if let Some(lines) = &arguments.from {
        return batch::run(global, arguments, lines, output).await;
    }
    let sn = global.require_sn()?;
    let url = global.require_api_url()?;
    let store = if arguments.force {
        store(global)?
    } else {
        device_store(global)?
    };

    if arguments.is_done(&store)? {
        let (json, line) = already_provisioned(sn);
        return output.result(&json, line);
    }
    let key = provisioning_key::read(arguments.token_file.as_deref(), sn)?;
    let client = arguments.api.client(global, url)?;
    // Installed after key and roots are read: a read can block, and the default signal handler ends
    // it.
    let mut shutdown = Shutdown::install()?;
    let (json, line) = arguments
        .register(&store, &client, url, sn, &key, &mut shutdown)
        .await?;
    output.result(&json, line)
}

impl ProvisionArgs {
    /// Whether the device is registered already, and is not to be registered again.
    fn is_done(&self, store: &Store) -> Result<bool> {
        let provisioned = store
            .is_provisioned()
            .map_err(|error| CliError::Failed(chain(&error)))?;
        if !provisioned || self.force {
            return Ok(false);
        }
        // Reports damage now, so that the next `run` does not fail unexpectedly.
        match store.load_partial() {
            Ok(loaded) => {
                if let Err(damage) = &loaded.device.remote {
                    tracing::warn!(
                        "{}; `run` requests it from the platform again",
                        chain(damage)
                    );
                }
                Ok(true)
            }
            Err(LoadError::Busy(_)) => Ok(true),
            Err(error) => Err(CliError::Failed(format!(
                "{}; --force replaces it and registers the device again",
                chain(&error)
            ))),
        }
    }

    async fn register(
        &self,
        store: &Store,
        client: &Client,
        url: &ApiUrl,
        sn: &SerialNumber,
        key: &ProvisioningKey,
        shutdown: &mut Shutdown,
    ) -> Result<Report> {
        let existing = if self.force {
            OnExisting::Replace
        } else {
            OnExisting::Keep
        };
        let registration = async {
            if self.own_keys {
                register_with_keys(store, client, sn, key, &GeneratedKeys, existing).await
            } else {
                register(store, client, sn, key, existing).await
            }
        };
        tokio::pin!(registration);
        let registered = tokio::select! {
            registered = &mut registration => registered,
            never = report_waiting(client, url) => match never {},
            () = shutdown.requested() => match client.stage() {
                // The key works only once, so the received response is stored.
                RequestStage::Answered => timeout(STORE_TIMEOUT, registration).await.map_err(|_| {
                    CliError::Failed(format!(
                        "interrupted while the response of {url} was stored, which took too long; check with `clesyde-cloud status` \
                         whether it is stored, and get a new key for this device if it is not"
                    ))
                })?,
                stage => return Err(CliError::Failed(interrupted(stage, url))),
            },
        };
        match registered.map_err(|error| CliError::Failed(chain(&error)))? {
            Registered::New {
                access_point,
                url,
                own_keys,
                clock_skew,
            } => {
                // The log reports it to people.
                let wrong_clock = clock_skew.filter(ClockSkew::is_significant);
                let result = json!({
                    "event": "provisioned",
                    "sn": sn.as_str(),
                    "access_point": access_point,
                    "url": url,
                    "own_keys": own_keys,
                    "clock_correction_ms": wrong_clock.map(|skew| skew.correction_ms()),
                });
                let mut line = format!("registered {sn}; its public page is {url}");
                if own_keys {
                    line += "\nits private keys were generated on this device and have not left it";
                } else if self.own_keys {
                    line += "\nthe platform does not support signing requests: it generated the private keys itself";
                }
                Ok((result, line))
            }
            _ => Ok(already_provisioned(sn)),
        }
    }
}

/// Logs what the registration waits for: within 2 s, then after each change and at intervals.
async fn report_waiting(client: &Client, url: &ApiUrl) -> Infallible {
    sleep(WAITING_DELAY).await;
    loop {
        let stage = client.stage();
        match stage {
            RequestStage::Unsent => {
                tracing::warn!("waiting for a connection to {url}; the key is not sent yet");
            }
            RequestStage::Sent => {
                tracing::warn!("waiting for the response of {url}; the request is sent");
            }
            RequestStage::Answered => {
                tracing::warn!("storing the response of {url}");
            }
            _ => {}
        }
        let _ = timeout(WAITING_INTERVAL, async {
            while client.stage() == stage {
                sleep(STAGE_INTERVAL).await;
            }
        })
        .await;
    }
}

/// Describes the possible state of the key after an interruption.
fn interrupted(stage: RequestStage, url: &ApiUrl) -> String {
    match stage {
        RequestStage::Unsent => {
            format!("interrupted before the request to {url} was sent: the key is still valid")
        }
        _ => format!(
            "interrupted during the request to {url}, which may have registered the device: it then needs a new key"
        ),
    }
}

fn already_provisioned(sn: &SerialNumber) -> Report {
    (
        json!({ "event": "already_provisioned", "sn": sn.as_str() }),
        format!("{sn} is already provisioned, and nothing was sent; --force registers it again"),
    )
}
