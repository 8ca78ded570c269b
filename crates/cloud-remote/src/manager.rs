//! Carries out what the planner decides: one task that owns the tunnel, the open requests and the secrets.
//!
//! Whatever takes time is a future held here and raced with all the others; giving one up is dropping it. So nothing
//! that hangs holds up anything else, and when this task ends, all of that has ended.
//!
//! Protocol: `docs/protocol.md`, "Remote access".

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::pending;
use snitun::client::{ClientConfig, Tunnel};
use snitun::{Channel, Cipher, SessionKey};
use time::OffsetDateTime;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::certificate::{CertificateAnswer, CertificatePem, CertificateRequest};
use crate::config::RemoteConfig;
use crate::planner::{Action, Event, Id, Now, Planner, TokenFacts, TunnelPhase};
use crate::rotation::{self, CheckedCertificate};
use crate::serial::CertificateSerial;
use crate::serve::Server;
use crate::source::{CertificateSource, CertificateStore, SourceError, StoreError, TokenSource};
use crate::status::{RemoteEvent, RemoteStatus, RotationError, TunnelStatus};
use crate::tasks::Tasks;
use crate::tls::CurrentCertificate;
use crate::token::{TokenAnswer, TokenRequest};
use crate::tunnel::{self, TunnelError};

/// Storing two small files: a flash card may be slow, but not this slow.
const STORE_LIMIT: Duration = Duration::from_secs(60);
/// After everything was cut, tasks only have to notice.
const CUT_LIMIT: Duration = Duration::from_secs(2);

/// What the manager is made of.
pub(crate) struct Parts<T, C, S> {
    pub config: RemoteConfig,
    pub tokens: Arc<T>,
    pub certificates: Arc<C>,
    pub store: Arc<S>,
    pub server: Arc<Server>,
    pub served: Arc<CurrentCertificate>,
    pub tasks: Tasks,
    pub status: watch::Sender<RemoteStatus>,
    pub events: broadcast::Sender<RemoteEvent>,
}

/// What the handle says to the manager.
pub(crate) struct Orders {
    pub online: watch::Receiver<bool>,
    pub desired: watch::Receiver<Option<CertificateSerial>>,
    /// Come to an end.
    pub stop: CancellationToken,
    /// At once.
    pub kill: CancellationToken,
}

/// A future under way, with the id that its result is reported under.
type Running<T> = Option<(Id, Pin<Box<dyn Future<Output = T> + Send>>)>;

/// A token with the keys that are sealed into it.
struct Held {
    key: SessionKey,
    answer: TokenAnswer,
}

/// What came of something under way.
enum Outcome {
    Event(Event),
    Token(Id, Result<Held, SourceError>),
    Connected(Id, Result<Tunnel, TunnelError>),
    Channel(Channel),
    TunnelEnded(Id),
    Certificate(Id, Result<CertificateAnswer, SourceError>),
    Installed(Id, Result<CheckedCertificate, RotationError>),
    Stop,
}

/// See the [module](self).
pub(crate) struct Manager<T, C, S> {
    parts: Parts<T, C, S>,
    planner: Planner,
    started: Instant,
    token_request: Running<Result<Held, SourceError>>,
    /// A token that came and that the planner is deciding on.
    token_arrived: Option<Held>,
    held: Option<Held>,
    connecting: Running<Result<Tunnel, TunnelError>>,
    tunnel: Option<(Id, Tunnel)>,
    connected_since: SystemTime,
    certificate_request: Running<Result<CertificateAnswer, SourceError>>,
    /// A certificate that came and that the planner is deciding on.
    certificate_arrived: Option<CertificatePem>,
    installing: Running<Result<CheckedCertificate, RotationError>>,
    /// The serial number of the request or installation under way.
    wanted: Option<CertificateSerial>,
    /// Why there is no tunnel, for the status.
    cause: Option<String>,
}

