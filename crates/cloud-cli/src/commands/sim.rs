//! `sim`: a Clesyde cloud on this machine, until SIGINT or SIGTERM.
//!
//! What it prints when it is ready is for programs, so it is JSON with or without `--json`.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use cloud_sim::{DeltaForm, SimConfig, Simulator};

use crate::failure::{Failure, Outcome, chain};
use crate::output::write_json;
use crate::possible_secret::{NOT_SHOWN, Shown, is_possible_secret};
use crate::shutdown::Shutdown;

const DETAILS: &str = r#"When ready it prints one JSON line with api_url, provisioning_key, mqtt, relay, control_url, control_token_file and ca_file.
The key works for any serial number, once for each.

Control API (HTTP, JSON) at control_url:
  GET    /devices                      every device: sn, registered, online, tunnel, status_history, ...
  GET    /devices/SN                   one of them
  DELETE /devices/SN                   forget it; the key works for it again
  POST   /devices/SN/rotate            make it fetch a new certificate; answers {"serial": ...}
  POST   /devices/SN/rotate-iot        the same for its client certificate
  PUT    /devices/SN/shadow/desired    merge an object into the shadow's desired state
  POST   /devices/SN/actions/ACTION    publish the body as the platform's message
  POST   /broadcast                    publish the body to all devices
  POST   /faults                       make something go wrong; `times` is how often, 0 for until clear

A body is declared as JSON. A Host or Origin that is not the control API's own is refused, so that no web page controls the
simulator. Another user of this machine than its own needs the token in control_token_file. With curl:
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
                                                    {"missing_key":{"key":"remote.pkey"}}, {"mismatched_key":{"part":"remote"}}
  {"fault":"token","answer":"hold"}                 also "malformed", "expired", "foreign", "wrong_key", {"late":{"ms":500}}
  {"fault":"send_token","sn":"SN0001"}              send a token that nobody asked for
  {"fault":"certificate","answer":"wrong_key"}      also "hold", "malformed", "wrong_serial", {"late":{"ms":500}}
  {"fault":"clear"}                                 end all that wait

Example:
  clesyde-cloud sim --data-dir ./cloud --api-port 8080"#;

/// What `sim` takes.
#[derive(Debug, Args)]
#[command(after_help = "The control API and its faults are described in --help.", after_long_help = DETAILS)]
pub(crate) struct SimArgs {
    /// Port of the provisioning API; 0 is any free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    api_port: u16,

    /// Port of the MQTT broker; 0 is any free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    mqtt_port: u16,

    /// Port of the relay, for tunnels and for the public; 0 is any free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    relay_port: u16,

    /// Port of the control API; 0 is any free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    control_port: u16,

    /// Keep authorities, keys and devices here, so that they outlive this process
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Give devices host names without ports, as the real platform does
    #[arg(long)]
    bare_endpoints: bool,

    /// How the shadow's delta is written: AWS's own form, or the one that the original library reads
    #[arg(long, value_name = "FORM", value_enum, default_value = "aws")]
    delta_form: Delta,

    /// How long a token is good for
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(1..=315_360_000))]
    token_valid: u64,

    /// Version of the tunnel's protocol that tokens demand
    #[arg(long, value_name = "N", default_value_t = 0)]
    protocol_version: u8,

    /// Cipher that tokens demand: aes-cbc, aes-gcm or aes-gcm-siv
    #[arg(long, value_name = "NAME", default_value = "aes-cbc")]
    cipher: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Delta {
    Aws,
    Seed,
}

pub(crate) async fn run(arguments: &SimArgs) -> Outcome {
    let config = arguments.config()?;
    if let Some(path) = &arguments.data_dir
        && path.exists()
        && !path.is_dir()
    {
        return Err(Failure::Failed(format!(
            "the data directory {path:?} is not a directory: name one with --data-dir DIR"
        )));
    }
    let mut shutdown = Shutdown::install()?;
    let simulator = Simulator::start(config)
        .await
        .map_err(|error| Failure::Failed(chain(&error)))?;
    let told = write_json(&simulator.ready());
    if told.is_ok() {
        shutdown.requested().await;
    }
    simulator.stop().await;
    told
}

impl SimArgs {
    fn config(&self) -> Outcome<SimConfig> {
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
        Ok(config)
    }
}

/// In the words that clap has for the values that it checks.
fn invalid(option: &str, value: &dyn Display, error: &dyn Display) -> Failure {
    let value = value.to_string();
    let reason = error.to_string();
    let reason = if is_possible_secret(&value) {
        reason.replace(&value, NOT_SHOWN)
    } else {
        reason
    };
    Failure::Usage(format!(
        "invalid value {} for '{option}': {reason}",
        Shown(&value)
    ))
}
