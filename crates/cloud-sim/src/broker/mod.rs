//! The message broker: a real MQTT v5 broker behind an accept loop of ours.
//!
//! The loop demands a client certificate of the device authority, finds out whose it is, and hands
//! the connection to the broker with that device's rights. Limits and CONNACK values are those of
//! AWS IoT Core (docs/protocol.md, "IoT messaging"). Sessions, retained messages, wills and
//! takeover are the broker's own work; in front of it, the pipe applies AWS's rules to each packet.
//!
//! Invariants: no connection reaches the broker without a verified certificate; all connections
//! live in one `JoinSet`, so that none is left when [`Broker::serve`] returns.

pub(crate) mod acl;
mod aws_rules;
mod frames;
mod limits;
mod pipe;
mod shadows;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud_net::{LogThrottle, info_throttled, warn_throttled};
use mqtt5::QoS;
use mqtt5::broker::client_handler::ClientHandler;
use mqtt5::broker::config::BrokerConfig;
use mqtt5::broker::resource_monitor::{ResourceLimits, ResourceMonitor};
use mqtt5::broker::router::{
    DeliveryLanes, LaneReceivers, MessageRouter, SubscriptionRequest, TakeoverNotice,
};
use mqtt5::broker::storage::{DynamicStorage, MemoryBackend, StorageBackend};
use mqtt5::broker::sys_topics::BrokerStats;
use mqtt5::broker::transport::BrokerTransport;
use mqtt5::packet::publish::PublishPacket;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, oneshot};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use self::acl::{ConnectionAcl, Identity};
use self::aws_rules::AwsRules;
use self::limits::{MAX_PACKET, MAX_SUBSCRIPTIONS, RECEIVE_MAXIMUM, SESSION_EXPIRY, TOPIC_ALIASES};
pub(crate) use self::shadows::ShadowHandler;
use crate::authority;
use crate::faults::FaultInjector;
use crate::lock;
use crate::shadow::DeltaForm;

/// Connections at once: every device of a full table, and some more that are being refused.
const MAX_CONNECTIONS: usize = 1_300;

/// How long a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// How long connections get for their DISCONNECT when the broker stops.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// How often expired sessions are thrown away.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// Messages from devices that wait for the platform to look at them; beyond that the broker drops
/// QoS 0.
const PLATFORM_QUEUE: usize = 4096;

/// The platform's own client id. No device can have it: `#` is not allowed in a serial number.
const PLATFORM_CLIENT: &str = "#platform";

/// The broker and its connections.
pub(crate) struct Broker {
    config: Arc<BrokerConfig>,
    router: Arc<MessageRouter>,
    storage: Arc<DynamicStorage>,
    stats: Arc<BrokerStats>,
    monitor: Arc<ResourceMonitor>,
    shadows: Arc<ShadowHandler>,
    faults: Arc<FaultInjector>,
    stopping: broadcast::Sender<()>,
    connections: Mutex<HashMap<u64, Connection>>,
    next_connection: AtomicU64,
    logs: Arc<BrokerLogs>,
}

/// The rate limits of the log lines that anything that connects can cause.
#[derive(Debug, Default)]
pub(crate) struct BrokerLogs {
    accept: LogThrottle,
    handshake: LogThrottle,
    unknown_certificate: LogThrottle,
    wrong_client_id: LogThrottle,
    refused_packet: LogThrottle,
    sockets: LogThrottle,
}

struct Connection {
    thing: String,
    /// Of its client certificate.
    serial: String,
    cut: CancellationToken,
}

/// The platform's own session in the broker: what devices say to it.
pub(crate) struct PlatformSession {
    messages: LaneReceivers,
    /// Held so that the broker does not take the session for a dead one.
    _takeover: oneshot::Receiver<TakeoverNotice>,
}

impl PlatformSession {
    /// The next message from a device: topic and payload. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<(String, bytes::Bytes)> {
        let message = self.messages.recv().await?;
        Some((message.publish.topic_name, message.publish.payload))
    }
}

