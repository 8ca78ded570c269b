//! What a simulator is started with, and why it may not start.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use snitun::server::ServerConfig;
use snitun::{Cipher, ProtocolVersion};

use crate::shadow::DeltaForm;

/// How long a token is good for by default: longer than the four hours after which the relay looks
/// at it again.
const TOKEN_VALID: Duration = Duration::from_secs(24 * 3600);

/// What a simulator is started with. The default is any free ports, nothing kept, and a platform as
/// today's.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SimConfig {
    /// Port of the provisioning API; 0, the default, is the one that the [data
    /// directory](Self::data_dir) keeps, or else any free one. So for the other three.
    pub api_port: u16,
    /// Port of the MQTT broker.
    pub mqtt_port: u16,
    /// Port of the relay, for tunnels and for the public.
    pub relay_port: u16,
    /// Port of the control API.
    pub control_port: u16,
    /// Keeps authorities, keys, ports and devices here, so that they outlive the process. `None`,
    /// the default, keeps nothing.
    pub data_dir: Option<PathBuf>,
    /// Gives devices host names without ports, as the real platform does. They then connect to
    /// their default ports: 8883, and 443 or 8443. Default `false`.
    pub bare_endpoints: bool,
    /// How the delta of a shadow is written. Default [`DeltaForm::Aws`].
    pub delta_form: DeltaForm,
    /// How long a token is good for; 1 second to 10 years, default 24 hours.
    pub token_valid: Duration,
    /// The version of the tunnel protocol that tokens demand. Default 0.
    pub protocol_version: ProtocolVersion,
    /// The cipher that tokens demand. Default `aes-cbc`.
    pub cipher: Cipher,
    /// Messages per second that a device may send through its tunnel. `None`, the default, is no
    /// limit.
    pub throttling: Option<NonZeroU32>,
    /// Maximum callers that the relay serves at a time from one address. Default 512. A load test
    /// that opens more connections at once needs more; a device has limits of its own.
    pub callers_per_address: usize,
    /// Which certificate the broker shows. Default [`BrokerCertificate::Good`].
    pub broker_certificate: BrokerCertificate,
}

/// Which certificate the broker shows; all but one have to be refused by a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum BrokerCertificate {
    /// One for `localhost`, from the authority whose root devices get.
    #[default]
    Good,
    /// One from an authority whose root no device has.
    ForeignIssuer,
    /// One for another host.
    OtherName,
    /// One whose time is over.
    Expired,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            api_port: 0,
            mqtt_port: 0,
            relay_port: 0,
            control_port: 0,
            data_dir: None,
            bare_endpoints: false,
            delta_form: DeltaForm::Aws,
            token_valid: TOKEN_VALID,
            protocol_version: ProtocolVersion::default(),
            cipher: Cipher::default(),
            throttling: None,
            callers_per_address: ServerConfig::default().max_callers_per_address,
            broker_certificate: BrokerCertificate::Good,
        }
    }
}

/// One of the listeners of the simulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listener {
    /// The provisioning API.
    Api,
    /// The MQTT broker.
    Mqtt,
    /// The relay.
    Relay,
    /// The control API.
    Control,
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Api => "provisioning API",
            Self::Mqtt => "MQTT broker",
            Self::Relay => "relay",
            Self::Control => "control API",
        })
    }
}

/// Why a simulator did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// A port is taken, or not allowed.
    #[error(
        "cannot listen on 127.0.0.1:{port} for the {listener}: {source}; choose another port, or 0 for any free one"
    )]
    Listen {
        /// What was to listen.
        listener: Listener,
        /// On which port.
        port: u16,
        /// Why it cannot.
        source: std::io::Error,
    },
    /// A port that the data directory keeps is taken.
    #[error(
        "cannot listen on 127.0.0.1:{port}, which the {listener} had before on this data directory: {source}; stop what uses the port, or choose another one"
    )]
    KeptPort {
        /// What was to listen.
        listener: Listener,
        /// On which port.
        port: u16,
        /// Why it cannot.
        source: std::io::Error,
    },
    /// The data directory cannot be used.
    #[error("cannot use the data directory {directory:?}: {source}")]
    DataDir {
        /// The directory.
        directory: PathBuf,
        /// Why it cannot.
        source: std::io::Error,
    },
    /// A setting is out of its range.
    #[error("{0}")]
    Invalid(String),
    /// The authorities of the data directory cannot be read, or none could be made.
    #[error("cannot set up the certificate authorities: {0}")]
    Authority(String),
    /// The relay could not be set up.
    #[error("cannot set up the relay: {0}")]
    Relay(String),
    /// The broker could not be set up.
    #[error("cannot set up the broker: {0}")]
    Broker(String),
}

impl SimError {
    /// Whether starting again later, without changing anything, can help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Listen { source, .. } | Self::KeptPort { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse)
    }
}

/// What a simulator tells when it is ready; in JSON, the line that `clesyde-cloud sim` prints.
#[derive(Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ready {
    /// Always `ready`.
    pub event: String,
    /// Base URL of the provisioning API.
    pub api_url: String,
    /// Good for any serial number, once for each.
    pub provisioning_key: String,
    /// The broker, `host:port`.
    pub mqtt: String,
    /// The relay, `host:port`.
    pub relay: String,
    /// Base URL of the control API.
    pub control_url: String,
    /// The file that holds the token for the control API, readable by its owner alone.
    pub control_token_file: PathBuf,
    /// The roots to trust for the broker and for the devices' pages.
    pub ca_file: PathBuf,
    /// The root to trust for the devices' pages alone, for a browser.
    pub public_root_file: PathBuf,
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ready")
            .field("api_url", &self.api_url)
            .field("provisioning_key", &"[redacted]")
            .field("mqtt", &self.mqtt)
            .field("relay", &self.relay)
            .field("control_url", &self.control_url)
            .field("control_token_file", &self.control_token_file)
            .field("ca_file", &self.ca_file)
            .field("public_root_file", &self.public_root_file)
            .finish_non_exhaustive()
    }
}
