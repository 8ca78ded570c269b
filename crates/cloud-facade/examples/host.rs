//! A host application with a public page, until Ctrl-C.
//!
//! `CLESYDE_TOKEN=<key> cargo run -p cloud-facade --example host -- <base path> <serial number> <API
//! URL>`, for instance with the API URL and the key that `clesyde-cloud sim` prints. Only the first run
//! needs the key.

use std::process::ExitCode;

use axum::{Extension, Router, routing::get};
use cloud_facade::provision::ProvisioningKey;
use cloud_facade::remote::{Application, ClientAddr};
use cloud_facade::{ClesydeCloud, DeviceSettings, Event, HookPoint, Hooks};

type Error = Box<dyn std::error::Error>;

/// Registers the device, runs it until `until` completes, and stops it.
pub async fn host(
    settings: DeviceSettings,
    key: Option<String>,
    until: impl Future,
) -> Result<(), Error> {
    let page = |Extension(ClientAddr(caller)): Extension<ClientAddr>| async move {
        format!("Hello, {caller:?}!\n")
    };
    let hooks = Hooks::new().on(HookPoint::IotConnected, || async {
        println!("online");
        Ok(())
    });
    let web = Application::service(Router::new().route("/", get(page)));
    let cloud = ClesydeCloud::new(settings.with_application(web).with_hooks(hooks));
    if let Some(key) = key {
        cloud.provision(&ProvisioningKey::new(&key)?).await?;
    }
    let mut events = cloud.events();
    tokio::spawn(async move {
        while let Ok(event) = events.recv().await {
            if let Event::RemoteConnected { url } = event {
                println!("reachable at {url}");
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
    let settings = DeviceSettings::new(serial_number.parse()?, base_path, api_url);
    host(
        settings,
        std::env::var("CLESYDE_TOKEN").ok(),
        tokio::signal::ctrl_c(),
    )
    .await
}