impl Broker {
    pub(crate) fn new(form: DeltaForm, faults: Arc<FaultInjector>) -> Self {
        let shadows = Arc::new(ShadowHandler::new(form));
        let storage = Arc::new(DynamicStorage::Memory(MemoryBackend::new()));
        let router = Arc::new(MessageRouter::with_storage(Arc::clone(&storage)));
        shadows.attach(&router);
        let (stopping, _) = broadcast::channel(1);
        Self {
            config: Arc::new(config(Arc::clone(&shadows))),
            router,
            storage,
            stats: Arc::new(BrokerStats::new()),
            monitor: Arc::new(ResourceMonitor::new(limits())),
            shadows,
            faults,
            stopping,
            connections: Mutex::new(HashMap::new()),
            next_connection: AtomicU64::new(0),
            logs: Arc::default(),
        }
    }

    pub(crate) fn shadows(&self) -> &ShadowHandler {
        &self.shadows
    }

    /// Publishes as the platform. QoS 1, which each subscription lowers to its own.
    pub(crate) async fn publish(&self, topic: &str, payload: impl Into<bytes::Bytes>) {
        self.router
            .route_message(&PublishPacket::new(topic, payload, QoS::AtLeastOnce), None)
            .await;
    }

    /// Subscribes as the platform, past all rights.
    pub(crate) async fn platform_session(
        &self,
        filters: &[&str],
    ) -> mqtt5::Result<PlatformSession> {
        let (lanes, messages) = DeliveryLanes::channel(PLATFORM_QUEUE);
        let (takeover, takeover_rx) = oneshot::channel();
        let queue = self.router.queue_handle(PLATFORM_CLIENT);
        self.router
            .register_client(PLATFORM_CLIENT.to_owned(), lanes, queue, takeover)
            .await;
        for filter in filters {
            self.router
                .subscribe(SubscriptionRequest::new(
                    PLATFORM_CLIENT,
                    *filter,
                    QoS::AtMostOnce,
                ))
                .await?;
        }
        Ok(PlatformSession {
            messages,
            _takeover: takeover_rx,
        })
    }

    pub(crate) async fn is_connected(&self, thing: &str) -> bool {
        self.router.is_connected(thing).await
    }

    /// Cuts the connections of one thing, or all of them, and returns how many there were.
    pub(crate) fn cut(&self, thing: Option<&str>) -> usize {
        let connections = lock(&self.connections);
        let meant = connections
            .values()
            .filter(|connection| thing.is_none_or(|thing| connection.thing == thing));
        meant.map(|connection| connection.cut.cancel()).count()
    }

    /// Cuts the connections of a thing that were made with client certificates that are not taken
    /// any more.
    pub(crate) fn cut_revoked(&self, thing: &str, is_taken: impl Fn(&str) -> bool) {
        for connection in lock(&self.connections).values() {
            if connection.thing == thing && !is_taken(&connection.serial) {
                connection.cut.cancel();
            }
        }
    }