impl<T, C, S> Manager<T, C, S>
where
    T: TokenSource,
    C: CertificateSource,
    S: CertificateStore,
{
    pub(crate) fn new(parts: Parts<T, C, S>, serial: CertificateSerial) -> Self {
        Self {
            parts,
            planner: Planner::new(serial, rand::random()),
            started: Instant::now(),
            token_request: None,
            token_arrived: None,
            held: None,
            connecting: None,
            tunnel: None,
            connected_since: UNIX_EPOCH,
            certificate_request: None,
            certificate_arrived: None,
            installing: None,
            wanted: None,
            cause: None,
        }
    }

    /// Runs until told to stop, then ends everything that it has begun.
    pub(crate) async fn run(mut self, mut orders: Orders) {
        loop {
            match self.outcome(&mut orders).await {
                Outcome::Event(event) => self.step(event),
                Outcome::Token(id, result) => self.token(id, result),
                Outcome::Connected(id, result) => self.connected(id, result),
                // The status does not change with a channel.
                Outcome::Channel(channel) => {
                    self.parts.server.accept_channel(channel);
                    continue;
                }
                Outcome::TunnelEnded(id) => self.tunnel_ended(id).await,
                Outcome::Certificate(id, result) => self.certificate(id, result),
                Outcome::Installed(id, result) => self.installed(id, result),
                Outcome::Stop => break,
            }
            self.publish_status();
        }
        self.shut_down(&orders.kill).await;
    }

    async fn outcome(&mut self, orders: &mut Orders) -> Outcome {
        let wake = self.started + self.planner.next_wake();
        tokio::select! {
            biased;
            () = orders.stop.cancelled() => Outcome::Stop,
            // Both senders live in the handle, whose end is a stop.
            Ok(()) = orders.online.changed() => Outcome::Event(Event::Messaging(*orders.online.borrow_and_update())),
            Ok(()) = orders.desired.changed() => {
                let desired = orders.desired.borrow_and_update().clone();
                Outcome::Event(desired.map_or(Event::Tick, Event::Desired))
            }
            (id, result) = finished(&mut self.token_request) => Outcome::Token(id, result),
            (id, result) = finished(&mut self.connecting) => Outcome::Connected(id, result),
            (id, result) = finished(&mut self.certificate_request) => Outcome::Certificate(id, result),
            (id, result) = finished(&mut self.installing) => Outcome::Installed(id, result),
            () = sleep_until(wake) => Outcome::Event(Event::Tick),
            outcome = next_channel(&mut self.tunnel) => outcome,
        }
    }

    fn step(&mut self, event: Event) {
        let now = Now {
            elapsed: self.started.elapsed(),
            unix: OffsetDateTime::now_utc().unix_timestamp(),
        };
        for action in self.planner.step(now, event) {
            self.carry_out(action);
        }
        // What the planner did not want belongs to a request that is gone.
        self.token_arrived = None;
        self.certificate_arrived = None;
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::RequestToken(id) => self.request_token(id),
            Action::AbandonToken { timed_out, .. } => {
                self.token_request = None;
                if timed_out {
                    self.token_failed(SourceError::TimedOut);
                }
            }
            Action::KeepToken(_) => self.keep_token(),
            Action::DropToken => {
                tracing::info!("the token is given up: it has expired or the relay refuses it");
                self.held = None;
            }
            Action::ClockDoubted { left } => tracing::warn!(
                valid_for_seconds = left,
                "by this device's clock the fresh token makes no sense: the clock must be wrong; the token is used all the same"
            ),
            Action::Connect(id) => self.connect(id),
            Action::AbandonConnect(_) => {
                self.connecting = None;
                self.connect_failed("the relay did not answer in time".to_owned());
            }
            Action::RequestCertificate(id, serial) => self.request_certificate(id, serial),
            Action::AbandonCertificate { timed_out, .. } => {
                self.certificate_request = None;
                if timed_out {
                    self.rotation_failed(SourceError::TimedOut.into());
                }
            }
            Action::Install(id, serial) => self.install(id, serial),
        }
    }

    fn emit(&self, event: RemoteEvent) {
        // Nobody listening is fine.
        let _ = self.parts.events.send(event);
    }

    fn request_token(&mut self, id: Id) {
        let source = Arc::clone(&self.parts.tokens);
        tracing::debug!("asking for a token");
        self.token_request = Some((
            id,
            Box::pin(async move {
                let key = SessionKey::generate().map_err(SourceError::unavailable)?;
                let answer = source.request_token(TokenRequest::new(&key)).await?;
                Ok(Held { key, answer })
            }),
        ));
    }

    fn token(&mut self, id: Id, result: Result<Held, SourceError>) {
        let result = match result {
            Ok(held) => {
                let facts = TokenFacts {
                    valid: held.answer.valid(),
                    single_use: held.answer.cipher() == Cipher::AesGcm,
                };
                self.token_arrived = Some(held);
                Ok(facts)
            }
            Err(error) => {
                self.token_failed(error);
                Err(())
            }
        };
        self.step(Event::Token { id, result });
    }

    fn token_failed(&mut self, error: SourceError) {
        tracing::warn!(%error, "no token for remote access; it will be asked for again");
        self.cause = Some(error.to_string());
        self.emit(RemoteEvent::TokenFailed {
            error: Arc::new(error),
        });
    }

    fn keep_token(&mut self) {
        let Some(held) = self.token_arrived.take() else {
            return;
        };
        let valid = held.answer.valid();
        tracing::info!(valid, "a token for remote access has come");
        self.held = Some(held);
        self.emit(RemoteEvent::TokenReceived { valid });
    }

    fn connect(&mut self, id: Id) {
        let Some(held) = &self.held else { return };
        let mut config = ClientConfig::new(held.answer.token().clone(), held.key.clone());
        config.version = held.answer.protocol_version();
        config.cipher = held.answer.cipher();
        config.throttling = held.answer.throttling();
        let (host, port) = (
            self.parts.config.relay_host.clone(),
            self.parts.config.relay_port,
        );
        tracing::debug!(host, port, "connecting the tunnel");
        self.connecting = Some((
            id,
            Box::pin(async move { tunnel::connect(&host, port, config).await }),
        ));
    }

    fn connected(&mut self, id: Id, result: Result<Tunnel, TunnelError>) {
        match result {
            Ok(tunnel) => {
                let url = self.parts.config.url();
                tracing::info!(url, "the tunnel is connected");
                self.tunnel = Some((id, tunnel));
                self.connected_since = SystemTime::now();
                self.cause = None;
                self.step(Event::TunnelUp { id });
                self.publish_status();
                self.emit(RemoteEvent::Connected { url });
            }
            Err(error) => {
                let fault = error.fault();
                self.connect_failed(error.to_string());
                self.step(Event::TunnelFailed { id, fault });
            }
        }
    }

    fn connect_failed(&mut self, reason: String) {
        tracing::warn!(
            reason,
            "the tunnel could not be connected; it will be tried again"
        );
        self.cause = Some(reason.clone());
        self.emit(RemoteEvent::ConnectFailed { reason });
    }

    async fn tunnel_ended(&mut self, id: Id) {
        let Some((_, tunnel)) = self.tunnel.take() else {
            return;
        };
        // It has ended, so this does not wait.
        let reason = tunnel.handle().closed().await.to_string();
        tracing::info!(reason, "the tunnel has ended");
        self.cause = Some(reason.clone());
        self.step(Event::TunnelLost { id });
        self.publish_status();
        self.emit(RemoteEvent::Disconnected { reason });
    }

    fn request_certificate(&mut self, id: Id, serial: CertificateSerial) {
        let source = Arc::clone(&self.parts.certificates);
        let request = CertificateRequest::new(serial.clone());
        tracing::info!(%serial, "asking for a new certificate");
        self.wanted = Some(serial);
        self.certificate_request = Some((
            id,
            Box::pin(async move { source.request_certificate(request).await }),
        ));
    }

    fn certificate(&mut self, id: Id, result: Result<CertificateAnswer, SourceError>) {
        let result = match result {
            Ok(answer) => {
                self.certificate_arrived = Some(answer.into_certificate());
                Ok(())
            }
            Err(error) => {
                self.rotation_failed(error.into());
                Err(())
            }
        };
        self.step(Event::Certificate { id, result });
    }

    fn install(&mut self, id: Id, serial: CertificateSerial) {
        let Some(pem) = self.certificate_arrived.take() else {
            return;
        };
        let store = Arc::clone(&self.parts.store);
        let access_point = self.parts.config.access_point.clone();
        self.installing = Some((
            id,
            Box::pin(async move {
                let certificate =
                    rotation::check(&pem, &serial, &access_point, OffsetDateTime::now_utc())?;
                match timeout(STORE_LIMIT, store.store(&pem)).await {
                    Ok(stored) => stored?,
                    Err(_) => {
                        return Err(StoreError::new("storing the certificate took too long").into());
                    }
                }
                Ok(certificate)
            }),
        ));
    }

    fn installed(&mut self, id: Id, result: Result<CheckedCertificate, RotationError>) {
        let result = match result {
            Ok(certificate) => {
                self.parts.served.swap(Arc::clone(&certificate.key));
                let (serial, not_after) = (certificate.serial.clone(), certificate.not_after);
                tracing::info!(%serial, %not_after, "a new certificate is served");
                self.parts
                    .status
                    .send_modify(|status| status.certificate = certificate.status());
                self.emit(RemoteEvent::CertificateRotated { serial, not_after });
                Ok(())
            }
            Err(error) => {
                self.rotation_failed(error);
                Err(())
            }
        };
        self.step(Event::Installed { id, result });
    }

    fn rotation_failed(&mut self, error: RotationError) {
        let Some(serial) = self.wanted.clone() else {
            return;
        };
        tracing::warn!(%serial, %error, "the certificate was not replaced; it will be tried again");
        self.emit(RemoteEvent::RotationFailed {
            serial,
            error: Arc::new(error),
        });
    }

    fn publish_status(&self) {
        let tunnel = match self.planner.tunnel() {
            TunnelPhase::Down => TunnelStatus::WaitingForToken {
                cause: self.cause.clone(),
            },
            TunnelPhase::Connecting { .. } => TunnelStatus::Connecting,
            TunnelPhase::Up { .. } => TunnelStatus::Connected {
                url: self.parts.config.url(),
                since: self.connected_since,
            },
            TunnelPhase::Waiting { until } => TunnelStatus::Waiting {
                retry_at: SystemTime::now() + until.saturating_sub(self.started.elapsed()),
                cause: self.cause.clone().unwrap_or_default(),
            },
        };
        self.set_tunnel_status(tunnel);
    }

    fn set_tunnel_status(&self, tunnel: TunnelStatus) {
        let token_valid = self.held.as_ref().map(|held| held.answer.valid());
        self.parts.status.send_if_modified(|status| {
            // `retry_at` is computed anew each time, and is not news by itself.
            let same_wait = matches!(
                (&status.tunnel, &tunnel),
                (TunnelStatus::Waiting { cause: old, .. }, TunnelStatus::Waiting { cause: new, .. }) if old == new
            );
            let changed = (status.tunnel != tunnel && !same_wait) || status.token_valid != token_valid;
            status.tunnel = tunnel;
            status.token_valid = token_valid;
            changed
        });
    }

    /// Gives open connections time to end, until `kill`; then cuts them. Returns when nothing is left.
    async fn shut_down(mut self, kill: &CancellationToken) {
        // New connections and requests are over; so are the secrets.
        self.token_request = None;
        self.connecting = None;
        self.certificate_request = None;
        self.installing = None;
        self.held = None;
        let Parts {
            server,
            tasks,
            status,
            events,
            ..
        } = self.parts;
        // With the server goes what it keeps open (the reverse proxy's idle connections), once its connections are done.
        drop(server);
        tasks.drain();
        tokio::select! {
            biased;
            () = kill.cancelled() => tracing::debug!(left = tasks.count(), "open connections are cut"),
            () = tasks.ended() => {}
            () = refuse_channels(&mut self.tunnel) => {}
        }
        if let Some((_, tunnel)) = self.tunnel.take() {
            let handle = tunnel.handle();
            handle.close();
            let reason = match timeout(CUT_LIMIT, handle.closed()).await {
                Ok(reason) => reason.to_string(),
                Err(_) => "the tunnel was closed on this side".to_owned(),
            };
            tracing::info!(reason, "the tunnel has ended");
            let _ = events.send(RemoteEvent::Disconnected { reason });
        }
        tasks.kill();
        if timeout(CUT_LIMIT, tasks.ended()).await.is_err() {
            tracing::warn!(
                left = tasks.count(),
                "the application holds on to connections that are cut"
            );
        }
        status.send_modify(|status| {
            status.tunnel = TunnelStatus::Stopped;
            status.token_valid = None;
        });
    }
}

/// The result of what is under way; waits for ever if nothing is. Cancel safe: the future stays where it is.
async fn finished<T>(running: &mut Running<T>) -> (Id, T) {
    let Some((id, future)) = running else {
        return pending().await;
    };
    let result = future.as_mut().await;
    let id = *id;
    *running = None;
    (id, result)
}

/// The tunnel's next channel, or its end; waits for ever without a tunnel. Cancel safe.
async fn next_channel(tunnel: &mut Option<(Id, Tunnel)>) -> Outcome {
    let Some((id, tunnel)) = tunnel else {
        return pending().await;
    };
    match tunnel.accept().await {
        Some(channel) => Outcome::Channel(channel),
        None => Outcome::TunnelEnded(*id),
    }
}

/// Closes each channel that still comes. Ends with the tunnel; waits for ever without one.
async fn refuse_channels(tunnel: &mut Option<(Id, Tunnel)>) {
    let Some((_, tunnel)) = tunnel else {
        return pending().await;
    };
    while tunnel.accept().await.is_some() {}
}
