//! The shortest complete host: a device with a public page, until Ctrl-C or SIGTERM.
//!
//! `cargo run -p cloud-facade --example host` runs it with a simulated platform, fetches the page,
//! and ends. With `<base path> <API URL>` after `--`, for instance the API URL that `clesyde-cloud
//! sim` prints, and the provisioning key in `CLESYDE_TOKEN`, it stays.

mod support;

use axum::{Extension, Router, routing::get};
use cloud_facade::remote::ClientAddr;
use cloud_facade::{ClesydeCloud, Event, HookPoint, Hooks, WeakClesydeCloud};
use support::{Platform, Result};
use tokio::sync::broadcast::error::RecvError;

const SERIAL: &str = "SN0001";

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

/// Prints events until the device is dropped.
async fn print_events(cloud: &ClesydeCloud) {
    let mut events = cloud.events();
    loop {
        match events.recv().await {
            Ok(Event::RemoteConnected { url }) => println!("reachable at {url}"),
            Ok(_) => {}
            // This reader was slow. It goes on with the next event; the status has the state.
            Err(RecvError::Lagged(missed)) => eprintln!("{missed} events were missed"),
            Err(RecvError::Closed) => return,
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let platform = Platform::from_arguments().await?;
    let hooks = Hooks::new().on(HookPoint::IotConnected, |_| async {
        println!("online");
        Ok(())
    });
    let cloud = ClesydeCloud::builder(SERIAL.parse()?, platform.base_path(), &platform.api_url)
        .application_with(page)
        .hooks(hooks)
        .build();
    // Does nothing if the device is registered.
    cloud.provision(&platform.key).await?;
    // Returns at once; connections are made and restored in the background.
    cloud.initialize().await?;
    let result = tokio::select! {
        () = print_events(&cloud) => Ok(()),
        result = visit(&platform, &cloud), if platform.control().is_some() => result,
        result = support::shutdown_signal() => result,
    };
    // Closes the tunnel, publishes OFFLINE, and leaves no task.
    cloud.stop().await;
    platform.stop().await;
    result
}

/// Visits the page as a caller does; only with the simulator.
async fn visit(platform: &Platform, cloud: &ClesydeCloud) -> Result<()> {
    let mut status = cloud.watch_status();
    status.wait_for(|status| status.remote.connected).await?;
    let control = platform.control().ok_or("there is no simulator")?;
    let page = platform
        .get(&control.device(SERIAL).await?.access_point)
        .await?;
    print!("the page says: {page}");
    if page != format!("Hello, Some(127.0.0.1)! This is {SERIAL}.\n") {
        return Err("it is another page".into());
    }
    Ok(())
}
