//! Tells the session when the handlers are done with a message, however they end.

use std::sync::Weak;

use tokio::time::Instant;

use crate::driver::Shared;
use crate::inbound::DeliveryId;

/// Shared by all handlers of a message; the drop of the last one tells.
///
/// It must not be dropped while the core is locked.
pub(crate) struct Handled {
    shared: Weak<Shared>,
    delivery: DeliveryId,
}

impl Handled {
    pub(crate) fn new(shared: Weak<Shared>, delivery: DeliveryId) -> Self {
        Self { shared, delivery }
    }
}

impl Drop for Handled {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            let now = Instant::now();
            shared.with_core(|core| core.handled(self.delivery, now));
        }
    }
}

impl std::fmt::Debug for Handled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Handled").field(&self.delivery).finish()
    }
}
