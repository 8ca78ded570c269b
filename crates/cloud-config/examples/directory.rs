//! What a device's directory holds: stores a configuration, reads it again, and tells about its certificates.
//!
//! `cargo run -p cloud-config --example directory` makes one in a temporary directory; with a base path behind `--` it
//! looks at the one that is there.

mod common;

use cloud_config::{Credentials, Pair, Store};
use common::{Result, new_device, new_pair};

fn main() -> Result<()> {
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

    // Nobody else writes into this directory while the lock is held.
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
        "{} talks to {}, port {}",
        device.iot_thing_name,
        device.iot_endpoint,
        device.iot_endpoint.port_or(8883)
    );
    println!(
        "the public reaches it at https://{}/ through {}",
        device.access_point, device.remote_endpoint
    );
    for pair in [Pair::Iot, Pair::Remote] {
        let report = store.inspect(pair)?;
        let info = report.info;
        println!(
            "  {pair:?}: {:?}, serial {}, until {}, key matches: {}",
            info.names, info.serial, info.not_after, report.key_matches
        );
    }
    Ok(())
}
