//! AWS IoT device shadows over any message bus.
//!
//! A shadow is a JSON document that the cloud keeps for a device: what the cloud wants of it (`desired`), and what the
//! device says of itself (`reported`). Both sides change it at any time, also while the other one is away, and the
//! difference between the two, the *delta*, is what the device still has to do.
//!
//! [`ShadowClient`] is the device's side of one shadow, named or classic. It keeps a copy of the document that is right
//! again after any loss, repetition or disorder of messages, and lets the application
//!
//! - act on what is wanted: [`deltas`](ShadowClient::deltas), or [`delta`](ShadowClient::delta) to watch the latest one,
//! - say what is so: [`report`](ShadowClient::report), which sends only what is new,
//! - ask and change: [`get`](ShadowClient::get), [`update`](ShadowClient::update), [`delete`](ShadowClient::delete), and
//!   [`modify`](ShadowClient::modify) for a change that depends on what is there,
//! - use types of its own instead of JSON: [`typed`](ShadowClient::typed).
//!
//! It needs a [`MessageBus`]: two functions, publish and subscribe. An MQTT session is one, and so are forty lines in
//! memory for a test. The application calls [`connected`](ShadowClient::connected) after each connection of the bus.
//!
//! ```
//! use cloud_shadow::{ShadowClient, ShadowConfig, ShadowId, RequestError};
//! use serde::{Deserialize, Serialize};
//! # use cloud_shadow::{BusError, BusMessage, BusSubscription, MessageBus};
//! # use serde_json::{Value, json};
//! # use std::sync::Mutex;
//! # use tokio::sync::mpsc;
//!
//! #[derive(Serialize, Deserialize)]
//! struct Settings {
//!     #[serde(skip_serializing_if = "Option::is_none")]
//!     interval: Option<u32>,
//! }
//!
//! async fn device(bus: impl MessageBus) -> Result<(), Box<dyn std::error::Error>> {
//!     let id = ShadowId::named("SN0001", "config")?;
//!     let client = ShadowClient::start(bus, ShadowConfig::new(id)).await?;
//!     let settings = client.typed::<Settings>();
//!
//!     let mut deltas = settings.deltas();
//!     while let Some(wanted) = deltas.next().await {
//!         let wanted = wanted?;
//!         println!("measuring every {:?} s from now on", wanted.interval);
//!         settings.report(&wanted).await?;
//! #       client.stop().await;
//!     }
//!     Ok(())
//! }
//! # /// Answers every get with one document, and every update with its acceptance.
//! # #[derive(Default)]
//! # struct Canned(Mutex<Vec<(String, mpsc::Sender<BusMessage>)>>);
//! # impl MessageBus for Canned {
//! #     async fn publish(&self, topic: String, payload: Vec<u8>) -> Result<(), BusError> {
//! #         let request: Value = serde_json::from_slice(&payload).map_err(BusError::permanent)?;
//! #         let state = if topic.ends_with("get") { json!({"desired": {"interval": 60}}) } else { request["state"].clone() };
//! #         let version = if topic.ends_with("get") { 1 } else { 2 };
//! #         let answer = json!({"state": state, "version": version, "clientToken": request["clientToken"]});
//! #         for (filter, subscriber) in &*self.0.lock().unwrap() {
//! #             if filter.ends_with("accepted") {
//! #                 let message = BusMessage { topic: format!("{topic}/accepted"), payload: answer.to_string().into() };
//! #                 subscriber.try_send(message).map_err(BusError::temporary)?;
//! #             }
//! #         }
//! #         Ok(())
//! #     }
//! #     async fn subscribe(&self, filter: String) -> Result<BusSubscription, BusError> {
//! #         let (sender, receiver) = mpsc::channel(8);
//! #         self.0.lock().unwrap().push((filter, sender));
//! #         Ok(receiver.into())
//! #     }
//! # }
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(device(Canned::default())).unwrap();
//! ```
//!
//! `examples/thermostat.rs` runs a device and a small cloud in one process.
//!
//! # What can be relied on
//!
//! - A change made while the device was away is found by the `get` after each connection. A shadow that does not exist
//!   yet is no error there; the first update makes it.
//! - Older versions never overwrite newer ones, and a shadow that was deleted and made anew is recognised even though its
//!   versions start again.
//! - Both forms of the delta message are read; see [`parse_delta`].
//! - Every request ends within its time limit, with a typed result: the new version, the refusal with AWS's code, or why
//!   the outcome is not known. Answers find their request by client token, so that several clients of one shadow do not
//!   disturb each other.
//! - One request is in flight for each shadow, at most 16 wait behind it, and at most ten are in flight for all shadows
//!   that share a [`RequestBudget`]. Size and depth of a state are checked before it is sent.
//!
//! # What it does not do
//!
//! It does not connect, and it does not keep the document over a restart: after one, the first `get` brings it. While
//! there is no connection, the bus decides whether to keep a request for later; its time limit runs all the same.
//!
//! Protocol: `docs/protocol.md`, "Shadows".

mod bus;
mod client;
mod delta;
mod document;
mod error;
mod limits;
mod machine;
mod message;
mod replica;
mod task;
#[cfg(test)]
mod test_support;
mod topic;
mod typed;
mod update;

pub use bus::{BoxedBus, BusError, BusMessage, BusSubscription, MessageBus};
pub use client::{Deltas, RequestBudget, ShadowClient, ShadowConfig};
pub use delta::{Delta, parse_delta};
pub use document::{Document, Object};
pub use error::{Malformed, Rejection, RejectionCode, RequestError, StartError};
pub use limits::{InvalidState, MAX_DEPTH, MAX_STATE};
pub use topic::{InvalidName, MessageKind, Operation, ShadowId};
pub use typed::{Typed, TypedDeltas, TypedDocument};
pub use update::Update;
