//! A thermostat whose code is tested without a platform.
//!
//! The code takes any [`CloudApi`]: the program gives it a [`ClesydeCloud`], its tests a
//! `MockCloudApi`. Run the tests with
//! `cargo test -p cloud-facade --features test-util --example host_unit_test`, and the program with
//! a simulated platform with `cargo run -p cloud-facade --example host_unit_test`.

mod support;

use std::time::Duration;

use cloud_facade::iot::Message;
use cloud_facade::{ClesydeCloud, CloudApi, Event};
use serde_json::{Map, Value, json};
use support::Platform;
use tokio::sync::broadcast::error::RecvError;

type Error = Box<dyn std::error::Error + Send + Sync>;

const SERIAL: &str = "SN0001";

/// Follows the desired temperature, and publishes an alarm when it cannot.
#[derive(Debug, Default)]
struct Thermostat {
    target: f64,
}

impl Thermostat {
    /// Takes the desired temperature of an event and reports it.
    fn handle(&mut self, event: &Event, cloud: &impl CloudApi) -> Result<(), Error> {
        let Event::ShadowDeltaReceived { state } = event else {
            return Ok(());
        };
        let Some(target) = state["target"].as_f64() else {
            return Ok(());
        };
        if !(5.0..=30.0).contains(&target) {
            let alarm = json!({ "refused": target }).to_string();
            drop(cloud.publish(Message::new(format!("c/d/{SERIAL}/alarm/req"), alarm))?);
            return Ok(());
        }
        self.target = target;
        let state = Map::from_iter([("target".to_owned(), Value::from(target))]);
        drop(cloud.report(state)?);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let platform = Platform::from_arguments().await?;
    let cloud =
        ClesydeCloud::builder(SERIAL.parse()?, platform.base_path(), &platform.api_url).build();
    cloud.provision(&platform.key).await?;
    let mut events = cloud.events();
    cloud.initialize().await?;
    let mut thermostat = Thermostat::default();
    let follow = async {
        loop {
            match events.recv().await {
                Ok(event) => thermostat.handle(&event, &cloud)?,
                // The next delta has all that differs.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => break Ok(()),
            }
        }
    };
    let result = tokio::select! {
        result = follow => result,
        result = play(&platform), if platform.control().is_some() => result,
        result = support::shutdown_signal() => result,
    };
    cloud.stop().await;
    platform.stop().await;
    result
}

/// Sets a temperature and waits until it is reported; only with the simulator.
async fn play(platform: &Platform) -> Result<(), Error> {
    let control = platform.control().ok_or("there is no simulator")?;
    let desired = Map::from_iter([("target".to_owned(), json!(21.5))]);
    control.set_desired(SERIAL, desired).await?;
    let reported = async || control.device(SERIAL).await.map(|device| device.reported);
    while reported()
        .await?
        .is_none_or(|state| state["target"] != 21.5)
    {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("the device has reported 21.5 °C");
    Ok(())
}

#[cfg(all(test, feature = "test-util"))]
mod tests {
    use cloud_facade::iot::{Ack, Receipt};
    use cloud_facade::{MockCloudApi, NotRunning, ReportReceipt};

    use super::*;

    fn delta(state: Value) -> Event {
        Event::ShadowDeltaReceived { state }
    }

    #[test]
    fn desired_temperature_is_reported() -> Result<(), Error> {
        let mut cloud = MockCloudApi::new();
        cloud
            .expect_report()
            .withf(|state| state["target"] == 21.5)
            .times(1)
            .returning(|_| Ok(ReportReceipt::resolved(Ok(()))));
        let mut thermostat = Thermostat::default();
        thermostat.handle(&delta(json!({ "target": 21.5 })), &cloud)?;
        assert_eq!(thermostat.target, 21.5);
        thermostat.handle(&Event::IotConnected, &cloud)
    }

    #[test]
    fn impossible_temperature_is_refused_with_alarm() -> Result<(), Error> {
        let mut cloud = MockCloudApi::new();
        cloud
            .expect_publish()
            .withf(|message| message.payload.as_ref() == br#"{"refused":99.0}"#)
            .times(1)
            .returning(|_| Ok(Receipt::resolved(Ok(Ack::Acknowledged))));
        let mut thermostat = Thermostat::default();
        thermostat.handle(&delta(json!({ "target": 99.0 })), &cloud)?;
        assert_eq!(thermostat.target, 0.0);
        Ok(())
    }

    #[test]
    fn stopped_device_is_an_error_of_the_host() {
        let mut cloud = MockCloudApi::new();
        cloud.expect_report().returning(|_| Err(NotRunning.into()));
        let result = Thermostat::default().handle(&delta(json!({ "target": 20.0 })), &cloud);
        assert!(result.is_err());
    }
}
