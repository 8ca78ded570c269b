//! Executes the actions of the core: one task that owns the tunnel, the pending requests and the
//! secrets.
//!
//! Each operation that takes time is a future in this task, polled together with all others and
//! cancelled by dropping it. So an operation that hangs blocks no other, and all of them end with
//! this task.

pub(crate) mod certificate_rotation;
mod reachability;
pub(crate) mod shutdown;
mod token;
mod tunnel;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use cloud_net::{Connector, LogThrottle, info_throttled, unix_seconds, warn_throttled};
use futures_util::future::pending;
use snitun::CloseReason;
use snitun::client::Tunnel;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::certificate_rotation::ServerCertificateInstaller;
use self::reachability::ReachabilityCheck;
use crate::certificate::expiry::ExpiryWatch;
use crate::certificate::serial::CertificateSerial;
use crate::clock::PlatformClock;
use crate::config::RemoteConfig;
use crate::core::{Action, Core, Event, Id, Now, TunnelPhase};
use crate::rotation::{CertificateRotator, RotationOutcome};
use crate::server::Server;
use crate::server::tls::CurrentCertificate;
use crate::shared_setting::SharedSetting;
use crate::status::{RemoteEvent, RemoteStatus, TunnelStatus};
use crate::task_group::TaskGroup;
use crate::timeouts::Timeouts;
use crate::token::TokenResponse;
use crate::traits::{CertificateSource, CertificateStore, SourceError, TokenSource};
use crate::tunnel::probe::{Probe, ProbeError};
use crate::tunnel::reconnect_cause::{ReconnectCause, ReconnectCounter};
use crate::tunnel::running::RunningTunnel;
use crate::tunnel::totals::TunnelTotals;
use crate::tunnel::{SessionKeys, TunnelError};

/// The resources of the driver.
pub(crate) struct Context<T, C, S> {
    pub config: RemoteConfig,
    pub connector: SharedSetting<Connector>,
    pub timeouts: Timeouts,
    pub clock: PlatformClock,
    pub probe: Option<Probe>,
    pub tokens: Arc<T>,
    pub rotation: CertificateRotator<ServerCertificateInstaller<C, S>>,
    pub server: Arc<Server>,
    pub served: Arc<CurrentCertificate>,
    pub tasks: TaskGroup,
    pub status: watch::Sender<RemoteStatus>,
    pub reconnects: ReconnectCounter,
    pub tunnels: TunnelTotals,
    pub events: broadcast::Sender<RemoteEvent>,
}

/// The commands of the handle to the driver.
pub(crate) struct Commands {
    pub online: watch::Receiver<SessionState>,
    pub desired: watch::Receiver<Option<CertificateSerial>>,
    /// Requests a graceful shutdown.
    pub stop: CancellationToken,
    /// Requests an immediate shutdown.
    pub kill: CancellationToken,
}

/// The state of the session to the platform. The driver detects a loss even if the session is back
/// before it looks: responses to requests from before the loss do not arrive.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SessionState {
    online: bool,
    losses: u64,
}

impl SessionState {
    /// Returns whether the state has changed.
    pub(crate) fn set(&mut self, online: bool) -> bool {
        let changed = self.online != online;
        self.losses += u64::from(changed && !online);
        self.online = online;
        changed
    }
}

/// A future in progress, with the id under which its result is reported.
type Pending<T> = Option<(Id, Pin<Box<dyn Future<Output = T> + Send>>)>;

/// A token with the keys that it contains.
struct TokenWithKeys {
    keys: SessionKeys,
    response: TokenResponse,
}

/// The result of a pending operation, or a command.
enum DriverEvent {
    Session(SessionState),
    Token(Id, Result<TokenWithKeys, SourceError>),
    Connected(Id, Result<Tunnel, TunnelError>),
    TunnelEnded(Id),
    Desired(Option<CertificateSerial>),
    Rotation(RotationOutcome),
    Probed(Option<Result<(), ProbeError>>),
    /// A deadline of the core has passed.
    Timeout,
    Stop,
}

