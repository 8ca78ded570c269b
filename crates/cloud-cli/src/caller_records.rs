//! Where the records of callers go: to the counters of `/metrics`.

use cloud_facade::remote::AccessRecord;

use crate::health::RequestCounters;

/// The receivers of the records. Without any, nothing is collected.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallerRecords {
    pub(crate) counters: Option<RequestCounters>,
}

impl CallerRecords {
    pub(crate) fn is_empty(&self) -> bool {
        self.counters.is_none()
    }

    /// Passes a record on. Returns at once.
    pub(crate) fn record(&self, record: &AccessRecord) {
        if let Some(counters) = &self.counters {
            counters.record(record);
        }
    }
}
