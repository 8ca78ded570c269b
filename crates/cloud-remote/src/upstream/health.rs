//! Whether the local application answers: the failures of requests and connections to it, counted.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use super::Upstream;

/// A way in which the local application fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UpstreamFailure {
    /// It accepts no connection.
    Unreachable,
    /// It does not answer a request in time.
    Silent,
    /// Its answer cannot be used, or its connection closes without one.
    Unusable,
}

impl UpstreamFailure {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Unreachable, Self::Silent, Self::Unusable];

    /// A short name, for metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
            Self::Unusable => "unusable",
        }
    }
}

/// The failures of the local application since the start, see
/// [`RemoteAccess::upstream_health`](crate::RemoteAccess::upstream_health).
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct UpstreamHealth {
    failures: [u64; UpstreamFailure::ALL.len()],
    /// The last failure, unless the application has answered since.
    pub last_failure: Option<(UpstreamFailure, Instant)>,
}

impl UpstreamHealth {
    /// Returns the number of failures of this kind. It only grows.
    #[must_use]
    pub fn failures(&self, kind: UpstreamFailure) -> u64 {
        self.failures[kind as usize]
    }
}

type SharedHealth = Arc<Mutex<UpstreamHealth>>;

/// Records the results of requests and connections of one upstream, for it and for all together.
/// Clones share the record.
#[derive(Debug, Clone, Default)]
pub(crate) struct HealthRecorder {
    own: SharedHealth,
    total: SharedHealth,
    changes: watch::Sender<()>,
}

impl HealthRecorder {
    pub(crate) fn answered(&self) {
        self.update(|health| health.last_failure = None);
    }

    pub(crate) fn failed(&self, kind: UpstreamFailure) {
        self.update(|health| {
            health.failures[kind as usize] += 1;
            health.last_failure = Some((kind, Instant::now()));
        });
    }

    fn update(&self, change: impl Fn(&mut UpstreamHealth)) {
        let kind = |health: &UpstreamHealth| health.last_failure.map(|(kind, _)| kind);
        let mut is_changed = false;
        for health in [&self.own, &self.total] {
            let mut health = health.lock().unwrap_or_else(PoisonError::into_inner);
            let before = kind(&health);
            change(&mut health);
            is_changed |= kind(&health) != before;
        }
        if is_changed {
            self.changes.send_replace(());
        }
    }
}

/// The records of all upstreams. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct HealthRecords {
    total: SharedHealth,
    upstreams: Arc<Mutex<Vec<(Upstream, SharedHealth)>>>,
    changes: watch::Sender<()>,
}

impl HealthRecords {
    /// Returns the recorder of an upstream.
    pub(crate) fn of(&self, upstream: &Upstream) -> HealthRecorder {
        let mut upstreams = self.lock();
        let known = upstreams.iter().find(|(known, _)| known == upstream);
        let own = known.map(|(_, health)| Arc::clone(health));
        let own = own.unwrap_or_else(|| {
            let health = SharedHealth::default();
            upstreams.push((upstream.clone(), Arc::clone(&health)));
            health
        });
        HealthRecorder {
            own,
            total: Arc::clone(&self.total),
            changes: self.changes.clone(),
        }
    }

    /// Returns a receiver that sees when a last failure is another one or none.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Forgets the other upstreams.
    pub(crate) fn retain(&self, upstreams: &[Upstream]) {
        self.lock().retain(|(known, _)| upstreams.contains(known));
    }

    /// Returns the failures of all upstreams.
    pub(crate) fn snapshot(&self) -> UpstreamHealth {
        copy(&self.total)
    }

    /// Returns the failures of one upstream.
    pub(crate) fn snapshot_of(&self, upstream: &Upstream) -> UpstreamHealth {
        let upstreams = self.lock();
        let known = upstreams.iter().find(|(known, _)| known == upstream);
        known.map_or_else(UpstreamHealth::default, |(_, health)| copy(health))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Upstream, SharedHealth)>> {
        self.upstreams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn copy(health: &SharedHealth) -> UpstreamHealth {
    *health.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upstream {
    /// Connects, and closes the connection without sending anything.
    ///
    /// # Errors
    /// The application accepts no connection, or its name cannot be resolved.
    pub async fn check_reachable(&self) -> io::Result<()> {
        self.connect().await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_kind_and_an_answer_clears_the_last_one() {
        let records = HealthRecords::default();
        let upstream = |port| Upstream::host("127.0.0.1", port);
        let recorder = records.of(&upstream(1));
        let mut changes = records.changes();
        let mut has_changed = || {
            let has_changed = changes.has_changed().unwrap();
            changes.mark_unchanged();
            has_changed
        };
        recorder.answered();
        assert!(!has_changed());
        recorder.failed(UpstreamFailure::Unreachable);
        assert!(has_changed());
        recorder.failed(UpstreamFailure::Silent);
        assert!(has_changed());
        recorder.failed(UpstreamFailure::Silent);
        assert!(!has_changed());
        let health = records.snapshot_of(&upstream(1));
        let counts = UpstreamFailure::ALL.map(|kind| health.failures(kind));
        assert_eq!(counts, [1, 2, 0]);
        assert!(matches!(
            health.last_failure,
            Some((UpstreamFailure::Silent, _))
        ));
        recorder.answered();
        assert!(has_changed());
        records.of(&upstream(2)).failed(UpstreamFailure::Silent);
        let health = records.snapshot_of(&upstream(1));
        assert!(health.last_failure.is_none());
        assert_eq!(health.failures(UpstreamFailure::Silent), 2);
        assert_eq!(records.snapshot().failures(UpstreamFailure::Silent), 3);
        records.retain(&[upstream(2)]);
        let health = records.snapshot_of(&upstream(1));
        assert_eq!(health.failures(UpstreamFailure::Silent), 0);
        assert_eq!(records.snapshot().failures(UpstreamFailure::Silent), 3);
    }

    #[tokio::test]
    async fn only_a_listening_application_is_reachable() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Upstream::from(listener.local_addr().unwrap());
        upstream.check_reachable().await.unwrap();
        drop(listener);
        let refused = upstream.check_reachable().await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