/// See the [module](self).
pub(crate) struct Driver<T, C, S> {
    context: Context<T, C, S>,
    commands: Commands,
    core: Core,
    started: Instant,
    /// The losses of the session to the platform that were handled.
    losses: u64,
    token_request: Pending<Result<TokenWithKeys, SourceError>>,
    token: Option<TokenWithKeys>,
    connecting: Pending<Result<Tunnel, TunnelError>>,
    tunnel: Option<(Id, RunningTunnel)>,
    /// A tunnel that a newer one has replaced. Most relays end it at once.
    retiring: Option<(Id, RunningTunnel)>,
    /// A tunnel that ended while its replacement was being connected: if the replacement connects,
    /// no loss is reported.
    ended_early: Option<(Id, Arc<CloseReason>)>,
    connected_since: SystemTime,
    expiry: ExpiryWatch,
    reachability: ReachabilityCheck,
    /// The reason for which there is no tunnel, for the status.
    cause: Option<String>,
    throttles: LogThrottles,
}

/// The throttles of the log lines that the platform and the relay can cause.
#[derive(Debug, Default)]
struct LogThrottles {
    token_received: LogThrottle,
    token_failed: LogThrottle,
    token_dropped: LogThrottle,
    clock_skew: LogThrottle,
    connected: LogThrottle,
    connect_failed: LogThrottle,
    renewed: LogThrottle,
    renewal_failed: LogThrottle,
    ended: LogThrottle,
    reachable: LogThrottle,
    probe_failed: LogThrottle,
    expiry: LogThrottle,
    malformed_address: Arc<LogThrottle>,
    overrun: Arc<LogThrottle>,
    paced: Arc<LogThrottle>,
}

