//! An MQTT v5 session that stays up.
//!
//! A device has one connection to its cloud, over networks that come and go, for years. This crate
//! keeps that connection: it connects with TLS and a client certificate, subscribes, says that the
//! device is there, delivers what it is given, and comes back by itself whenever anything fails.
//! It knows MQTT and the limits of AWS IoT Core, and nothing of any application's topics.
//!
//! - [`Session::builder`] takes a [`SessionConfig`] and gives a [`SessionHandle`].
//! - [`publish`](SessionHandle::publish) accepts a message at once, online or not, and returns a
//!   [`Receipt`] to await the acknowledgement with. What is accepted is delivered in order, or the
//!   receipt says why not. The outbox is bounded; when it is full the caller is told, or what an
//!   [`Overflow`] policy names makes room. It sends no faster than AWS IoT Core takes.
//! - With an [`OutboxStore`], what is accepted at QoS 1 survives the process. The feature `durable`
//!   brings one, `DurableOutbox`: a file that withstands `kill -9` and the loss of power.
//! - A [`Router`] leads received messages to [`tower`] services by topic filter, as they are or
//!   [read as JSON](Router::json), each route with a queue and a task of its own. [`messages`](SessionHandle::messages) opens a stream at run time.
//! - [`request`](SessionHandle::request) publishes and waits for the answer.
//! - [`state`](SessionHandle::state) and [`events`](SessionHandle::events) tell where the session
//!   stands and why; a [`Cause`] tells network, DNS, TLS, and each refusal of the server apart.
//! - [`stop`](SessionHandle::stop) flushes, says goodbye, and leaves no task behind.
//!
//! # What happens on each connection
//!
//! CONNECT, with the will → SUBSCRIBE, every granted code checked → on-connect
//! hooks, all together → the birth message → the outbox in order → [`SessionEvent::Connected`].
//! When the connection is lost the on-disconnect hooks run, and after a [back-off](Backoff) that
//! grows, has jitter and is reset only by time spent connected, the next attempt is made. Messages
//! at QoS 1 that were not acknowledged are sent again, in their old order.
//!
//! By default each connection begins with a clean start, and everything is made anew. With
//! [`session_expiry`](SessionConfig::session_expiry) the server keeps the session in between: what
//! is published to it meanwhile comes later, and SUBSCRIBE is left out while the server still has
//! the subscriptions. With [`Acknowledge::AfterHandlers`] a received message at QoS 1 is
//! acknowledged when its handlers have run, so that a crash in between loses nothing.
//!
//! # Private keys in memory
//!
//! A received payload may be a private key. The session wipes it where it held it: in its receive buffer when the message has
//! left it, and in [`Message::payload`] when the last clone of that is dropped. [`tls::client_config`] wipes the key that it is
//! given, and the session keeps no TLS configuration that [`reconnect_with`](SessionHandle::reconnect_with) has replaced.
//! What no type here reaches are allocations of the libraries below: rustls's record buffers, serde_json's scratch buffer, and
//! the numbers that ring computes with. A program that holds keys for others can wipe these as well, with an allocator that
//! clears memory when it is freed, as `clesyde-cloud` does with `zeroizing-alloc`.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//!
//! use cloud_iot::{DeliveryError, Message, Session, SessionConfig, Subscription, tls};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let made = rcgen::generate_simple_self_signed(["device".to_owned()])?;
//! # let (root, certificate) = (made.cert.der().clone(), made.cert.der().clone());
//! # let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
//! // Root certificates, the device's certificate chain and its private key, in DER.
//! let tls = tls::client_config([root], vec![certificate], key)?;
//! let mut config = SessionConfig::new("127.0.0.1", "device-7", tls);
//! # config.port = 1;
//! config.subscriptions = vec![Subscription::new("c/platform")?];
//! config.birth = Some(Message::new("c/d/7/status", r#"{"state":"ONLINE"}"#));
//!
//! let session = Session::builder(config)
//!     .on_connect(|| async {
//!         println!("connected");
//!         Ok(())
//!     })
//!     .start()?;
//!
//! // Nothing listens there, so the message waits, and its receipt tells what became of it.
//! let receipt = session.publish(Message::new("c/d/7/note", "hello"))?;
//! session.stop(Duration::from_secs(1)).await;
//! assert_eq!(receipt.await, Err(DeliveryError::Stopped));
//! # Ok(())
//! # }
//! ```
//!
//! # Measures
//!
//! With the feature `metrics` a session counts through the [`metrics`](https://docs.rs/metrics) facade, for whatever
//! recorder the program has. All of them bear the label `client_id`.
//!
//! | name | kind | what |
//! |---|---|---|
//! | `cloud_iot_connected` | gauge | 1 while the session is online, else 0 |
//! | `cloud_iot_connected_seconds_total` | counter | seconds spent online |
//! | `cloud_iot_disconnections_total` | counter | connections lost or not made, by label `cause`: [`Cause::name`] |
//! | `cloud_iot_queued_messages` | gauge | accepted messages that wait |
//! | `cloud_iot_in_flight_messages` | gauge | messages given to the connection and not yet delivered |
//! | `cloud_iot_acknowledged_total` | counter | QoS 1 messages that the server has taken |
//! | `cloud_iot_refused_total` | counter | QoS 1 messages that it answered with a failure |
//! | `cloud_iot_acknowledgement_seconds` | histogram | from writing a QoS 1 message to its acknowledgement |
//!
//! # Inside
//!
//! `core` decides, purely, with time and randomness as inputs; `driver` is the one task that
//! carries decisions out; `connection` is the socket with rumqttc's codec on it, made anew by
//! `connect` (with `dial` and `proxy`) each time. The rest is around these: `outbox`, `ledger`,
//! `requests`, `backoff` belong to the core; `router`, `stream`, `hooks`, `keeper` to the driver. The
//! protocol's facts are in docs/protocol.md, "IoT messaging".

