//! A thermostat whose code is tested without a platform.
//!
//! The code takes any [`CloudApi`]: the program gives it a [`ClesydeCloud`], its tests a
//! `MockCloudApi`. Run the tests with
//! `cargo test -p cloud-facade --features test-util --example host_unit_test`.

use cloud_facade::iot::Message;
use cloud_facade::{ClesydeCloud, CloudApi, Event};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast::error::RecvError;

type Error = Box<dyn std::error::Error>;

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
            drop(cloud.publish(Message::new("c/d/SN0001/alarm", alarm))?);
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
    let Ok([base_path, serial_number]) =
        <[String; 2]>::try_from(std::env::args().skip(1).collect::<Vec<_>>())
    else {
        return Err("usage: host_unit_test <base path> <serial number>".into());
    };
    // The API is not used: the device is provisioned.
    let cloud = ClesydeCloud::builder(serial_number.parse()?, base_path, "").build();
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
    let result: Result<(), Error> = tokio::select! {
        result = follow => result,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    cloud.stop().await;
    result
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