impl<T, C, S> Driver<T, C, S>
where
    T: TokenSource,
    C: CertificateSource,
    S: CertificateStore,
{
    pub(crate) fn new(context: Context<T, C, S>, commands: Commands) -> Self {
        Self {
            core: Core::new(rand::random(), context.timeouts),
            context,
            commands,
            started: Instant::now(),
            losses: 0,
            token_request: None,
            token: None,
            connecting: None,
            tunnel: None,
            retiring: None,
            ended_early: None,
            connected_since: UNIX_EPOCH,
            expiry: ExpiryWatch::default(),
            reachability: ReachabilityCheck::default(),
            cause: None,
            throttles: LogThrottles::default(),
        }
    }

    /// Runs until a stop, then shuts down.
    pub(crate) async fn run(mut self) {
        loop {
            match self.next().await {
                DriverEvent::Stop => break,
                event => self.handle(event).await,
            }
            self.finish_handover();
            self.watch_expiry();
            self.watch_reachability();
            self.publish_status();
        }
        self.shut_down().await;
    }

    /// Waits for the next event.
    async fn next(&mut self) -> DriverEvent {
        let wake = self.started + self.core.poll_timeout();
        let commands = &mut self.commands;
        tokio::select! {
            biased;
            () = commands.stop.cancelled() => DriverEvent::Stop,
            // The handle holds both senders, and its end is a stop.
            Ok(()) = commands.online.changed() => DriverEvent::Session(*commands.online.borrow_and_update()),
            Ok(()) = commands.desired.changed() => {
                DriverEvent::Desired(commands.desired.borrow_and_update().clone())
            }
            (id, result) = completed(&mut self.token_request) => DriverEvent::Token(id, result),
            (id, result) = completed(&mut self.connecting) => DriverEvent::Connected(id, result),
            outcome = self.context.rotation.next() => DriverEvent::Rotation(outcome),
            () = sleep_until(wake) => DriverEvent::Timeout,
            event = self.reachability.next_event() => DriverEvent::Probed(event),
            id = ended(self.tunnel.as_ref()) => DriverEvent::TunnelEnded(id),
            id = ended(self.retiring.as_ref()) => DriverEvent::TunnelEnded(id),
        }
    }

    async fn handle(&mut self, event: DriverEvent) {
        match event {
            DriverEvent::Session(state) => self.session_changed(state),
            DriverEvent::Token(id, result) => self.token_received(id, result),
            DriverEvent::Connected(id, result) => self.connected(id, result),
            DriverEvent::TunnelEnded(id) => self.tunnel_ended(id).await,
            DriverEvent::Desired(serial) => self.context.rotation.set_desired(serial),
            DriverEvent::Rotation(outcome) => self.rotation_outcome(outcome),
            DriverEvent::Probed(event) => self.probed(event),
            DriverEvent::Timeout => self.step(Event::Tick),
            DriverEvent::Stop => {}
        }
    }

    fn session_changed(&mut self, state: SessionState) {
        if state.losses != self.losses {
            self.losses = state.losses;
            self.context.rotation.set_online(false);
            self.step(Event::Online(false));
        }
        if state.online {
            self.context.rotation.set_online(true);
            self.step(Event::Online(true));
        }
    }

    fn step(&mut self, event: Event) {
        let now = Now {
            elapsed: self.started.elapsed(),
            unix: unix_seconds(self.context.clock.now()),
            idle: self
                .tunnel
                .as_ref()
                .is_some_and(|(_, tunnel)| tunnel.handle().open_channels() == 0),
        };
        for action in self.core.handle_event(now, event) {
            self.execute(action);
        }
    }

    fn execute(&mut self, action: Action) {
        match action {
            Action::RequestToken(id) => self.request_token(id),
            Action::CancelTokenRequest { timed_out, .. } => {
                self.token_request = None;
                if timed_out {
                    self.token_failed(SourceError::TimedOut);
                }
            }
            Action::DropToken => {
                info_throttled!(
                    self.throttles.token_dropped,
                    "the token is dropped: it has expired or the relay refuses it"
                );
                self.token = None;
            }
            Action::ClockSkewSuspected { left } => warn_throttled!(
                self.throttles.clock_skew,
                valid_for_seconds = left,
                "the validity of the new token is implausible by this device's clock, which is probably wrong; the token is used all the same"
            ),
            Action::Connect(id) => self.connect(id),
            Action::StartHandover { id, forced } => self.hand_over(id, forced),
            Action::CancelConnect(_) => {
                self.connecting = None;
                let reason = "the relay did not respond in time".to_owned();
                self.connect_failed(reason, ReconnectCause::ConnectTimeout);
            }
        }
    }

    fn emit(&self, event: RemoteEvent) {
        // An error means that there is no receiver.
        let _ = self.context.events.send(event);
    }

    fn publish_status(&self) {
        let tunnel = match self.core.tunnel() {
            TunnelPhase::Down => TunnelStatus::WaitingForToken {
                cause: self.cause.clone(),
            },
            TunnelPhase::Connecting { .. } => TunnelStatus::Connecting,
            TunnelPhase::Up { .. } => TunnelStatus::Connected {
                url: self.context.config.url(),
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
        let token_valid = self.token.as_ref().map(|token| token.response.valid());
        self.context.status.send_if_modified(|status| {
            // `retry_at` is computed each time; a new value alone is not a change.
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
}

/// Returns the result of the pending operation, or waits forever without one. Cancel safe: the
/// future stays in place.
async fn completed<T>(running: &mut Pending<T>) -> (Id, T) {
    let Some((id, future)) = running else {
        return pending().await;
    };
    let result = future.as_mut().await;
    let id = *id;
    *running = None;
    (id, result)
}

/// Waits for the end of the tunnel; forever without one. Cancel safe.
async fn ended(tunnel: Option<&(Id, RunningTunnel)>) -> Id {
    let Some((id, tunnel)) = tunnel else {
        return pending().await;
    };
    tunnel.handle().closed().await;
    *id
}
