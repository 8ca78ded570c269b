//! An MQTT v5 session that stays connected.
//!
//! A device keeps one connection to its cloud, over unreliable networks, for years. This crate
//! maintains that connection: it connects with TLS and a client certificate, subscribes, announces
//! the device, delivers messages, and reconnects after every failure. It knows MQTT and the limits
//! of AWS IoT Core, and no application topics.
//!
//! - [`Session::builder`] takes a [`SessionConfig`] and returns a [`Session`] when started.
//! - [`publish`](Session::publish) accepts a message at once, online or not, and returns a
//!   [`Receipt`], a future of the acknowledgement. Accepted messages are delivered in order, or the
//!   receipt reports why not. The outbox is bounded; when it is full, the caller receives an error,
//!   or an [`Overflow`] policy drops other messages. The send rate stays within the limits of AWS
//!   IoT Core.
//! - With an [`OutboxStore`], accepted QoS 1 messages survive the process. The feature `durable`
//!   provides one, `DurableOutbox`: a file that withstands `kill -9` and power loss.
//! - A [`Router`] dispatches received messages to [`tower`] services by topic filter, raw or
//!   [parsed as JSON](Router::json). Each route has its own queue and task.
//!   [`messages`](Session::messages) opens a stream at run time, and
//!   [`subscribe`](Session::subscribe) adds a subscription.
//! - [`request`](Session::request) publishes a request and waits for the response.
//! - [`state`](Session::state) and [`events`](Session::events) report the state of the
//!   session and its reason; a [`Cause`] distinguishes network, DNS and TLS failures and each
//!   refusal of the server.
//! - [`stop`](Session::stop) flushes, sends the goodbye message, and leaves no task behind.
//!
//! # What happens on each connection
//!
//! CONNECT, with the will → SUBSCRIBE, with every granted code checked ([`Subscription::required`])
//! → on-connect hooks, concurrently → the birth message → the outbox in order →
//! [`SessionEvent::Connected`]. When the connection is lost, the on-disconnect hooks run, and the
//! next attempt follows after a [back-off](Backoff) that grows, has jitter, and is reset only by
//! time spent connected. Unacknowledged QoS 1 messages are resent in their original order.
//!
//! By default each connection starts with a clean session. With
//! [`session_expiry`](SessionConfig::session_expiry) the server keeps the session between
//! connections: messages that are published meanwhile arrive later, and SUBSCRIBE is skipped while
//! the server still has the subscriptions. A [`will_delay`](SessionConfig::will_delay) leaves the
//! status unchanged over a short break. With [`Acknowledge::AfterHandlers`] a received QoS 1
//! message is acknowledged when its handlers have ended, so that a crash in between loses nothing.
//!
//! # Private keys in memory
//!
//! A received payload may be a private key. The session wipes it from its receive buffer after the
//! message is decoded, and from [`Message::payload`] when the last clone is dropped.
//! [`tls::client_config`] wipes the key that it receives, and the session keeps no TLS
//! configuration that [`reconnect_with`](Session::reconnect_with) has replaced. This crate
//! cannot wipe allocations of the libraries below: rustls's record buffers, serde_json's scratch
//! buffer, and ring's numbers. A program that holds keys for others can wipe these with an
//! allocator that clears freed memory, as `clesyde-cloud` does with `zeroizing-alloc`.
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
//! let config = SessionConfig::new("127.0.0.1", "device-7", tls)
//!     .subscriptions(vec![Subscription::new("c/platform")?])
//!     .birth(Message::new("c/d/7/status", r#"{"state":"ONLINE"}"#));
//! # let config = config.port(1);
//!
//! let session = Session::builder(config)
//!     .on_connect(|| async {
//!         println!("connected");
//!         Ok(())
//!     })
//!     .start()?;
//!
//! // The port has no listener, so the message waits, and its receipt reports the stop.
//! let receipt = session.publish(Message::new("c/d/7/note", "hello"))?;
//! session.stop(Duration::from_secs(1)).await;
//! assert_eq!(receipt.await, Err(DeliveryError::Stopped));
//! # Ok(())
//! # }
//! ```
//!
//! The public API contains types of [`bytes`], [`rustls`] and [`tower`], which the crate
//! re-exports, and of tokio's `broadcast` and `watch` channels.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `durable` | no | `DurableOutbox`: accepted QoS 1 messages survive the process |
//! | `metrics` | no | the metrics below |
//!
//! # Errors
//!
//! | type | reported by | what to do |
//! |---|---|---|
//! | [`ConfigError`] | [`SessionBuilder::start`] | change the configuration |
//! | [`PublishError`] | [`Session::publish`] | nothing was accepted; [`is_retryable`](PublishError::is_retryable) |
//! | [`DeliveryError`] | [`Receipt`] | accepted, not delivered; [`is_retryable`](DeliveryError::is_retryable) |
//! | [`StoreError`] | [`Receipt::stored`] | the message is held in memory only |
//! | [`RequestError`] | [`Session::request`] | [`is_retryable`](RequestError::is_retryable) |
//! | [`SubscribeError`] | [`Session::subscribe`] | drop a subscription; or as the server's policy says |
//! | [`StreamError`] | [`Session::messages`] | subscribe to the filter, or drop a stream |
//! | [`Cause`] | [`SessionEvent::Disconnected`], [`SessionState::Waiting`] | nothing: the session reconnects; the text says what is wrong |
//!
//! # Metrics
//!
//! With the feature `metrics` a session reports through the [`metrics`](https://docs.rs/metrics)
//! facade to the program's recorder. All metrics have the label `client_id`.
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
//! | `cloud_iot_dropped_total` | counter | accepted messages that were not delivered, by label `reason`: [`DeliveryError::name`] |
//! | `cloud_iot_acknowledgement_seconds` | histogram | from writing a QoS 1 message to its acknowledgement |
//!
//! # Internals
//!
//! `session` is the API. `core` is a pure state machine, with time and randomness as inputs;
//! `driver` is the one task that performs its actions. `transport` makes and carries a connection,
//! with rumqttc's codec; `outbox` holds accepted messages and stores them; `routing` passes
//! received messages to handlers and streams. For the protocol see docs/protocol.md, "IoT
//! messaging".

