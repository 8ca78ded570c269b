//! Liveness of a running instance: the heartbeat of the main task, connections, the application,
//! and event counters.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use cloud_facade::config::Store;
use cloud_facade::{ClesydeCloud, Event, WeakClesydeCloud};
use serde::Serialize;

use crate::application_check::{ApplicationState, ApplicationStates};

/// Interval of the main task's heartbeat; that of the other periodic work is a multiple.
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// Time without a heartbeat after which the main task counts as stalled, even on a machine under
/// heavy load.
const STALL_TIMEOUT: Duration = Duration::from_secs(15);

/// The health state of a device. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct HealthState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cloud: WeakClesydeCloud,
    store: Store,
    applications: ApplicationStates,
    started: SystemTime,
    heartbeat: Mutex<Instant>,
    counters: Mutex<Counters>,
}

/// Event counters since the start. Each only grows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) iot_connections: u64,
    pub(super) iot_losses: u64,
    pub(super) iot_failures: u64,
    pub(super) tokens: u64,
    pub(super) tunnels: u64,
    pub(super) tunnel_losses: u64,
    pub(super) tunnel_failures: u64,
    pub(super) rotations: u64,
    pub(super) rotation_failures: u64,
    pub(super) deltas: u64,
    pub(super) messages: u64,
    pub(super) missed: u64,
    /// Distinguishes a lost connection from a failed attempt.
    iot_is_up: bool,
}

impl Counters {
    fn record(&mut self, event: &Event) {
        match event {
            Event::IotConnected => {
                self.iot_connections += 1;
                self.iot_is_up = true;
            }
            Event::IotDisconnected { .. } => {
                match std::mem::take(&mut self.iot_is_up) {
                    true => self.iot_losses += 1,
                    false => self.iot_failures += 1,
                };
            }
            Event::RemoteTokenReceived { .. } => self.tokens += 1,
            Event::RemoteConnected { .. } => self.tunnels += 1,
            Event::RemoteConnectFailed { .. } => self.tunnel_failures += 1,
            Event::RemoteDisconnected { .. } => self.tunnel_losses += 1,
            Event::RemoteCertificateRotated { .. } => self.rotations += 1,
            Event::RemoteCertificateRotationFailed { .. } => self.rotation_failures += 1,
            Event::ShadowDeltaReceived { .. } => self.deltas += 1,
            Event::PlatformMessageReceived { .. } => self.messages += 1,
            _ => {}
        }
    }
}

/// A connection that is down, or an application that does not answer.
#[derive(Debug, Serialize)]
pub(crate) struct Missing {
    pub(super) part: &'static str,
    /// The reason, after the first attempt.
    pub(super) reason: Option<String>,
}

impl HealthState {
    pub(crate) fn new(cloud: &ClesydeCloud, store: Store, applications: ApplicationStates) -> Self {
        Self(Arc::new(Inner {
            cloud: cloud.downgrade(),
            store,
            applications,
            started: SystemTime::now(),
            heartbeat: Mutex::new(Instant::now()),
            counters: Mutex::default(),
        }))
    }

    /// Records that the main task makes progress.
    pub(crate) fn heartbeat(&self) {
        *lock(&self.0.heartbeat) = Instant::now();
    }

    /// Returns the time since the last heartbeat, if it exceeds the limit.
    pub(crate) fn stuck_for(&self, now: Instant) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(*lock(&self.0.heartbeat));
        (elapsed > STALL_TIMEOUT).then_some(elapsed)
    }

    pub(crate) fn record(&self, event: &Event) {
        lock(&self.0.counters).record(event);
    }

    /// Counts dropped events.
    pub(crate) fn record_missed(&self, events: u64) {
        lock(&self.0.counters).missed += events;
    }

    /// Returns what is down. Remote access is always required: `run` serves a backend in every
    /// case.
    pub(crate) fn missing(&self) -> Vec<Missing> {
        let status = self.cloud().map(|cloud| cloud.status()).unwrap_or_default();
        [("iot", status.iot), ("remote", status.remote)]
            .into_iter()
            .filter(|(_, link)| !link.connected)
            .map(|(part, link)| Missing {
                part,
                reason: link.reason,
            })
            .chain(self.applications().into_iter().filter_map(|application| {
                let reason = application.problem()?;
                Some(Missing {
                    part: "application",
                    reason: Some(reason),
                })
            }))
            .collect()
    }

    /// Returns the state of each application behind the tunnel.
    pub(super) fn applications(&self) -> Vec<ApplicationState> {
        self.0.applications.all()
    }

    pub(super) fn counters(&self) -> Counters {
        *lock(&self.0.counters)
    }

    pub(super) fn started(&self) -> SystemTime {
        self.0.started
    }

    pub(super) fn cloud(&self) -> Option<ClesydeCloud> {
        self.0.cloud.upgrade()
    }

    pub(super) fn store(&self) -> Store {
        self.0.store.clone()
    }
}

/// No panic can leave the guarded values inconsistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {

    use super::*;

    impl HealthState {
        /// The state of a device that does not run.
        pub(in crate::health) fn for_test(base: &std::path::Path) -> Self {
            let cloud = ClesydeCloud::builder("SN".parse().unwrap(), base, "").build();
            Self::new(
                &cloud,
                Store::new(base),
                ApplicationStates::fixed(Vec::new()),
            )
        }
    }

    #[test]
    fn missing_heartbeat_is_detected() {
        let base = tempfile::tempdir().unwrap();
        let health_state = HealthState::for_test(base.path());
        health_state.heartbeat();
        assert_eq!(health_state.stuck_for(Instant::now()), None);
        let late = Instant::now() + STALL_TIMEOUT + HEARTBEAT_INTERVAL;
        assert!(
            health_state
                .stuck_for(late)
                .is_some_and(|time| time > STALL_TIMEOUT)
        );
    }

    #[test]
    fn lost_connections_and_failed_attempts_are_counted_separately() {
        let mut counters = Counters::default();
        let lost = || Event::IotDisconnected {
            reason: String::new(),
            retry_in: HEARTBEAT_INTERVAL,
        };
        for event in [lost(), Event::IotConnected, lost(), lost(), lost()] {
            counters.record(&event);
        }
        let reason = String::new;
        for event in [
            Event::RemoteConnected { url: String::new() },
            Event::RemoteDisconnected { reason: reason() },
            Event::RemoteConnectFailed { reason: reason() },
        ] {
            counters.record(&event);
        }
        assert_eq!(
            (
                counters.iot_connections,
                counters.iot_losses,
                counters.iot_failures
            ),
            (1, 1, 3)
        );
        assert_eq!(
            (
                counters.tunnels,
                counters.tunnel_losses,
                counters.tunnel_failures
            ),
            (1, 1, 1)
        );
    }
}