    /// Accepts connections until `shutdown`, and then says goodbye to all of them. `identify` tells
    /// by a client certificate, the thing in it and its serial number, which device it is.
    pub(crate) async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: TlsAcceptor,
        identify: impl Fn(&str, &str) -> Option<Identity> + Send + Sync + Clone + 'static,
        shutdown: CancellationToken,
    ) {
        let mut tasks = JoinSet::new();
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = tasks.join_next() => {}
                _ = sweep.tick() => self.sweep().await,
                accepted = listener.accept(), if tasks.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, _)) if self.faults.is_refusing() => drop(stream),
                    Ok((stream, peer)) => {
                        let connection = Arc::clone(&self).connection(stream, peer, tls.clone(), identify.clone());
                        tasks.spawn(connection);
                    }
                    Err(error) => {
                        warn_throttled!(self.logs.accept, %error, "cannot accept MQTT connections; trying again");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        // Handlers answer with DISCONNECT 0x8B and end; those that do not are dropped.
        let _ = self.stopping.send(());
        let _ = tokio::time::timeout(STOP_LIMIT, async {
            while tasks.join_next().await.is_some() {}
        })
        .await;
        tasks.shutdown().await;
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        tls: TlsAcceptor,
        identify: impl Fn(&str, &str) -> Option<Identity>,
    ) {
        // Subscribed first, so that a stop during the handshake is not missed.
        let stopping = self.stopping.subscribe();
        let _ = stream.set_nodelay(true);
        let device = match tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
            Ok(Ok(device)) => device,
            Ok(Err(error)) => {
                info_throttled!(self.logs.handshake, %peer, %error, "refused an MQTT connection: TLS handshake failed");
                return;
            }
            Err(_) => {
                info_throttled!(self.logs.handshake, %peer, "refused an MQTT connection: TLS handshake took too long");
                return;
            }
        };
        let (thing, serial) = device
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first)
            .and_then(authority::thing_of)
            .unwrap_or_default();
        let (near, far) = match pipe::socket_pair().await {
            Ok(pair) => pair,
            Err(error) => {
                warn_throttled!(self.logs.sockets, %error, "cannot make a pair of sockets for an MQTT connection");
                return;
            }
        };
        // Entered first, so that a certificate that is revoked from here on has its connection cut.
        let (id, cut) = self.enter(thing.clone(), serial.clone());
        let identity = identify(&thing, &serial);
        if identity.is_none() {
            warn_throttled!(self.logs.unknown_certificate, %peer, thing, serial, "refusing a certificate that belongs to no known device, or is revoked");
        }
        let rules = AwsRules::new(identity.clone());
        let handler = ClientHandler::new(
            BrokerTransport::tcp(far),
            peer,
            Arc::clone(&self.config),
            Arc::clone(&self.router),
            Arc::new(ConnectionAcl {
                identity,
                logs: Arc::clone(&self.logs),
            }),
            Some(Arc::clone(&self.storage)),
            Arc::clone(&self.stats),
            Arc::clone(&self.monitor),
            stopping,
        );
        let line = async {
            tokio::select! {
                () = cut.cancelled() => {}
                ended = pipe::run(device, near, rules, &self.faults) => match ended {
                    Ok(None) => {}
                    Ok(Some(refusal)) => {
                        info_throttled!(self.logs.refused_packet, %peer, thing, reason = ?refusal.reason, "ended an MQTT connection: {}", refusal.message);
                    }
                    Err(error) => tracing::debug!(%peer, %error, "MQTT connection broke"),
                },
            }
        };
        let (served, ()) = tokio::join!(handler.run(), line);
        if let Err(error) = served {
            tracing::debug!(%peer, %error, "MQTT connection ended");
        }
        lock(&self.connections).remove(&id);
    }

    fn enter(&self, thing: String, serial: String) -> (u64, CancellationToken) {
        let id = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let cut = CancellationToken::new();
        lock(&self.connections).insert(
            id,
            Connection {
                thing,
                serial,
                cut: cut.clone(),
            },
        );
        (id, cut)
    }

    async fn sweep(&self) {
        if let Err(error) = self.storage.cleanup_expired().await {
            tracing::warn!(%error, "cannot throw expired sessions away");
        }
        self.router.sweep_sessions().await;
        self.monitor.cleanup_expired_windows().await;
    }
}

fn config(shadows: Arc<ShadowHandler>) -> BrokerConfig {
    BrokerConfig {
        max_clients: MAX_CONNECTIONS,
        session_expiry_interval: SESSION_EXPIRY,
        max_packet_size: MAX_PACKET,
        topic_alias_maximum: TOPIC_ALIASES,
        maximum_qos: 1,
        subscription_identifier_available: false,
        shared_subscription_available: false,
        max_subscriptions_per_client: MAX_SUBSCRIPTIONS,
        server_receive_maximum: Some(RECEIVE_MAXIMUM),
        max_outbound_inflight: RECEIVE_MAXIMUM,
        sys_topics_enabled: false,
        event_handler: Some(shadows),
        ..BrokerConfig::default()
    }
}

/// No rates: a test that floods the broker should find the device's limits, not the simulator's.
fn limits() -> ResourceLimits {
    ResourceLimits {
        max_connections: MAX_CONNECTIONS,
        max_connections_per_ip: MAX_CONNECTIONS,
        max_message_rate_per_client: 0,
        max_bandwidth_per_client: 0,
        max_connection_rate: 10_000,
        rate_limit_window: Duration::from_secs(1),
    }
}
