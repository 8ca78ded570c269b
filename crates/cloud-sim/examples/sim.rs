//! A simulated cloud on this machine.
//!
//! Registers a device with itself, rotates its certificate, shows what the control API tells, and
//! ends:
//!
//! ```text
//! cargo run -p cloud-sim --example sim
//! ```
//!
//! With `--stay` it prints one line of JSON when it is ready, and runs until Ctrl-C, for devices in
//! other processes:
//!
//! ```text
//! cargo run -p cloud-sim --example sim -- --stay --mqtt-port 8883 --relay-port 8443 --bare-endpoints --delta-form seed
//! ```

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use cloud_sim::{DeltaForm, SimConfig, Simulator};
use serde_json::{Value, json};

/// Runs a Clesyde cloud on this machine.
#[derive(Parser)]
struct Options {
    /// Run until Ctrl-C instead of showing a registration.
    #[arg(long)]
    stay: bool,
    /// Port of the provisioning API; 0 is any free one.
    #[arg(long, default_value_t = 0)]
    api_port: u16,
    /// Port of the MQTT broker.
    #[arg(long, default_value_t = 0)]
    mqtt_port: u16,
    /// Port of the relay.
    #[arg(long, default_value_t = 0)]
    relay_port: u16,
    /// Port of the control API.
    #[arg(long, default_value_t = 0)]
    control_port: u16,
    /// Keep authorities and devices here.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Give devices host names without ports.
    #[arg(long)]
    bare_endpoints: bool,
    /// How deltas are written.
    #[arg(long, value_enum, default_value = "aws")]
    delta_form: Form,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Aws,
    Seed,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let options = Options::parse();
    let mut config = SimConfig::default();
    config.api_port = options.api_port;
    config.mqtt_port = options.mqtt_port;
    config.relay_port = options.relay_port;
    config.control_port = options.control_port;
    config.data_dir = options.data_dir;
    config.bare_endpoints = options.bare_endpoints;
    config.delta_form = match options.delta_form {
        Form::Aws => DeltaForm::Aws,
        Form::Seed => DeltaForm::Seed,
    };

    let sim = Simulator::start(config).await?;
    println!("{}", serde_json::to_string(&sim.ready())?);
    if options.stay {
        tokio::signal::ctrl_c().await?;
    } else {
        show(&sim).await?;
    }
    sim.stop().await;
    Ok(())
}

/// Does what a device and an operator would do.
async fn show(sim: &Simulator) -> Result<(), Box<dyn Error>> {
    let client = http_client()?;
    let answer: Value = client
        .post(format!("{}/device/register", sim.api_url()))
        .json(&json!({ "sn": "SN0001", "token": sim.provisioning_key() }))
        .send()
        .await?
        .json()
        .await?;
    let thing = &answer["registration"]["thing"];
    println!(
        "registered; broker {}, page at {}",
        thing["iot"]["endpoint"], thing["remote"]["access_point"]
    );

    let rotate = format!("{}/devices/SN0001/rotate", sim.control_url());
    let rotated: Value = client
        .post(rotate)
        .bearer_auth(sim.control_token())
        .send()
        .await?
        .json()
        .await?;
    println!(
        "rotated; the page should have certificate {}",
        rotated["serial"]
    );

    let devices: Value = client
        .get(format!("{}/devices", sim.control_url()))
        .bearer_auth(sim.control_token())
        .send()
        .await?
        .json()
        .await?;
    println!("{}", serde_json::to_string_pretty(&devices)?);
    Ok(())
}

fn http_client() -> Result<reqwest::Client, Box<dyn Error>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .build()?)
}