mod core;
mod driver;
mod error;
mod log_throttles;
mod mqtt;
mod outbox;
mod routing;
mod session;
mod transport;

pub use bytes::{self, Bytes};
pub use rustls;
pub use tower::{self, BoxError};

pub use cloud_net::{
    ConnectError, InvalidProxy, Malformed, Proxy, ProxyError, ProxyFailure, ProxyReply,
    UntrustedText,
};

pub use crate::core::backoff::{Backoff, Retry};
pub use crate::error::cause::{Cause, TlsCause};
pub use crate::error::{
    ConfigError, DeliveryError, PublishError, RequestError, StreamError, SubscribeError,
};
pub use crate::mqtt::message::{Message, PublishOptions, QoS, RetainHandling, Subscription};
pub use crate::mqtt::message_properties::MessageProperties;
pub use crate::mqtt::reason_code::ReasonCode;
pub use crate::mqtt::topic::{TopicError, TopicFilter};
#[cfg(feature = "durable")]
pub use crate::outbox::durable::{Damage, DurableOutbox};
pub use crate::outbox::store::{OutboxStore, StoreBatch, StoreError, StoredMessage};
pub use crate::routing::held_messages::{HeldMessage, HeldMessages};
pub use crate::routing::json::Json;
pub use crate::routing::router::{RouteOptions, Router};
pub use crate::routing::stream::{Lagged, MessageStream};
pub use crate::session::active_subscription::ActiveSubscription;
pub use crate::session::config::{Acknowledge, FallbackPort, Overflow, SessionConfig};
pub use crate::session::event::{SessionEvent, SessionState, StopReport};
pub use crate::session::limits::{Limits, Timeouts};
pub use crate::session::receipt::{Ack, Receipt};
pub use crate::session::request::Request;
pub use crate::session::{Session, SessionBuilder};
pub use crate::transport::tls;
