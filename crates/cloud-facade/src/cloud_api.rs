//! The operations of a [`ClesydeCloud`] as a trait, for hosts that test themselves.

use std::time::Duration;

use bytes::Bytes;
use cloud_iot::{Message, Receipt};
use serde_json::{Map, Value};
use tokio::sync::{broadcast, watch};

use crate::cloud::ClesydeCloud;
use crate::error::{ReportError, SendError};
use crate::event::Event;
use crate::report_queue::ReportReceipt;
use crate::status::Status;
use crate::topics::Action;

/// The operations of a running device, which [`ClesydeCloud`] implements.
///
/// Code that takes `&impl CloudApi` can be tested without a platform: the feature `test-util` has a
/// mock of it, `MockCloudApi`. See [Testing a host](crate#testing-a-host).
#[cfg_attr(feature = "test-util", mockall::automock)]
pub trait CloudApi: Send + Sync + 'static {
    /// See [`ClesydeCloud::publish`].
    ///
    /// # Errors
    /// As there.
    fn publish(&self, message: Message) -> Result<Receipt, SendError>;

    /// See [`ClesydeCloud::request`].
    ///
    /// # Errors
    /// As there.
    fn request(
        &self,
        action: Action,
        payload: Bytes,
        limit: Duration,
    ) -> impl Future<Output = Result<Bytes, SendError>> + Send;

    /// See [`ClesydeCloud::report`].
    ///
    /// # Errors
    /// As there.
    fn report(&self, state: Map<String, Value>) -> Result<ReportReceipt, ReportError>;

    /// See [`ClesydeCloud::status`].
    fn status(&self) -> Status;

    /// See [`ClesydeCloud::watch_status`].
    fn watch_status(&self) -> watch::Receiver<Status>;

    /// See [`ClesydeCloud::events`].
    fn events(&self) -> broadcast::Receiver<Event>;
}

impl CloudApi for ClesydeCloud {
    fn publish(&self, message: Message) -> Result<Receipt, SendError> {
        Self::publish(self, message)
    }

    async fn request(
        &self,
        action: Action,
        payload: Bytes,
        limit: Duration,
    ) -> Result<Bytes, SendError> {
        Self::request(self, &action, payload, limit).await
    }

    fn report(&self, state: Map<String, Value>) -> Result<ReportReceipt, ReportError> {
        Self::report(self, state)
    }

    fn status(&self) -> Status {
        Self::status(self)
    }

    fn watch_status(&self) -> watch::Receiver<Status> {
        Self::watch_status(self)
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        Self::events(self)
    }
}
