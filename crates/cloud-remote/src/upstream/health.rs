//! Whether the local application answers: the failures of requests and connections to it, counted.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

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

/// Records the results of requests and connections. Clones share the record.
#[derive(Debug, Clone, Default)]
pub(crate) struct HealthRecorder(Arc<Mutex<UpstreamHealth>>);

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

    pub(crate) fn snapshot(&self) -> UpstreamHealth {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut UpstreamHealth)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
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
        let recorder = HealthRecorder::default();
        recorder.failed(UpstreamFailure::Unreachable);
        recorder.failed(UpstreamFailure::Silent);
        recorder.failed(UpstreamFailure::Silent);
        let health = recorder.snapshot();
        let counts = UpstreamFailure::ALL.map(|kind| health.failures(kind));
        assert_eq!(counts, [1, 2, 0]);
        assert!(matches!(
            health.last_failure,
            Some((UpstreamFailure::Silent, _))
        ));
        recorder.answered();
        let health = recorder.snapshot();
        assert!(health.last_failure.is_none());
        assert_eq!(health.failures(UpstreamFailure::Silent), 2);
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
