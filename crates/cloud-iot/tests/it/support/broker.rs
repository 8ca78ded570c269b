//! A real MQTT v5 broker in the same process, behind TLS fronts.
//!
//! A front terminates TLS, requires a client certificate, and can misbehave: cut every connection,
//! freeze them, or run without a broker. There are two: one for the session under test, and one for
//! observers, which is cut only when the broker goes down.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use mqtt5::broker::config::{StorageBackend, StorageConfig};
use mqtt5::broker::{
    AllowAllAuthProvider, BrokerConfig, BrokerEventHandler, BrokerShutdownHandle,
    ClientPublishEvent, MqttBroker, PublishAction,
};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// A broker behind its fronts.
pub(crate) struct Broker {
    /// Port for the session under test.
    pub(crate) port: u16,
    /// Port for observers.
    pub(crate) side_port: u16,
    received: Arc<Received>,
    front: Front,
    side: Front,
    running: Option<Running>,
}

struct Running {
    shutdown: BrokerShutdownHandle,
    task: JoinHandle<()>,
}

impl Broker {
    pub(crate) async fn start(tls: Arc<ServerConfig>) -> Self {
        let (port, front) = Front::open(Arc::clone(&tls)).await;
        let (side_port, side) = Front::open(tls).await;
        let received = Arc::default();
        let mut broker = Self {
            port,
            side_port,
            received,
            front,
            side,
            running: None,
        };
        broker.up().await;
        broker
    }

    /// Restarts the broker without any state.
    pub(crate) async fn up(&mut self) {
        let storage = StorageConfig {
            backend: StorageBackend::Memory,
            enable_persistence: false,
            ..StorageConfig::default()
        };
        let config = BrokerConfig::default()
            .with_bind_addresses(vec!["127.0.0.1:0".parse().unwrap()])
            .with_maximum_qos(1)
            .with_server_receive_maximum(100)
            .with_max_packet_size(149_504)
            .with_sys_topics_enabled(false)
            .with_event_handler(Arc::clone(&self.received) as Arc<dyn BrokerEventHandler>)
            .with_storage(storage);
        let mut broker = MqttBroker::with_config(config)
            .await
            .unwrap()
            .with_auth_provider(Arc::new(AllowAllAuthProvider));
        let address = broker.local_addr().unwrap();
        let shutdown = broker.shutdown_handle();
        let task = tokio::spawn(async move { broker.run().await.unwrap() });
        self.front.lead_to(Some(address));
        self.side.lead_to(Some(address));
        self.running = Some(Running { shutdown, task });
    }

    /// Stops the broker and every connection; new ones are closed at once.
    pub(crate) async fn down(&mut self) {
        self.front.lead_to(None);
        self.side.lead_to(None);
        self.front.cut();
        self.side.cut();
        if let Some(running) = self.running.take() {
            running.shutdown.shutdown();
            running.task.await.unwrap();
        }
    }

    /// Cuts every connection of the front, on both sides, without DISCONNECT.
    pub(crate) fn cut(&self) {
        self.front.cut();
    }

    /// From now on the front forwards nothing and closes nothing.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.front.state.frozen.send_replace(frozen);
    }

    /// Payloads received on a topic, over all restarts.
    pub(crate) fn received(&self, topic: &str) -> Vec<String> {
        let received = self.received.0.lock().unwrap();
        received
            .iter()
            .filter(|(on, _)| on == topic)
            .map(|(_, payload)| payload.clone())
            .collect()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.shutdown.shutdown();
        }
    }
}

/// Received messages, in order.
#[derive(Default)]
struct Received(Mutex<Vec<(String, String)>>);

impl BrokerEventHandler for Received {
    fn on_client_publish<'a>(
        &'a self,
        event: ClientPublishEvent,
    ) -> Pin<Box<dyn Future<Output = PublishAction> + Send + 'a>> {
        let payload = String::from_utf8_lossy(&event.payload).into_owned();
        self.0
            .lock()
            .unwrap()
            .push((event.topic.to_string(), payload));
        Box::pin(async { PublishAction::Continue })
    }
}

struct Front {
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    /// Address of the broker; `None` while it is down.
    backend: Mutex<Option<SocketAddr>>,
    connections: Mutex<Vec<AbortHandle>>,
    frozen: watch::Sender<bool>,
}

impl Front {
    async fn open(tls: Arc<ServerConfig>) -> (u16, Self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            backend: Mutex::default(),
            connections: Mutex::default(),
            frozen: watch::Sender::new(false),
        });
        let task = tokio::spawn(accept(listener, TlsAcceptor::from(tls), Arc::clone(&state)));
        (port, Self { state, task })
    }

    fn lead_to(&self, backend: Option<SocketAddr>) {
        *self.state.backend.lock().unwrap() = backend;
    }

    fn cut(&self) {
        for connection in self.state.connections.lock().unwrap().drain(..) {
            connection.abort();
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let connection = serve(stream, acceptor.clone(), Arc::clone(&state));
        let handle = connections.spawn(connection);
        state.connections.lock().unwrap().push(handle);
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, state: Arc<State>) {
    let backend = *state.backend.lock().unwrap();
    let Some(backend) = backend else { return };
    let Ok(mut tls) = acceptor.accept(stream).await else {
        return;
    };
    let Ok(mut plain) = TcpStream::connect(backend).await else {
        return;
    };
    let mut frozen = state.frozen.subscribe();
    loop {
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut tls, &mut plain) => return,
            _ = frozen.wait_for(|frozen| *frozen) => {}
        }
        if frozen.wait_for(|frozen| !*frozen).await.is_err() {
            return;
        }
    }
}
