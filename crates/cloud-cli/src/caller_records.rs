//! Where the records of callers go: to the counters of `/metrics` and to the access log.

use cloud_facade::remote::AccessRecord;

use crate::access_log::AccessLog;
use crate::health::RequestCounters;

/// The receivers of the records. Without any, nothing is collected.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallerRecords {
    pub(crate) counters: Option<RequestCounters>,
    pub(crate) access_log: Option<AccessLog>,
}

impl CallerRecords {
    pub(crate) fn is_empty(&self) -> bool {
        self.counters.is_none() && self.access_log.is_none()
    }

    /// Passes a record on. Returns at once.
    pub(crate) fn record(&self, record: &AccessRecord) {
        if let Some(counters) = &self.counters {
            counters.record(record);
        }
        if let Some(log) = &self.access_log {
            log.record(record);
        }
    }
}
