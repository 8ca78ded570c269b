//! A real MQTT v5 broker in the same process, behind a TLS front of ours.
//!
//! The front ends TLS, demands a client certificate, and can misbehave: cut every connection,
//! freeze them, or have no broker behind it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use mqtt5::broker::config::{StorageBackend, StorageConfig};
use mqtt5::broker::{AllowAllAuthProvider, BrokerConfig, BrokerShutdownHandle, MqttBroker};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// A broker behind a front.
pub(crate) struct Broker {
    pub(crate) port: u16,
    state: Arc<State>,
    front: JoinHandle<()>,
    running: Option<Running>,
}

struct Running {
    shutdown: BrokerShutdownHandle,
    task: JoinHandle<()>,
}

struct State {
    /// Where the broker listens; none while it is down.
    backend: Mutex<Option<SocketAddr>>,
    connections: Mutex<Vec<AbortHandle>>,
    frozen: watch::Sender<bool>,
}

impl Broker {
    pub(crate) async fn start(tls: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = Arc::new(State {
            backend: Mutex::default(),
            connections: Mutex::default(),
            frozen: watch::Sender::new(false),
        });
        let port = listener.local_addr().unwrap().port();
        let front = tokio::spawn(front(listener, TlsAcceptor::from(tls), Arc::clone(&state)));
        let mut broker = Self {
            port,
            state,
            front,
            running: None,
        };
        broker.up().await;
        broker
    }

    /// Starts the broker anew, with nothing remembered.
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
            .with_storage(storage);
        let mut broker = MqttBroker::with_config(config)
            .await
            .unwrap()
            .with_auth_provider(Arc::new(AllowAllAuthProvider));
        let address = broker.local_addr().unwrap();
        let shutdown = broker.shutdown_handle();
        let task = tokio::spawn(async move { broker.run().await.unwrap() });
        *self.state.backend.lock().unwrap() = Some(address);
        self.running = Some(Running { shutdown, task });
    }

    /// Ends the broker and every connection; new ones are closed at once.
    pub(crate) async fn down(&mut self) {
        *self.state.backend.lock().unwrap() = None;
        self.cut();
        if let Some(running) = self.running.take() {
            running.shutdown.shutdown();
            running.task.await.unwrap();
        }
    }

    /// Ends every connection without a word, on both sides.
    pub(crate) fn cut(&self) {
        for connection in self.state.connections.lock().unwrap().drain(..) {
            connection.abort();
        }
    }

    /// From now on nothing passes, and nothing is closed.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.state.frozen.send_replace(frozen);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.front.abort();
        self.cut();
        if let Some(running) = &self.running {
            running.shutdown.shutdown();
        }
    }
}

async fn front(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<State>) {
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
