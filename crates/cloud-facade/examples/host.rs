//! A host application with a public page, until Ctrl-C.
//!
//! `CLESYDE_TOKEN=<key> cargo run -p cloud-facade --example host -- <base path> <serial number>
//! <API URL>`, for instance with the API URL and the key that `clesyde-cloud sim` prints. Only the
//! first run needs the key.

use std::process::ExitCode;

use axum::{Extension, Router, routing::get};
use cloud_facade::provision::ProvisioningKey;
use cloud_facade::remote::ClientAddr;
use cloud_facade::{ClesydeCloud, CloudBuilder, Event, HookPoint, Hooks, WeakClesydeCloud};
use tokio::sync::broadcast::error::RecvError;

type Error = Box<dyn std::error::Error>;

/// The page, which greets the caller in the name of the device.
fn page(cloud: WeakClesydeCloud) -> Router {
    let greet = async move |Extension(ClientAddr(caller)): Extension<ClientAddr>| {
        let name = cloud
            .upgrade()
            .map(|cloud| cloud.serial_number().to_string());
        format!("Hello, {caller:?}! This is {}.\n", name.unwrap_or_default())
    };
    Router::new().route("/", get(greet))
}

/// Registers the device, runs it until `until` completes, and stops it.
pub async fn host(
    builder: CloudBuilder,
    key: Option<String>,
    until: impl Future,
) -> Result<(), Error> {
    let hooks = Hooks::new().on(HookPoint::IotConnected, |_| async {
        println!("online");
        Ok(())
    });
    let cloud = builder.application_with(page).hooks(hooks).build();
    if let Some(key) = key {
        cloud.provision(&ProvisioningKey::new(&key)?).await?;
    }
    let mut events = cloud.events();
    tokio::spawn(async move {
        loop {
            match events.recv().await {
                Ok(Event::RemoteConnected { url }) => println!("reachable at {url}"),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => eprintln!("{missed} events were missed"),
                Err(RecvError::Closed) => return,
            }
        }
    });
    cloud.initialize().await?;
    until.await;
    cloud.stop().await;
    Ok(())
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

async fn run() -> Result<(), Error> {
    let Ok([base_path, serial_number, api_url]) =
        <[String; 3]>::try_from(std::env::args().skip(1).collect::<Vec<_>>())
    else {
        return Err("usage: host <base path> <serial number> <API URL>".into());
    };
    host(
        ClesydeCloud::builder(serial_number.parse()?, base_path, api_url),
        std::env::var("CLESYDE_TOKEN").ok(),
        tokio::signal::ctrl_c(),
    )
    .await
}
