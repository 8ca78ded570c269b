//! A thermostat: the platform sets its temperature through the shadow, asks it to boost, receives
//! its telemetry, and everyone can look at its page.
//!
//! `cargo run -p cloud-facade --example thermostat` starts a simulated platform, which sets the
//! temperature, asks for a boost, fetches the page, and ends. With `<base path> <API URL>` after
//! `--`, and the provisioning key in `CLESYDE_TOKEN`, it is a device of that platform until Ctrl-C
//! or SIGTERM.

mod support;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::{Router, routing::get};
use cloud_facade::bytes::Bytes;
use cloud_facade::iot::{BoxError, Limits, Message, Overflow, PublishOptions};
use cloud_facade::{ClesydeCloud, WeakClesydeCloud};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use support::{Platform, Result};

const SERIAL: &str = "SN0001";

/// Interval of the telemetry.
const INTERVAL: Duration = Duration::from_millis(500);

/// A measurement that is older is worth nothing.
const TELEMETRY_EXPIRY: Duration = Duration::from_secs(3600);

/// The state of the thermostat, which the page, the handlers and the control loop share.
#[derive(Clone, Default)]
struct Thermostat(Arc<Mutex<State>>);

#[derive(Clone, Copy, Default, Serialize)]
struct State {
    target: f64,
    temperature: f64,
}

impl Thermostat {
    fn state(&self) -> State {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) -> State {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        *state
    }
}

/// The page, under the device's own certificate.
fn page(thermostat: Thermostat) -> Router {
    Router::new().route(
        "/",
        get(async move || {
            let State {
                target,
                temperature,
            } = thermostat.state();
            format!("{temperature:.1} °C, target {target:.1} °C\n")
        }),
    )
}

/// The action `boost` raises the target; the answer has the new one.
async fn boost(
    thermostat: Thermostat,
    request: Bytes,
) -> std::result::Result<Option<Bytes>, BoxError> {
    #[derive(Deserialize)]
    struct Boost {
        degrees: f64,
    }
    // An error is logged and makes an event; the platform receives an answer all the same.
    let Ok(Boost { degrees }) = serde_json::from_slice(&request) else {
        return Ok(Some(r#"{"error":"degrees is missing"}"#.into()));
    };
    let state = thermostat.change(|state| state.target += degrees);
    Ok(Some(serde_json::to_vec(&state)?.into()))
}

/// Reports the target, so that the shadow's desired and reported state agree.
fn report(cloud: &ClesydeCloud, state: State) -> Result<()> {
    let reported = Map::from_iter([("target".to_owned(), Value::from(state.target))]);
    // The receipt has the result. The report waits for a connection, so we do not wait for it.
    drop(cloud.report(reported)?);
    Ok(())
}

/// Follows the desired target, also one that was set while the device was away. A delta is a state
/// and not an event: a slow reader finds the latest one, and misses nothing.
async fn follow_shadow(cloud: &ClesydeCloud, thermostat: &Thermostat) -> Result<()> {
    let mut deltas = cloud.shadow()?.deltas();
    while let Some(delta) = deltas.next().await {
        if let Some(target) = delta.state.get("target").and_then(Value::as_f64) {
            println!("the platform desires {target} °C");
            report(cloud, thermostat.change(|state| state.target = target))?;
        }
    }
    Ok(())
}

/// Measures and publishes, connected or not.
async fn measure(cloud: &ClesydeCloud, thermostat: &Thermostat) -> Result<()> {
    let topic = format!("c/d/{SERIAL}/telemetry/req");
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        let state = thermostat.change(|s| s.temperature += (s.target - s.temperature) / 4.0);
        let message = Message::new(topic.clone(), serde_json::to_vec(&state)?);
        let options = PublishOptions::new().expires_in(TELEMETRY_EXPIRY);
        // With `DropOldest` the queue is never full.
        drop(cloud.publish_with(message, options)?);
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let platform = Platform::from_arguments().await?;
    let thermostat = Thermostat::default();
    thermostat.change(|state| state.target = 18.0);

    let (for_page, for_boost) = (thermostat.clone(), thermostat.clone());
    let cloud = ClesydeCloud::builder(SERIAL.parse()?, platform.base_path(), &platform.api_url)
        .application_with(move |_| page(for_page.clone()))
        .on_action("boost".parse()?, move |_: WeakClesydeCloud, request| {
            boost(for_boost.clone(), request)
        })
        .session(|session| {
            session
                // Without a connection, the latest thousand measurements wait.
                .limits(Limits::new().outbox_messages(1000))
                .overflow(Overflow::DropOldest)
                // A break of less than a minute does not make the device OFFLINE.
                .session_expiry(Duration::from_secs(3600))
                .will_delay(Duration::from_secs(60))
        })
        .build();
    cloud.provision(&platform.key).await?;
    cloud.initialize().await?;
    // It waits until the device is connected.
    report(&cloud, thermostat.state())?;

    let result = tokio::select! {
        result = follow_shadow(&cloud, &thermostat) => result,
        result = measure(&cloud, &thermostat) => result,
        result = play(&platform, &cloud), if platform.control().is_some() => result,
        result = support::shutdown_signal() => result,
    };
    // Closes the tunnel, sends what waits, and publishes OFFLINE.
    cloud.stop().await;
    platform.stop().await;
    result
}

/// What platform and callers do; only with the simulator.
async fn play(platform: &Platform, cloud: &ClesydeCloud) -> Result<()> {
    let control = platform.control().ok_or("there is no simulator")?;
    let mut status = cloud.watch_status();
    status
        .wait_for(|status| status.iot.connected && status.remote.connected)
        .await?;

    let desired = Map::from_iter([("target".to_owned(), json!(21.5))]);
    control.set_desired(SERIAL, desired).await?;
    while control
        .device(SERIAL)
        .await?
        .reported
        .is_none_or(|state| state["target"] != 21.5)
    {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("the device has reported it");

    control
        .action(SERIAL, "boost", br#"{"degrees":1}"#.to_vec())
        .await?;
    let access_point = control.device(SERIAL).await?.access_point;
    loop {
        let page = platform.get(&access_point).await?;
        if page.contains("target 22.5") {
            println!("the page at {access_point} says: {page}");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
