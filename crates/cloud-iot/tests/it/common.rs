//! Common helpers of the session tests.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cloud_iot::{
    Backoff, BoxError, Cause, Message, MessageStream, QoS, Router, Session, SessionConfig,
    SessionEvent, SessionState, Subscription,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Semaphore, broadcast};
use tokio::time::timeout;
use tower::service_fn;
use tower::util::BoxCloneService;

use crate::support::broker::Broker;
use crate::support::peer::Link;
pub(crate) use crate::support::peer::{PATIENCE, Peer};
use crate::support::pki::{Flaw, Pki};

pub(crate) const STOP: Duration = Duration::from_secs(5);

/// A broker and its CA.
pub(crate) struct Site {
    pub(crate) pki: Pki,
    pub(crate) broker: Broker,
}

impl Site {
    pub(crate) async fn new() -> Self {
        let pki = Pki::new();
        let broker = Broker::start(pki.server(Flaw::None)).await;
        Self { pki, broker }
    }

    pub(crate) fn config(&self, client_id: &str) -> SessionConfig {
        config(&self.pki, self.broker.port, client_id)
    }

    /// Starts a session with these handlers and waits until it is online.
    pub(crate) async fn routed(&self, router: Router) -> Session {
        let builder = Session::builder(self.config("device")).router(router);
        let session = builder.start().unwrap();
        online(&session).await;
        session
    }

    /// A session that receives everything from the broker.
    pub(crate) async fn watcher(&self) -> (Session, MessageStream) {
        let mut config = self.config("watcher");
        config.port = self.broker.side_port;
        config.subscriptions = vec![Subscription::new("#").unwrap()];
        config.limits.stream_messages = 10_000;
        config.limits.stream_bytes = 100 << 20;
        let session = Session::builder(config).start().unwrap();
        online(&session).await;
        let stream = session.messages("#").unwrap();
        (session, stream)
    }
}

/// A scripted peer and its CA.
pub(crate) async fn scripted() -> (Pki, Peer) {
    let pki = Pki::new();
    let peer = Peer::listen(pki.server(Flaw::None)).await;
    (pki, peer)
}

/// A scripted peer, and a session that connects to it, with a changed configuration.
pub(crate) async fn started(
    change: impl FnOnce(SessionConfig) -> SessionConfig,
) -> (Peer, Session) {
    let (pki, peer) = scripted().await;
    let config = change(config(&pki, peer.port, "device"));
    (peer, Session::builder(config).start().unwrap())
}

impl Peer {
    /// Accepts a connection up to SUBACK, and waits until the session is online.
    pub(crate) async fn online(&self, session: &Session) -> Link {
        let link = self.subscribed().await;
        online(session).await;
        link
    }
}

pub(crate) fn config(pki: &Pki, port: u16, client_id: &str) -> SessionConfig {
    let mut config = SessionConfig::new("localhost", client_id, pki.device());
    config.port = port;
    config.backoff = Backoff::new()
        .base_delay(Duration::from_millis(10))
        .jitter(Duration::from_millis(5));
    config.subscriptions = vec![Subscription::new("in/#").unwrap()];
    config.limits.publishes_per_second = None;
    config.limits.bytes_per_second = None;
    config
}

pub(crate) fn at_most_once(topic: &str, payload: &str) -> Message {
    Message::new(topic, payload.to_owned()).qos(QoS::AtMostOnce)
}

/// Fails the test after a time limit.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it took too long")
}

pub(crate) async fn online(session: &Session) {
    let mut state = session.state();
    soon(state.wait_for(SessionState::is_online)).await.unwrap();
}

pub(crate) async fn publish(session: &Session, topic: &str, payload: &str) {
    let receipt = session
        .publish(Message::new(topic, payload.to_owned()))
        .unwrap();
    soon(receipt).await.unwrap();
}

/// A handler that requires a permit for each message, and its handled messages.
pub(crate) fn gated(
    gate: &Arc<Semaphore>,
) -> (
    BoxCloneService<Message, (), BoxError>,
    UnboundedReceiver<Message>,
) {
    let (sender, handled) = unbounded_channel();
    let gate = Arc::clone(gate);
    let handler = service_fn(move |message: Message| {
        let (gate, sender) = (Arc::clone(&gate), sender.clone());
        async move {
            gate.acquire().await?.forget();
            sender.send(message)?;
            Ok::<(), BoxError>(())
        }
    });
    (BoxCloneService::new(handler), handled)
}

/// Returns the cause of the next disconnection.
pub(crate) async fn lost(events: &mut broadcast::Receiver<SessionEvent>) -> Arc<Cause> {
    loop {
        if let SessionEvent::Disconnected { reason, .. } = soon(events.recv()).await.unwrap() {
            return reason;
        }
    }
}

/// Returns the payload of the next message.
pub(crate) async fn next(stream: &mut MessageStream) -> String {
    let message = soon(stream.recv())
        .await
        .expect("the stream ended")
        .expect("it lagged");
    String::from_utf8(message.payload.to_vec()).unwrap()
}
