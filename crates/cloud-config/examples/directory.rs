//! Stores a configuration, loads it, and prints its certificates.
//!
//! `cargo run -p cloud-config --example directory` uses a temporary directory; with a base path
//! after `--` it prints the existing configuration.

mod common;

use std::process::ExitCode;
use std::time::SystemTime;

use cloud_config::{CredentialSlot, Credentials, Store};
use common::{Result, new_device, new_pair};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    if let Some(base) = std::env::args_os().nth(1) {
        return show(&Store::new(base));
    }
    let base = tempfile::tempdir()?;
    let store = Store::new(base.path());
    println!(
        "before: {}",
        store
            .load()
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    );

    // No other process writes into this directory while the lock is held.
    let _lock = store.lock()?;
    store.save(&new_device()?)?;
    show(&store)?;

    let (cert, key) = new_pair("sn0001.ui.example.com")?;
    store.replace_remote(&Credentials::from_pem(&cert, &key)?)?;
    println!("after a rotation:");
    show(&store)?;

    store.remove()?;
    println!("removed; provisioned now: {}", store.is_provisioned()?);
    Ok(())
}

fn show(store: &Store) -> Result<()> {
    let loaded = store.load()?;
    for repair in &loaded.repairs {
        println!("repaired: {repair}");
    }
    let device = loaded.device;
    println!(
        "{} connects to {}, port {}",
        device.iot_thing_name,
        device.iot_endpoint,
        device.iot_endpoint.port_or(8883)
    );
    println!(
        "its public address is https://{}/, through {}",
        device.access_point, device.remote_endpoint
    );
    for pair in [CredentialSlot::Iot, CredentialSlot::Remote] {
        let report = store.inspect(pair)?;
        let info = report.info;
        let left = info.not_after.duration_since(SystemTime::now());
        println!(
            "  {pair:?}: {:?}, serial {}, {} days left, key matches: {}",
            info.names,
            info.serial,
            left.unwrap_or_default().as_secs() / 86_400,
            report.key_matches
        );
    }
    Ok(())
}
