//! Counts requests, their bytes, connections without HTTP, and refusals, for `/metrics`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cloud_facade::remote::{AccessRecord, Refusal};

/// Maximum local servers with series of their own. A device forwards to a few; a configuration that
/// changes often must not make the number of series grow.
const MAX_UPSTREAMS: usize = 32;

/// The label of the local servers beyond that.
const OTHER: &str = "other";

/// The label of what this process serves itself.
const BUILT_IN: &str = "built-in";

/// Counters of requests and connections to one local server, with one class of status.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RequestCounts {
    pub(super) requests: u64,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) cut: u64,
}

/// See the [module](self). Clones share the counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestCounters(Arc<Mutex<Counts>>);

#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    /// By local server and class of status.
    pub(super) requests: BTreeMap<(String, &'static str), RequestCounts>,
    pub(super) refusals: BTreeMap<&'static str, u64>,
}

impl RequestCounters {
    pub(crate) fn record(&self, record: &AccessRecord) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (refused, upstream, class, received, sent, cut) = match record {
            AccessRecord::Request(request) => (
                request.refused,
                request.upstream.as_deref().unwrap_or(BUILT_IN),
                class(request.status.map(|status| status.as_u16())),
                request.received,
                request.sent,
                request.cut,
            ),
            AccessRecord::Connection(connection) => (
                None,
                connection.upstream.as_str(),
                "tcp",
                connection.received,
                connection.sent,
                connection.cut,
            ),
            AccessRecord::Refused(refused) => return counts.refuse(refused.reason),
            _ => return,
        };
        if let Some(reason) = refused {
            // It has reached no local server.
            return counts.refuse(reason);
        }
        let entry = counts.entry(upstream, class);
        entry.requests += 1;
        entry.received += received;
        entry.sent += sent;
        entry.cut += u64::from(cut);
    }

    pub(super) fn snapshot(&self) -> Counts {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Counts {
    fn refuse(&mut self, reason: Refusal) {
        *self.refusals.entry(reason.name()).or_default() += 1;
    }

    fn entry(&mut self, upstream: &str, class: &'static str) -> &mut RequestCounts {
        let is_known = self.requests.keys().any(|(known, _)| known == upstream);
        let upstream = match is_known || self.upstreams() < MAX_UPSTREAMS {
            true => upstream,
            false => OTHER,
        };
        self.requests
            .entry((upstream.to_owned(), class))
            .or_default()
    }

    fn upstreams(&self) -> usize {
        let mut names: Vec<_> = self.requests.keys().map(|(name, _)| name).collect();
        names.dedup();
        names.len()
    }
}

/// Returns the class of a status; `none` for a request that ended without a response.
fn class(status: Option<u16>) -> &'static str {
    match status.map(|status| status / 100) {
        None => "none",
        Some(1) => "1xx",
        Some(2) => "2xx",
        Some(3) => "3xx",
        Some(4) => "4xx",
        Some(_) => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_of_series_is_bounded() {
        let mut counts = Counts::default();
        for number in 0..1_000 {
            counts.entry(&format!("127.0.0.1:{number}"), "2xx").requests += 1;
        }
        assert_eq!(counts.requests.len(), MAX_UPSTREAMS + 1);
        let other = counts.requests[&(OTHER.to_owned(), "2xx")];
        assert_eq!(other.requests, 1_000 - MAX_UPSTREAMS as u64);
        counts.entry("127.0.0.1:0", "2xx").requests += 1;
        let known = counts.requests[&("127.0.0.1:0".to_owned(), "2xx")];
        assert_eq!(known.requests, 2);
    }

    #[test]
    fn status_classes_are_few() {
        assert_eq!(class(None), "none");
        assert_eq!(class(Some(101)), "1xx");
        assert_eq!(class(Some(204)), "2xx");
        assert_eq!(class(Some(499)), "4xx");
        assert_eq!(class(Some(999)), "5xx");
    }
}
