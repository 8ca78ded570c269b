//! A drop guard that reports the end of a message's handlers, so that the message is acknowledged.

use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::core::acknowledgement_order::DeliveryId;

/// Receives the reports of guards.
pub(crate) trait AckSink: Send + Sync {
    /// Reports that the handlers of a message have ended.
    fn handled(&self, delivery: DeliveryId);

    /// Reports that a message is not to be acknowledged, so that the server sends it again.
    fn left_unacknowledged(&self, delivery: DeliveryId);
}

/// Guard that all handlers of a message share. Dropping the last clone reports the end of the
/// handlers, also after a panic or a timeout.
///
/// Must not be dropped while the core is locked.
pub(crate) struct AckGuard {
    sink: Weak<dyn AckSink>,
    delivery: DeliveryId,
    is_left: AtomicBool,
}

impl AckGuard {
    pub(crate) fn new(sink: Weak<dyn AckSink>, delivery: DeliveryId) -> Self {
        Self {
            sink,
            delivery,
            is_left: AtomicBool::new(false),
        }
    }

    pub(crate) fn delivery(&self) -> DeliveryId {
        self.delivery
    }

    /// Leaves the message unacknowledged.
    pub(crate) fn leave(&self) {
        self.is_left.store(true, Ordering::Relaxed);
    }
}

impl Drop for AckGuard {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.upgrade() {
            if self.is_left.load(Ordering::Relaxed) {
                sink.left_unacknowledged(self.delivery);
            } else {
                sink.handled(self.delivery);
            }
        }
    }
}

impl std::fmt::Debug for AckGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AckGuard").field(&self.delivery).finish()
    }
}
