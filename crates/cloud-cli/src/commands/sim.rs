//! `sim`: runs a simulated Clesyde cloud on this machine until SIGINT or SIGTERM.
//!
//! The line that it prints when ready is for programs, so it is JSON with or without `--json`; what
//! is for people goes to standard error.

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use cloud_sim::{DeltaForm, SimConfig, Simulator};

use crate::error::{CliError, Result, chain};
use crate::logging;
use crate::options::GlobalOptions;
use crate::output::Output;
use crate::redact::{REDACTED, Redacted, RedactedPath, may_be_secret};
use crate::shutdown::Shutdown;

const DETAILS: &str = r#"When ready, prints one JSON line with api_url, provisioning_key, mqtt, relay, control_url, control_token_file, ca_file
and public_root_file. The key works for any serial number, once for each.

A browser shows the devices' pages if it trusts public_root_file, the root of their certificates; ca_file has it too, and
that of the broker. A data directory keeps the ports as well, unless they are given.

Control API (HTTP, JSON) at control_url:
  GET    /devices                      every device: sn, registered, online, tunnel, status_history, ...
  GET    /devices/SN                   one of them
  DELETE /devices/SN                   forget it; the key works for it again
  POST   /devices/SN/rotate            make it fetch a new certificate; answers {"serial": ...}
  POST   /devices/SN/rotate-iot        the same for its client certificate
  PUT    /devices/SN/shadow/desired    merge an object into the desired state of the shadow `config`
  PUT    /devices/SN/shadow/name/NAME/desired
                                       the same for the shadow NAME
  POST   /devices/SN/actions/ACTION    publish the body as the platform's message
  POST   /broadcast                    publish the body to all devices
  POST   /faults                       inject a fault; `times` is how often, 0 for until clear

The Content-Type of a body is JSON. A Host or Origin other than the control API's own is refused, so that no web page
controls the simulator. Other users of this machine need the token in control_token_file. With curl:
  curl CONTROL_URL/devices
  curl --json '{"hello":"all"}' CONTROL_URL/broadcast
  printf 'Authorization: Bearer %s' "$(cat CONTROL_TOKEN_FILE)" | curl -H @- CONTROL_URL/devices

Faults:
  {"fault":"drop_mqtt","sn":"SN0001"}               cut MQTT connections (all, without sn)
  {"fault":"refuse_mqtt","seconds":30}              refuse connections; also freeze_mqtt
  {"fault":"withhold","packet":"suback","times":1}  also connack, puback, pingresp
  {"fault":"drop_tunnel","sn":"SN0001"}             cut tunnels (all, without sn)
  {"fault":"api","answer":{"status":{"code":503}}}  also {"delay":{"ms":500}}, "broken_json", "cut_json", "cut_body",
                                                    "html", "lost", {"huge":{"bytes":50000000}}, {"error":{"message":"no"}},
                                                    {"missing_key":{"key":"remote.pkey"}}, {"mismatched_key":{"service":"remote"}}
  {"fault":"token","answer":"hold"}                 also "malformed", "expired", "foreign", "wrong_key", {"late":{"ms":500}}
  {"fault":"send_token","sn":"SN0001"}              send an unrequested token
  {"fault":"certificate","answer":"wrong_key"}      also "hold", "malformed", "wrong_serial", {"late":{"ms":500}}
  {"fault":"clear"}                                 end all faults

Example:
  clesyde-cloud sim --data-dir ./cloud --api-port 8080"#;

/// Arguments of `sim`.
#[derive(Debug, Args)]
#[command(after_help = "The control API and its faults are described in --help.", after_long_help = DETAILS)]
pub(crate) struct SimArgs {
    /// Port of the provisioning API; 0 is the one that --data-dir keeps, or else any free port
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    api_port: u16,

    /// Port of the MQTT broker; 0 as above
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    mqtt_port: u16,

    /// Port of the relay, for tunnels and for the public; 0 as above
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    relay_port: u16,

