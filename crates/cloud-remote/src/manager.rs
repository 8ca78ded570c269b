//! Carries out what the planner decides: one task that owns the tunnel, the open requests and the secrets.
//!
//! Whatever takes time is a future held here and raced with all the others; giving one up is dropping it. So nothing
//! that hangs holds up anything else, and when this task ends, all of that has ended.
//!
//! Protocol: `docs/protocol.md`, "Remote access".

mod probe;
pub(crate) mod rotation;
mod stopping;
mod token;
mod tunnel;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use cloud_net::{LogThrottle, info_throttled, warn_throttled};
use futures_util::future::pending;
use snitun::Channel;
use snitun::client::Tunnel;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::probe::Probing;
use self::rotation::Serve;
use crate::clock::PlatformClock;
use crate::config::RemoteConfig;
use crate::expiry::ExpiryWatch;
use crate::planner::{Action, Event, Id, Now, Planner, TunnelPhase};
use crate::probe::{Probe, ProbeError};
use crate::rotation::{Rotation, RotationOutcome};
use crate::serial::CertificateSerial;
use crate::serve::Server;
use crate::source::{CertificateSource, CertificateStore, SourceError, TokenSource};
use crate::status::{RemoteEvent, RemoteStatus, TunnelStatus};
use crate::tasks::Tasks;
use crate::timing::Timing;
use crate::tls::CurrentCertificate;
use crate::token::TokenAnswer;
use crate::tunnel::{SessionKeys, TunnelError};

/// What the manager is made of.
pub(crate) struct Parts<T, C, S> {
    pub config: RemoteConfig,
    pub timing: Timing,
    pub clock: PlatformClock,
    pub probe: Option<Probe>,
    pub tokens: Arc<T>,
    pub rotation: Rotation<Serve<C, S>>,
    pub server: Arc<Server>,
    pub served: Arc<CurrentCertificate>,
    pub tasks: Tasks,
    pub status: watch::Sender<RemoteStatus>,
    pub events: broadcast::Sender<RemoteEvent>,
}

/// What the handle says to the manager.
pub(crate) struct Orders {
    pub online: watch::Receiver<Messaging>,
    pub desired: watch::Receiver<Option<CertificateSerial>>,
    /// Come to an end.
    pub stop: CancellationToken,
    /// At once.
    pub kill: CancellationToken,
}

/// Whether the platform can be asked. A loss counts even if the session is back before anybody has looked: the answers
/// to what was asked before it do not come.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Messaging {
    online: bool,
    losses: u64,
}

impl Messaging {
    /// Returns whether this is news.
    pub(crate) fn set(&mut self, online: bool) -> bool {
        let news = self.online != online;
        self.losses += u64::from(news && !online);
        self.online = online;
        news
    }
}

/// A future under way, with the id that its result is reported under.
type Running<T> = Option<(Id, Pin<Box<dyn Future<Output = T> + Send>>)>;

/// A token with the keys that are sealed into it.
struct Held {
    keys: SessionKeys,
    answer: TokenAnswer,
}

/// What came of something under way.
enum Outcome {
    Event(Event),
    Messaging(Messaging),
    Token(Id, Result<Held, SourceError>),
    Connected(Id, Result<Tunnel, TunnelError>),
    Channel(Channel),
    TunnelEnded(Id),
    Desired(Option<CertificateSerial>),
    Rotation(RotationOutcome),
    Probed(Option<Result<(), ProbeError>>),
    Stop,
}

/// See the [module](self).
pub(crate) struct Manager<T, C, S> {
    parts: Parts<T, C, S>,
    planner: Planner,
    started: Instant,
    /// Of the session to the platform, seen so far.
    losses: u64,
    token_request: Running<Result<Held, SourceError>>,
    /// A token that came and that the planner is deciding on.
    token_arrived: Option<Held>,
    held: Option<Held>,
    connecting: Running<Result<Tunnel, TunnelError>>,
    tunnel: Option<(Id, Tunnel)>,
    /// A tunnel that another has taken the place of. Most relays end it at once.
    retiring: Option<(Id, Tunnel)>,
    /// A tunnel that has ended while the one that is to take its place was being connected: if that comes up, nothing was
    /// lost.
    ended_early: Option<(Id, String)>,
    connected_since: SystemTime,
    expiry: ExpiryWatch,
    probing: Probing,
    /// Why there is no tunnel, for the status.
    cause: Option<String>,
    throttles: LogThrottles,
}

