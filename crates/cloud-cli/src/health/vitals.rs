//! What is known of a running instance: how it stands, what has happened since its start, and whether it still moves.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use cloud_facade::config::Store;
use cloud_facade::{ClesydeCloud, Event, WeakClesydeCloud};
use serde::Serialize;

/// How often the main task is to show that it still moves.
pub(crate) const PULSE: Duration = Duration::from_secs(1);

/// A machine under heavy load is slow; a task that has not moved for so long does not move any more.
const STUCK: Duration = Duration::from_secs(15);

/// Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Vitals(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cloud: WeakClesydeCloud,
    store: Store,
    started: SystemTime,
    pulse: Mutex<Instant>,
    counts: Mutex<Counts>,
}

/// What has happened since the start. Each only grows.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
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
    /// By the events alone, to tell a loss from an attempt that failed.
    iot_is_up: bool,
    tunnel_is_up: bool,
}

impl Counts {
    fn note(&mut self, event: &Event) {
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
            Event::RemoteToken { .. } => self.tokens += 1,
            Event::RemoteConnected { .. } => {
                self.tunnels += 1;
                self.tunnel_is_up = true;
            }
            Event::RemoteDisconnected { .. } => {
                match std::mem::take(&mut self.tunnel_is_up) {
                    true => self.tunnel_losses += 1,
                    false => self.tunnel_failures += 1,
                };
            }
            Event::RemoteCertificate { .. } => self.rotations += 1,
            Event::RemoteCertificateFailed { .. } => self.rotation_failures += 1,
            Event::ShadowDelta { .. } => self.deltas += 1,
            Event::PlatformMessage { .. } => self.messages += 1,
            _ => {}
        }
    }
}

/// A part that is not connected.
#[derive(Debug, Serialize)]
pub(crate) struct Missing {
    part: &'static str,
    /// Why, once it has been tried.
    reason: Option<String>,
}

impl Vitals {
    pub(crate) fn new(cloud: &ClesydeCloud, store: Store) -> Self {
        Self(Arc::new(Inner {
            cloud: cloud.downgrade(),
            store,
            started: SystemTime::now(),
            pulse: Mutex::new(Instant::now()),
            counts: Mutex::default(),
        }))
    }

    /// The main task still moves.
    pub(crate) fn beat(&self) {
        *lock(&self.0.pulse) = Instant::now();
    }

    /// For how long it has not, if that is too long.
    pub(crate) fn stuck_for(&self, now: Instant) -> Option<Duration> {
        let still = now.saturating_duration_since(*lock(&self.0.pulse));
        (still > STUCK).then_some(still)
    }

    pub(crate) fn note(&self, event: &Event) {
        lock(&self.0.counts).note(event);
    }

    /// So many events came too fast to be noted.
    pub(crate) fn missed(&self, events: u64) {
        lock(&self.0.counts).missed += events;
    }

    /// What keeps the device from being reached. Remote access is always wanted: `run` serves something in every case.
    pub(crate) fn missing(&self) -> Vec<Missing> {
        let status = self.cloud().map(|cloud| cloud.status()).unwrap_or_default();
        [("iot", status.iot), ("remote", status.remote)]
            .into_iter()
            .filter(|(_, link)| !link.connected)
            .map(|(part, link)| Missing {
                part,
                reason: link.reason,
            })
            .collect()
    }

    pub(super) fn counts(&self) -> Counts {
        *lock(&self.0.counts)
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

/// Nothing is left half-done under these that a panic could expose.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use cloud_facade::DeviceSettings;

    use super::*;

    fn vitals() -> Vitals {
        let base = tempfile::tempdir().unwrap();
        let settings = DeviceSettings::new("SN".parse().unwrap(), base.path(), "");
        Vitals::new(&ClesydeCloud::new(settings), Store::new(base.path()))
    }

    #[test]
    fn a_task_that_does_not_move_is_noticed() {
        let vitals = vitals();
        vitals.beat();
        assert_eq!(vitals.stuck_for(Instant::now()), None);
        let late = Instant::now() + STUCK + PULSE;
        assert!(vitals.stuck_for(late).is_some_and(|time| time > STUCK));
    }

    #[test]
    fn a_loss_is_told_from_an_attempt_that_failed() {
        let mut counts = Counts::default();
        let lost = || Event::IotDisconnected {
            reason: String::new(),
            retry_in: PULSE,
        };
        for event in [lost(), Event::IotConnected, lost(), lost(), lost()] {
            counts.note(&event);
        }
        let tunnel_lost = || Event::RemoteDisconnected {
            reason: String::new(),
        };
        let connected = Event::RemoteConnected { url: String::new() };
        for event in [connected, tunnel_lost(), tunnel_lost()] {
            counts.note(&event);
        }
        assert_eq!(
            (
                counts.iot_connections,
                counts.iot_losses,
                counts.iot_failures
            ),
            (1, 1, 3)
        );
        assert_eq!(
            (counts.tunnels, counts.tunnel_losses, counts.tunnel_failures),
            (1, 1, 1)
        );
    }
}