    /// Port of the control API; 0 as above
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    control_port: u16,

    /// Store authorities, keys, ports and devices in this directory, for the next run
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Give devices host names without ports, as the real platform does
    #[arg(long)]
    bare_endpoints: bool,

    /// Form of the shadow's delta: AWS's own, or the one that the original library reads
    #[arg(long, value_name = "FORM", value_enum, default_value = "aws")]
    delta_form: Delta,

    /// Validity of tokens
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(1..=315_360_000))]
    token_valid: u64,

    /// Version of the tunnel's protocol that tokens demand
    #[arg(long, value_name = "N", default_value_t = 0)]
    protocol_version: u8,

    /// Cipher that tokens demand: aes-cbc, aes-gcm or aes-gcm-siv
    #[arg(long, value_name = "NAME", default_value = "aes-cbc")]
    cipher: String,

    /// Maximum callers that the relay serves at a time from one address
    ///
    /// A load test needs more. A device has limits of its own, such as --max-connections-per-caller
    /// of run.
    #[arg(long, value_name = "NUMBER", default_value = "512")]
    max_callers_per_address: NonZeroUsize,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Delta {
    Aws,
    Seed,
}

/// What a person does to see a device's page.
fn browser_advice(port: u16, public_root: &Path) -> String {
    format!(
        "browser: the page of device SN0001 is https://sn0001.ui.localhost:{port}/ once it runs; trust {} for web sites first",
        RedactedPath(public_root)
    )
}

pub(crate) async fn run(global: &GlobalOptions, arguments: &SimArgs, output: &Output) -> Result {
    let config = arguments.config()?;
    if let Some(path) = &arguments.data_dir
        && path.exists()
        && !path.is_dir()
    {
        return Err(CliError::Failed(format!(
            "the data directory {path:?} is not a directory: name one with --data-dir DIR"
        )));
    }
    let mut shutdown = Shutdown::install()?;
    let simulator = Simulator::start(config)
        .await
        .map_err(|error| CliError::Failed(chain(&error)))?;
    output.always_json(&simulator.ready())?;
    if !global.json {
        logging::message(&browser_advice(
            simulator.relay_addr().port(),
            simulator.public_root_file(),
        ));
    }
    // Without the line, nobody can use the simulator.
    let result = tokio::select! {
        () = shutdown.requested() => Ok(()),
        () = output.closed() => Err(CliError::OutputClosed),
    };
    simulator.stop().await;
    result
}

impl SimArgs {
    fn config(&self) -> Result<SimConfig> {
        let mut config = SimConfig::default();
        config.api_port = self.api_port;
        config.mqtt_port = self.mqtt_port;
        config.relay_port = self.relay_port;
        config.control_port = self.control_port;
        config.data_dir = self.data_dir.clone();
        config.bare_endpoints = self.bare_endpoints;
        config.delta_form = match self.delta_form {
            Delta::Aws => DeltaForm::Aws,
            Delta::Seed => DeltaForm::Seed,
        };
        config.token_valid = Duration::from_secs(self.token_valid);
        config.protocol_version = self
            .protocol_version
            .try_into()
            .map_err(|error| invalid("--protocol-version <N>", &self.protocol_version, &error))?;
        config.cipher = self
            .cipher
            .parse()
            .map_err(|error| invalid("--cipher <NAME>", &self.cipher, &error))?;
        config.callers_per_address = self.max_callers_per_address.get();
        Ok(config)
    }
}

/// Formats an invalid value like clap does.
fn invalid(option: &str, value: &dyn Display, error: &dyn Display) -> CliError {
    let value = value.to_string();
    let reason = error.to_string();
    let reason = if may_be_secret(&value) {
        reason.replace(&value, REDACTED)
    } else {
        reason
    };
    CliError::Usage(format!(
        "invalid value {} for '{option}': {reason}",
        Redacted(&value)
    ))
}
