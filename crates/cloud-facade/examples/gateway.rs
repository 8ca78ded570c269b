//! A gateway: one process that is the cloud connection of many small devices, which reach it over
//! another network.
//!
//! Each device has a `ClesydeCloud` of its own: a connection, a tunnel, a page and a certificate.
//! They share nothing, so that a fault of one does not reach another. A thousand of them fit in one
//! process; `docs/architecture.md` has the figures.
//!
//! `cargo run -p cloud-facade --example gateway` runs five devices with a simulated platform, and
//! ends. With `<base path> <API URL>` after `--`, and the provisioning key in `CLESYDE_TOKEN`, it
//! runs them with that platform until Ctrl-C or SIGTERM.

mod support;

use axum::{Router, routing::get};
use cloud_facade::iot::Message;
use cloud_facade::{ClesydeCloud, Event};
use futures_util::future::{join_all, try_join_all};
use support::{Platform, Result};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

/// The sensors behind the gateway.
const SENSORS: [&str; 5] = ["HALL", "KITCHEN", "CELLAR", "ATTIC", "GARAGE"];

/// A measurement of a sensor, as it arrives over the other network.
struct Measurement {
    sensor: usize,
    value: String,
}

/// The cloud side of one sensor.
struct Sensor {
    name: &'static str,
    cloud: ClesydeCloud,
}

impl Sensor {
    /// Registers the sensor, unless it is registered, and connects it.
    async fn start(name: &'static str, platform: &Platform) -> Result<Self> {
        let page = Router::new().route("/", get(move || async move { format!("I am {name}\n") }));
        // Each device needs a directory of its own.
        let base_path = platform.base_path().join(name);
        std::fs::create_dir_all(&base_path)?;
        let cloud = ClesydeCloud::builder(name.parse()?, base_path, &platform.api_url)
            .application(page)
            .build();
        cloud.provision(&platform.key).await?;
        cloud.initialize().await?;
        Ok(Self { name, cloud })
    }

    /// Logs the connections until the device is dropped.
    fn watch(&self) {
        let (name, mut events) = (self.name, self.cloud.events());
        tokio::spawn(async move {
            loop {
                match events.recv().await {
                    Ok(Event::IotDisconnected { reason, .. }) => eprintln!("{name}: {reason}"),
                    Ok(Event::RemoteConnected { url }) => println!("{name}: {url}"),
                    Ok(_) => {}
                    // This reader was slow. The status has the state all the same.
                    Err(RecvError::Lagged(missed)) => eprintln!("{name}: {missed} events missed"),
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }

    fn publish(&self, value: &str) -> Result<()> {
        let topic = format!("c/d/{}/measured/req", self.name);
        // The receipt says when the broker has it; until then it is in the outbox.
        drop(self.cloud.publish(Message::new(topic, value.to_owned()))?);
        Ok(())
    }
}

/// Passes measurements on. One that a device cannot take is the loss of that device alone.
async fn pass_on(sensors: &[Sensor], mut measurements: mpsc::Receiver<Measurement>) -> Result<()> {
    while let Some(Measurement { sensor, value }) = measurements.recv().await {
        let Some(sensor) = sensors.get(sensor) else {
            eprintln!("a measurement of an unknown sensor");
            continue;
        };
        if let Err(error) = sensor.publish(&value) {
            eprintln!("{}: {error}", sensor.name);
        }
    }
    Err("the network of the sensors is down".into())
}

/// The other network, such as a radio. It invents what it receives.
async fn receive(radio: mpsc::Sender<Measurement>) -> Result<()> {
    for number in 0.. {
        let measurement = Measurement {
            sensor: number % SENSORS.len(),
            value: number.to_string(),
        };
        radio.send(measurement).await?;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let platform = Platform::from_arguments().await?;
    let sensors = try_join_all(SENSORS.map(|name| Sensor::start(name, &platform))).await?;
    sensors.iter().for_each(Sensor::watch);

    let (radio, measurements) = mpsc::channel(100);
    let result = tokio::select! {
        result = pass_on(&sensors, measurements) => result,
        result = receive(radio) => result,
        result = look(&platform, &sensors), if platform.control().is_some() => result,
        result = support::shutdown_signal() => result,
    };
    // At once, not one after the other: each may need a moment for its goodbye.
    join_all(sensors.iter().map(|sensor| sensor.cloud.stop())).await;
    platform.stop().await;
    result
}

/// Looks at every page as a caller does; only with the simulator.
async fn look(platform: &Platform, sensors: &[Sensor]) -> Result<()> {
    let control = platform.control().ok_or("there is no simulator")?;
    for sensor in sensors {
        let mut status = sensor.cloud.watch_status();
        status
            .wait_for(|status| status.iot.connected && status.remote.connected)
            .await?;
        let access_point = control.device(sensor.name).await?.access_point;
        let page = platform.get(&access_point).await?;
        print!("{access_point} says: {page}");
        if !page.contains(sensor.name) {
            return Err("it is the page of another device".into());
        }
    }
    Ok(())
}
