//! A thermostat and its cloud in one process: the cloud requests another temperature while the
//! device is offline; the device finds it after reconnecting, applies it, and reports it.
//!
//! ```console
//! $ cargo run -p cloud-shadow --example shadow
//! ```

use std::error::Error;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cloud_shadow::{
    BusError, BusMessage, BusSubscription, MessageBus, ShadowClient, ShadowConfig, ShadowId,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

/// The state of the shadow. All fields are optional, since a delta has only the differences.
#[derive(Debug, Serialize, Deserialize)]
struct Thermostat {
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let cloud = Cloud::default();
    let config = ShadowConfig::new(ShadowId::named("SN0001", "thermostat")?)
        .time_limit(Duration::from_secs(5));
    let client = ShadowClient::start(cloud.clone(), config).await?;
    let thermostat = client.typed::<Thermostat>();

    let first = Thermostat {
        target: Some(19),
        mode: Some("heat".to_owned()),
    };
    println!(
        "device: reports {first:?}; version {:?}",
        thermostat.report(&first).await?
    );

    cloud.change_while_device_is_offline(json!({"desired": {"target": 21}}));
    println!("cloud:  requests 21 degrees while the device is offline");

    client.connected().await;
    let mut deltas = thermostat.deltas();
    let wanted = deltas.next().await.ok_or("the client has ended")??;
    println!("device: reconnects, and finds {wanted:?}");

    println!(
        "device: reports it; version {:?}",
        thermostat.report(&wanted).await?
    );
    println!(
        "device: reports it again; nothing to send: {:?}",
        thermostat.report(&wanted).await?
    );

    let document = thermostat.get().await?;
    println!("cloud:  has {document:?}");
    client.stop().await;

    match (document.desired.target, document.reported.target) {
        (Some(21), Some(21)) => Ok(()),
        other => Err(format!("device and cloud do not agree: {other:?}").into()),
    }
}

/// A message bus with a minimal shadow service: flat documents, one shadow, every request accepted.
#[derive(Clone, Default)]
struct Cloud(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    desired: Map<String, Value>,
    reported: Map<String, Value>,
    version: u64,
    accepted: Option<mpsc::Sender<BusMessage>>,
    rejected: Option<mpsc::Sender<BusMessage>>,
}

impl State {
    fn merge(&mut self, state: &Value) {
        for (section, name) in [
            (&mut self.desired, "desired"),
            (&mut self.reported, "reported"),
        ] {
            if let Some(patch) = state[name].as_object() {
                section.extend(patch.clone());
            }
        }
        self.version += 1;
    }

    fn document(&self) -> Value {
        json!({"desired": self.desired, "reported": self.reported})
    }
}

impl Cloud {
    fn change_while_device_is_offline(&self, state: Value) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .merge(&state);
    }
}

impl MessageBus for Cloud {
    async fn publish(&self, topic: String, payload: Vec<u8>) -> Result<(), BusError> {
        let request: Value = serde_json::from_slice(&payload).map_err(BusError::permanent)?;
        let mut cloud = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (outcome, mut response) = if topic.ends_with("/update") {
            cloud.merge(&request["state"]);
            (
                "accepted",
                json!({"state": request["state"], "version": cloud.version}),
            )
        } else if topic.ends_with("/get") && cloud.version > 0 {
            (
                "accepted",
                json!({"state": cloud.document(), "version": cloud.version}),
            )
        } else {
            (
                "rejected",
                json!({"code": 404, "message": "No shadow exists with name: 'thermostat'"}),
            )
        };
        response["clientToken"] = request["clientToken"].clone();
        let subscriber = match outcome {
            "accepted" => &cloud.accepted,
            _ => &cloud.rejected,
        };
        let message = BusMessage {
            topic: format!("{topic}/{outcome}"),
            payload: response.to_string().into_bytes(),
        };
        match subscriber {
            Some(subscriber) => subscriber.try_send(message).map_err(BusError::temporary),
            None => Ok(()),
        }
    }

    async fn subscribe(&self, filter: String) -> Result<BusSubscription, BusError> {
        let (sender, receiver) = mpsc::channel(16);
        let mut cloud = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match filter.rsplit('/').next() {
            Some("accepted") => cloud.accepted = Some(sender),
            Some("rejected") => cloud.rejected = Some(sender),
            // This cloud sends neither deltas nor documents.
            _ => return Ok(BusSubscription::new(futures_util::stream::pending())),
        }
        Ok(receiver.into())
    }
}
