//! A production line: registers one device after the other, and writes the directory that each
//! device gets in its image.
//!
//! Only registration and storage are used: nothing connects to the broker or the relay. The
//! platform generates the private keys; with `register_with_keys` instead of `register` the line
//! does.
//!
//! `cargo run -p cloud-facade --example production_line` registers three devices with a simulated
//! platform. With `<directory> <API URL>` after `--`, and the provisioning key in
//! `CLESYDE_TOKEN`, it registers the serial numbers of the standard input, one a line.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use cloud_facade::config::{SerialNumber, Store};
use cloud_facade::provision::{Client, ProvisioningKey};
use cloud_facade::{OnExisting, Registered, RegistrationError, register};
use support::{Platform, Result};

/// Attempts for a device. The client also retries by itself what it knows was not processed.
const ATTEMPTS: u32 = 3;

/// The line: one client for all devices, so that they share a connection to the platform.
struct Line {
    client: Client,
    key: ProvisioningKey,
    images: PathBuf,
}

impl Line {
    /// Registers a device. Its directory, `<images>/<serial number>`, is the base path for the
    /// device's own [`ClesydeCloud`](cloud_facade::ClesydeCloud).
    async fn produce(&self, serial: &SerialNumber) -> Result<Registered> {
        let image = self.images.join(serial.as_str());
        std::fs::create_dir_all(&image)?;
        let store = Store::new(&image);
        let mut attempt = 1;
        loop {
            // A device that is registered already is left as it is: the line may be started again
            // with the same list.
            let existing = OnExisting::Keep;
            match register(&store, &self.client, serial, &self.key, existing).await {
                Ok(registered) => {
                    inspect(&image, serial)?;
                    return Ok(registered);
                }
                Err(error) if error.is_retryable() && attempt < ATTEMPTS => {
                    eprintln!("{serial}: attempt {attempt} failed: {error}");
                    tokio::time::sleep(Duration::from_secs(attempt.into())).await;
                    attempt += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The last station: what was written is complete, valid, and for this device.
fn inspect(image: &Path, serial: &SerialNumber) -> Result<()> {
    let device = Store::new(image).load()?.device;
    if device.serial_number != *serial {
        return Err(format!("the directory of {serial} is for {}", device.serial_number).into());
    }
    println!(
        "{serial}: {} expires in {} days",
        device.page_url(),
        device
            .remote
            .info()
            .not_after
            .duration_since(std::time::SystemTime::now())?
            .as_secs()
            / 86_400
    );
    Ok(())
}

/// Says what to do about a device that could not be registered.
fn explain(error: &(dyn std::error::Error + 'static)) -> &'static str {
    match error.downcast_ref::<RegistrationError>() {
        Some(RegistrationError::Store(_) | RegistrationError::Answer(_)) => {
            "the platform has registered it; have it forgotten there, then try again"
        }
        Some(error) if error.is_retryable() => "try again later",
        _ => "set the device aside",
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let platform = Platform::from_arguments().await?;
    let line = Line {
        client: Client::builder(&platform.api_url).build()?,
        key: platform.key.clone(),
        images: platform.base_path().to_owned(),
    };
    let serials: Vec<String> = match platform.control() {
        // The second one is twice in the list.
        Some(_) => ["SN0001", "SN0002", "SN0002", "SN0003"]
            .map(str::to_owned)
            .into(),
        None => std::io::stdin().lines().collect::<std::io::Result<_>>()?,
    };
    let (mut new, mut failed) = (0, 0);
    for serial in serials {
        let produced = match serial.trim().parse() {
            Ok(serial) => line.produce(&serial).await,
            Err(error) => Err(Box::from(error)),
        };
        match produced {
            Ok(Registered::New { .. }) => {
                println!("{serial}: registered");
                new += 1;
            }
            Ok(_) => println!("{serial}: was registered before"),
            Err(error) => {
                eprintln!("{serial}: {error}; {}", explain(error.as_ref()));
                failed += 1;
            }
        }
    }
    println!("{new} new devices, {failed} failed");
    let expected = match platform.control() {
        Some(control) => control.devices().await.len(),
        None => new,
    };
    platform.stop().await;
    if failed > 0 || new != expected {
        return Err("the line is not complete".into());
    }
    Ok(())
}
