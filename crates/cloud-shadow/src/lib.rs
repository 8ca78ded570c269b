//! AWS IoT device shadows over any message bus.
//!
//! A shadow is a JSON document that the cloud keeps for a device: the state that the cloud requests
//! (`desired`), and the state that the device reports (`reported`). Both sides change it at any
//! time, also while the other one is offline, and the difference between the two, the *delta*, is
//! what the device still has to do.
//!
//! [`ShadowClient`] is the device's side of one shadow, named or classic. It keeps a replica of the
//! document that converges after any loss, duplication or reordering of messages. The application
//! can
//!
//! - act on changes: [`deltas`](ShadowClient::deltas), or [`delta`](ShadowClient::delta) to watch
//!   the latest one,
//! - report: [`report`](ShadowClient::report), which sends only changes,
//! - read and write: [`get`](ShadowClient::get), [`update`](ShadowClient::update),
//!   [`delete`](ShadowClient::delete), and [`modify`](ShadowClient::modify) for a change that
//!   depends on the current document,
//! - use its own types instead of JSON: [`typed`](ShadowClient::typed).
//!
//! It needs a [`MessageBus`]: two functions, publish and subscribe. An MQTT session can implement
//! it, and so can forty lines in memory for a test. The application calls
//! [`connected`](ShadowClient::connected) after each connection of the bus.
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
//! # /// Responds to every get with one document, and accepts every update.
//! # #[derive(Default)]
//! # struct Canned(Mutex<Vec<(String, mpsc::Sender<BusMessage>)>>);
//! # impl MessageBus for Canned {
//! #     async fn publish(&self, topic: String, payload: Vec<u8>) -> Result<(), BusError> {
//! #         let request: Value = serde_json::from_slice(&payload).map_err(BusError::permanent)?;
//! #         let state = if topic.ends_with("get") { json!({"desired": {"interval": 60}}) } else { request["state"].clone() };
//! #         let version = if topic.ends_with("get") { 1 } else { 2 };
//! #         let response = json!({"state": state, "version": version, "clientToken": request["clientToken"]});
//! #         for (filter, subscriber) in &*self.0.lock().unwrap() {
//! #             if filter.ends_with("accepted") {
//! #                 let message = BusMessage { topic: format!("{topic}/accepted"), payload: response.to_string().into() };
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
//! `examples/shadow.rs` runs a device and a small cloud in one process.
//!
//! # Guarantees
//!
//! - The `get` after each connection finds changes made while the device was offline. A shadow that
//!   does not exist yet is no error; the first update creates it.
//! - Older versions never overwrite newer ones, and a shadow that was deleted and recreated is
//!   detected even though its versions restart.
//! - Numbers are kept as they were sent, and 21 and 21.0 are the same. A value that cannot be
//!   represented is left out and named in the log; the rest of its document is used.
//! - Both forms of the delta message are supported; see [`parse_delta`].
//! - Every request ends within its time limit, with a typed result: the new version, the rejection
//!   with AWS's code, or the reason why the outcome is unknown. Responses match their request by
//!   client token, so that several clients of one shadow do not interfere.
//! - One request is in flight for each shadow, at most 16 are queued behind it, and at most ten are
//!   in flight for all shadows that share an [`InFlightLimit`]. Size and depth of a state are
//!   validated before it is sent.
//!
//! # Errors
//!
//! | type | reported by | what to do |
//! |---|---|---|
//! | [`StartError`] | [`ShadowClient::start`] | [`is_retryable`](StartError::is_retryable) |
//! | [`RequestError`] | requests | [`is_retryable`](RequestError::is_retryable); after a time-out the document shows the outcome |
//! | [`InvalidState`] | requests, as [`RequestError::Invalid`] | nothing was sent; change the state |
//! | [`StateError`] | [`parse_state`] | change the text |
//! | [`Malformed`] | [`parse_delta`] | ignore the message |
//!
//! # Out of scope
//!
//! The crate does not connect, and it does not persist the document: after a restart, the first
//! `get` fetches it. While disconnected, the bus decides whether to queue a request; its time limit
//! runs anyway.
//!
//! The protocol is described in `docs/protocol.md`, "Shadows".

mod bus;
mod client;
mod core;
mod delta;
mod document;
mod driver;
mod error;
mod in_flight_limit;
mod limits;
mod message;
mod raw_json;
mod replica;
#[cfg(test)]
mod test_support;
mod topic;
mod typed;
mod update;

pub use cloud_net::UntrustedText;
pub use futures_util::Stream;
pub use serde_json::Value;

pub use bus::{BoxedBus, BusError, BusMessage, BusSubscription, MessageBus};
pub use client::{Deltas, ShadowClient, ShadowConfig};
pub use delta::{Delta, parse_delta};
pub use document::{Document, Object};
pub use error::{Malformed, Rejection, RejectionCode, RequestError, StartError};
pub use in_flight_limit::InFlightLimit;
pub use limits::{InvalidState, MAX_DEPTH, MAX_STATE};
pub use message::parse_timestamp;
pub use raw_json::{StateError, parse_state};
pub use topic::{InvalidName, MessageKind, Operation, ShadowId};
pub use typed::{Typed, TypedDeltas, TypedDocument};
pub use update::Update;
