//! A core with a virtual clock, for tests.

use std::sync::OnceLock;
use std::time::Duration;

use cloud_net::AddressFamily;
use futures_util::FutureExt;
use rustls::RootCertStore;

use super::super::*;
use crate::ReasonCode;
use crate::core::connect_options::ConnectOptions;
use crate::core::connection_event::{Incoming, ServerCapabilities};
use crate::core::endpoint::{Endpoint, Port};
use crate::error::{DeliveryError, PublishError};
use crate::mqtt::decode::SubAck;
use crate::mqtt::message::{Message, PublishOptions, QoS, Subscription};
use crate::session::event::{SessionEvent, SessionState};
use crate::session::receipt::{Ack, Receipt};

pub(super) const SECOND: Duration = Duration::from_secs(1);

fn tls() -> Arc<rustls::ClientConfig> {
    static TLS: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    Arc::clone(TLS.get_or_init(|| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        Arc::new(config)
    }))
}

pub(super) fn config() -> SessionConfig {
    let mut config = SessionConfig::new("localhost", "device", tls());
    config.subscriptions = vec![
        Subscription::new("a/+").unwrap(),
        Subscription::new("b/#").unwrap(),
    ];
    config.birth = Some(Message::new("status", "ONLINE").qos(QoS::AtMostOnce));
    config.goodbye = Some(Message::new("status", "OFFLINE").qos(QoS::AtMostOnce));
    config
}

pub(super) fn capabilities() -> ServerCapabilities {
    ServerCapabilities {
        receive_maximum: 100,
        maximum_packet: None,
        at_least_once: true,
        retain: true,
        keep_alive: Duration::from_secs(60),
        session_present: false,
    }
}

pub(super) fn subscribed(packet_id: u16, codes: &[u8]) -> ConnectionEvent {
    ConnectionEvent::Subscribed(SubAck {
        packet_id,
        codes: codes.iter().copied().map(ReasonCode).collect(),
        message: Some("the server's words".into()),
    })
}

pub(super) fn not_accepted(code: u8) -> Cause {
    Cause::NotAccepted {
        reason: ReasonCode(code),
        message: None,
    }
}

/// A core and its clock; actions are returned as short strings.
pub(super) struct Harness {
    pub(super) core: Core,
    pub(super) now: Instant,
}

impl Harness {
    pub(super) fn new(config: SessionConfig) -> Self {
        let now = Instant::now();
        Self {
            core: Core::new(Arc::new(config), Box::new(|| 0.0), now),
            now,
        }
    }

    pub(super) fn online(config: SessionConfig) -> Self {
        let mut harness = Self::new(config);
        harness.connect();
        harness.actions();
        harness
    }

    /// The SUBSCRIBE uses packet identifier 1, so the first message has 2.
    pub(super) fn connect(&mut self) {
        self.event(ConnectionEvent::Connected(capabilities()));
        self.granted(&[1, 1]);
        self.core.handle_hooks_finished(self.now);
        let birth = self.core.config.birth.as_ref();
        if birth.is_some_and(|birth| birth.qos == QoS::AtMostOnce)
            && !self.core.outbox.has_suspect()
        {
            self.event(ConnectionEvent::Written(0));
        }
    }

    pub(super) fn event(&mut self, event: ConnectionEvent) {
        self.core.handle_connection_event(event, self.now);
    }

    /// Answers the outstanding SUBSCRIBE with these codes.
    pub(super) fn granted(&mut self, codes: &[u8]) {
        let Phase::Subscribing { packet_id, .. } = self.core.phase else {
            panic!("no SUBSCRIBE is outstanding");
        };
        self.event(subscribed(packet_id, codes));
    }

    pub(super) fn receive(&mut self, message: Message, packet_id: u16, duplicate: bool) {
        self.event(ConnectionEvent::Message(Incoming {
            message,
            packet_id,
            duplicate,
        }));
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
        self.core.handle_timeout(self.now);
    }

    /// Waits for the next deadline and returns how long that took.
    pub(super) fn wait_until_due(&mut self) -> Duration {
        let due = self.core.poll_timeout().unwrap();
        let time = due.saturating_duration_since(self.now);
        self.wait(time);
        time
    }

    pub(super) fn actions(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.core.poll_action())
            .filter(|action| !matches!(action, Action::Log(_)))
            .map(|action| summary(&action))
            .collect()
    }

    pub(super) fn publish(&mut self, payload: &str) -> Receipt {
        self.try_publish(Message::new("t", payload.to_owned()))
            .unwrap()
    }

    pub(super) fn try_publish(&mut self, message: Message) -> Result<Receipt, PublishError> {
        self.core.publish(message, PublishOptions::new(), self.now)
    }

    pub(super) fn cause(&mut self) -> Cause {
        let actions: Vec<_> = std::iter::from_fn(|| self.core.poll_action()).collect();
        actions
            .into_iter()
            .rev()
            .find_map(|action| match action {
                Action::Event(SessionEvent::Disconnected { reason, .. }) => Some((*reason).clone()),
                _ => None,
            })
            .expect("a disconnection")
    }
}

pub(super) fn summary(action: &Action) -> String {
    match action {
        Action::Open(ConnectOptions {
            endpoint: Endpoint { port, first_family },
            ..
        }) => {
            let port = match port {
                Port::Main => String::new(),
                Port::Fallback(port) => format!(" {port}"),
            };
            let first_family = match first_family {
                AddressFamily::Preferred => "",
                AddressFamily::Other => ", other family",
            };
            format!("open{port}{first_family}")
        }
        Action::Subscribe(_, filters) => format!("subscribe {}", filters.len()),
        Action::Unsubscribe(_, filter) => format!("unsubscribe {filter}"),
        Action::Ping => "ping".into(),
        Action::ConnectHooks => "connect hooks".into(),
        Action::Publish(out) => {
            let payload = String::from_utf8_lossy(&out.message.payload);
            if out.duplicate {
                format!("publish {payload} again as {}", out.packet_id)
            } else {
                format!("publish {payload}")
            }
        }
        Action::Deliver { answered, .. } => format!("deliver {answered}"),
        Action::Store(batch) => format!("store {} {}", batch.put.len(), batch.remove.len()),
        Action::Acknowledge(id) => format!("acknowledge {id}"),
        Action::Disconnect { keep_will: false } => "disconnect".into(),
        Action::Disconnect { keep_will: true } => "disconnect with will".into(),
        Action::Close => "close".into(),
        Action::DisconnectHooks(_) => "disconnect hooks".into(),
        Action::State(SessionState::Connecting { attempt }) => format!("connecting {attempt}"),
        Action::State(SessionState::Online { .. }) => "online".into(),
        Action::State(SessionState::Waiting { retry_in, .. }) => format!("waiting {retry_in:?}"),
        Action::State(SessionState::Stopping) => "stopping".into(),
        Action::State(SessionState::Stopped) => "stopped".into(),
        Action::Event(SessionEvent::Connected) => "connected".into(),
        Action::Event(SessionEvent::Disconnected { .. }) => "disconnected".into(),
        Action::Event(SessionEvent::Stopped) => "event stopped".into(),
        Action::Event(_) => "event".into(),
        Action::Log(_) => "note".into(),
        Action::End => "end".into(),
    }
}

/// Returns the receipt's result, if available.
pub(super) fn outcome(receipt: &mut Receipt) -> Option<Result<Ack, DeliveryError>> {
    receipt.now_or_never()
}