mod backoff;
mod cause;
mod clock;
mod config;
mod connect;
mod connection;
mod core;
mod dial;
mod driver;
#[cfg(feature = "durable")]
mod durable;
mod error;
mod event;
mod handled;
mod hooks;
mod inbound;
mod inbox;
mod json;
mod keeper;
mod ledger;
mod limits;
mod link;
mod log_throttles;
mod measures;
mod message;
mod outbox;
mod pace;
mod proxy;
mod reason;
mod receipt;
mod request;
mod requests;
mod router;
mod session;
mod store;
mod stream;
pub mod tls;
mod topic;
mod turns;
mod wire;

pub use tower::BoxError;

pub use crate::backoff::{Backoff, Retry};
pub use crate::cause::{Cause, ProxyCause, TlsCause};
pub use crate::config::{Acknowledge, FallbackPort, Overflow, SessionConfig};
pub use crate::core::StopReport;
#[cfg(feature = "durable")]
pub use crate::durable::{Damage, DurableOutbox};
pub use crate::error::{ConfigError, DeliveryError, PublishError, RequestError, StreamError};
pub use crate::event::{SessionEvent, SessionState};
pub use crate::json::{Json, Malformed};
pub use crate::limits::{Limits, Timeouts};
pub use crate::message::{Message, PublishOptions, QoS, Subscription};
pub use crate::proxy::{InvalidProxy, Proxy};
pub use crate::reason::ReasonCode;
pub use crate::receipt::{Ack, Receipt};
pub use crate::request::Request;
pub use crate::router::{RouteOptions, Router};
pub use crate::session::{Session, SessionBuilder, SessionHandle};
pub use crate::store::{OutboxStore, StoreBatch, StoreError, StoredMessage};
pub use crate::stream::{Lagged, MessageStream};
pub use crate::topic::{TopicError, TopicFilter};
