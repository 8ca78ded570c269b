//! Limit on the requests in flight on one connection.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::RequestError;

/// Maximum concurrent requests of one connection in AWS IoT Core.
pub(crate) const MAX_IN_FLIGHT: usize = 10;

/// Limit on concurrent requests over all shadows of a connection. Clones share the same limit.
#[derive(Debug, Clone)]
pub struct InFlightLimit(Arc<Semaphore>);

impl Default for InFlightLimit {
    /// Ten requests, the limit of AWS IoT Core for a connection.
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_IN_FLIGHT)))
    }
}

impl InFlightLimit {
    pub(crate) async fn acquire(&self) -> Result<OwnedSemaphorePermit, RequestError> {
        // The semaphore is never closed.
        Arc::clone(&self.0)
            .acquire_owned()
            .await
            .map_err(|_| RequestError::Closed)
    }
}