/// The rate limits of the log lines that platform and relay can cause.
#[derive(Debug, Default)]
struct LogThrottles {
    token_received: LogThrottle,
    token_failed: LogThrottle,
    token_dropped: LogThrottle,
    clock_doubted: LogThrottle,
    connected: LogThrottle,
    connect_failed: LogThrottle,
    renewed: LogThrottle,
    renewal_failed: LogThrottle,
    ended: LogThrottle,
    reachable: LogThrottle,
    probe_failed: LogThrottle,
    expiry: LogThrottle,
    malformed_address: Arc<LogThrottle>,
}

impl<T, C, S> Manager<T, C, S>
where
    T: TokenSource,
    C: CertificateSource,
    S: CertificateStore,
{
    pub(crate) fn new(parts: Parts<T, C, S>) -> Self {
        Self {
            planner: Planner::new(rand::random(), parts.timing),
            parts,
            started: Instant::now(),
            losses: 0,
            token_request: None,
            token_arrived: None,
            held: None,
            connecting: None,
            tunnel: None,
            retiring: None,
            ended_early: None,
            connected_since: UNIX_EPOCH,
            expiry: ExpiryWatch::default(),
            probing: Probing::default(),
            cause: None,
            throttles: LogThrottles::default(),
        }
    }

    /// Runs until told to stop, then ends everything that it has begun.
    pub(crate) async fn run(mut self, mut orders: Orders) {
        loop {
            match self.outcome(&mut orders).await {
                Outcome::Event(event) => self.step(event),
                Outcome::Messaging(messaging) => self.messaging(messaging),
                Outcome::Token(id, result) => self.token(id, result),
                Outcome::Connected(id, result) => self.connected(id, result),
                // The status does not change with a channel.
                Outcome::Channel(channel) => {
                    self.parts.server.accept_channel(channel);
                    continue;
                }
                Outcome::TunnelEnded(id) => self.tunnel_ended(id).await,
                Outcome::Desired(Some(serial)) => self.parts.rotation.desired(serial),
                Outcome::Desired(None) => self.parts.rotation.undesired(),
                Outcome::Rotation(outcome) => self.rotation_outcome(outcome),
                Outcome::Probed(news) => self.probed(news),
                Outcome::Stop => break,
            }
            self.settle_tunnels();
            self.watch_expiry();
            self.watch_reachability();
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
            Ok(()) = orders.online.changed() => Outcome::Messaging(*orders.online.borrow_and_update()),
            Ok(()) = orders.desired.changed() => {
                Outcome::Desired(orders.desired.borrow_and_update().clone())
            }
            (id, result) = finished(&mut self.token_request) => Outcome::Token(id, result),
            (id, result) = finished(&mut self.connecting) => Outcome::Connected(id, result),
            outcome = self.parts.rotation.next() => Outcome::Rotation(outcome),
            () = sleep_until(wake) => Outcome::Event(Event::Tick),
            news = self.probing.news() => Outcome::Probed(news),
            outcome = next_channel(&mut self.tunnel) => outcome,
            outcome = next_channel(&mut self.retiring) => outcome,
        }
    }

    fn messaging(&mut self, messaging: Messaging) {
        if messaging.losses != self.losses {
            self.losses = messaging.losses;
            self.parts.rotation.set_online(false);
            self.step(Event::Messaging(false));
        }
        if messaging.online {
            self.parts.rotation.set_online(true);
            self.step(Event::Messaging(true));
        }
    }

    fn step(&mut self, event: Event) {
        let now = Now {
            elapsed: self.started.elapsed(),
            unix: self.parts.clock.unix(),
            quiet: self
                .tunnel
                .as_ref()
                .is_some_and(|(_, tunnel)| tunnel.handle().open_channels() == 0),
        };
        for action in self.planner.step(now, event) {
            self.carry_out(action);
        }
        // What the planner did not want belongs to a request that is gone.
        self.token_arrived = None;
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
                info_throttled!(
                    self.throttles.token_dropped,
                    "the token is given up: it has expired or the relay refuses it"
                );
                self.held = None;
            }
            Action::ClockDoubted { left } => warn_throttled!(
                self.throttles.clock_doubted,
                valid_for_seconds = left,
                "by this device's clock the fresh token makes no sense: the clock must be wrong; the token is used all the same"
            ),
            Action::Connect(id) => self.connect(id),
            Action::HandOver { id, forced } => self.hand_over(id, forced),
            Action::AbandonConnect(_) => {
                self.connecting = None;
                self.connect_failed("the relay did not answer in time".to_owned());
            }
        }
    }

    fn emit(&self, event: RemoteEvent) {
        // Nobody listening is fine.
        let _ = self.parts.events.send(event);
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
