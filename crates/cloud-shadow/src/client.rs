//! The public handle of a shadow.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::bus::MessageBus;
use crate::core::{Core, Request, Response};
use crate::delta::Delta;
use crate::document::{Document, Object};
use crate::driver::{Command, Driver};
use crate::error::{RequestError, StartError};
use crate::in_flight_limit::InFlightLimit;
use crate::limits::{check_section, check_size};
use crate::topic::ShadowId;
use crate::update::Update;

/// Capacity of the channel from the handles to the driver, which takes commands at once and queues
/// the requests itself.
const COMMAND_BUFFER: usize = 8;
/// Maximum [time limit](ShadowConfig::time_limit).
const MAX_TIME_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Maximum attempts of [`ShadowClient::modify`]. A client that changes the shadow between a read
/// and a write five times in a row does so constantly.
const MODIFY_ATTEMPTS: usize = 5;

/// Configuration of a [`ShadowClient`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ShadowConfig {
    /// The shadow and its thing.
    pub id: ShadowId,
    /// Time limit of a request from the call to the response, and of the subscriptions at the
    /// start. Default: 30 s; values above a day count as a day.
    pub time_limit: Duration,
    /// Limit shared by all shadows of a connection. Default: a separate limit, suitable for a
    /// single shadow.
    pub in_flight_limit: InFlightLimit,
}

impl ShadowConfig {
    /// Creates the default configuration for a shadow.
    #[must_use]
    pub fn new(id: ShadowId) -> Self {
        Self {
            id,
            time_limit: Duration::from_secs(30),
            in_flight_limit: InFlightLimit::default(),
        }
    }

    /// Sets [`time_limit`](Self::time_limit).
    #[must_use]
    pub fn time_limit(mut self, time_limit: Duration) -> Self {
        self.time_limit = time_limit;
        self
    }

    /// Sets [`in_flight_limit`](Self::in_flight_limit).
    #[must_use]
    pub fn in_flight_limit(mut self, in_flight_limit: InFlightLimit) -> Self {
        self.in_flight_limit = in_flight_limit;
        self
    }
}

/// A handle to a device's shadow. Clones share the same client; its task ends when the last one is
/// dropped, or after [`stop`](Self::stop).
///
/// Requests are executed one after the other, in the order of the calls. Unless stated otherwise,
/// they share these properties:
///
/// # Errors
///
/// [`RequestError`]: rejected by the shadow service, no response within the time limit, not sent by
/// the bus, too many queued requests (more than 16), or the client has ended.
///
/// # Cancel safety
///
/// A request whose future is dropped is not sent if it is still queued; if it was sent already, it
/// is executed, and its effect on the document appears like any other change.
#[derive(Clone)]
pub struct ShadowClient {
    id: ShadowId,
    commands: mpsc::Sender<Command>,
    delta: watch::Receiver<Delta>,
    document: watch::Receiver<Option<Document>>,
}

impl ShadowClient {
    /// Subscribes, fetches the document, and starts a task that keeps it up to date.
    ///
    /// The bus may be disconnected, if it accepts subscriptions nevertheless. Call
    /// [`connected`](Self::connected) after each connection.
    ///
    /// # Errors
    ///
    /// [`StartError`] if the bus rejects the subscriptions, or does not confirm them within the
    /// time limit.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, no task or subscription remains.
    pub async fn start(bus: impl MessageBus, config: ShadowConfig) -> Result<Self, StartError> {
        let ShadowConfig {
            id,
            time_limit,
            in_flight_limit,
        } = config;
        let time_limit = time_limit.min(MAX_TIME_LIMIT);
        let deadline = tokio::time::Instant::now() + time_limit;
        let mut subscriptions = Vec::new();
        for filter in id.filters() {
            let subscription =
                tokio::time::timeout_at(deadline, bus.subscribe(filter.clone())).await;
            match subscription {
                // The end of any of them is the end of the bus.
                Ok(Ok(messages)) => {
                    subscriptions.push(messages.map(Some).chain(stream::iter([None])))
                }
                Ok(Err(source)) => return Err(StartError::Subscribe { filter, source }),
                Err(_) => return Err(StartError::TimedOut { filter }),
            }
        }
        let token_prefix = format!("{:016x}", rand::random::<u64>());
        let mut core = Core::new(token_prefix, time_limit);
        core.handle_connected(tokio::time::Instant::now().into_std());

        let (commands, receiver) = mpsc::channel(COMMAND_BUFFER);
        let (delta_sender, delta) = watch::channel(Delta::default());
        let (document_sender, document) = watch::channel(None);
        let task = Driver {
            bus: Arc::new(bus),
            id: id.clone(),
            core,
            in_flight_limit,
            commands: receiver,
            messages: stream::select_all(subscriptions).boxed(),
            delta: delta_sender,
            document: document_sender,
            replies: Default::default(),
            outgoing: Default::default(),
        };
        tokio::spawn(task.run());
        Ok(Self {
            id,
            commands,
            delta,
            document,
        })
    }

    /// Returns the id of the shadow.
    #[must_use]
    pub fn id(&self) -> &ShadowId {
        &self.id
    }

    /// Fetches the document, to find changes made while disconnected. Call it after each connection
    /// of the bus, once its subscriptions are in place again. If two connections in a row have
    /// ended before the document arrived, it is fetched with a delay, up to five minutes. Returns
    /// at once; the result appears in [`delta`](Self::delta) and [`document`](Self::document). A
    /// shadow that does not exist yet is no error.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, nothing is fetched.
    pub async fn connected(&self) {
        // A client that has ended needs no document.
        drop(self.commands.send(Command::Connected).await);
    }

    /// Fetches the document, once more if that is in progress. Call it when the bus has lost
    /// messages without losing its connection.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, nothing is fetched.
    pub async fn resync(&self) {
        // A client that has ended needs no document.
        drop(self.commands.send(Command::MessagesLost).await);
    }

    /// Fetches the document.
    pub async fn get(&self) -> Result<Document, RequestError> {
        match self.request(Request::Get).await? {
            Response::Document(document) => Ok(document),
            Response::Updated(_) | Response::Unchanged | Response::Deleted => {
                Err(RequestError::Closed)
            }
        }
    }

    /// Updates the document; returns its new version.
    pub async fn update(&self, update: Update) -> Result<u64, RequestError> {
        self.updated(update.into_request()?)
            .await
            .map(Option::unwrap_or_default)
    }

    /// Merges `state` into the reported state; returns the document's new version.
    pub async fn update_reported(&self, state: Value) -> Result<u64, RequestError> {
        self.update(Update::new().reported(state)).await
    }

    /// Merges `state` into the desired state; returns the document's new version.
    pub async fn update_desired(&self, state: Value) -> Result<u64, RequestError> {
        self.update(Update::new().desired(state)).await
    }

    /// Reports `state`: sends only the values that the document does not contain already, and
    /// nothing if it contains all of them (`None`). Returns the document's new version.
    pub async fn report(&self, state: Object) -> Result<Option<u64>, RequestError> {
        check_section(&state).map_err(RequestError::Invalid)?;
        let state = Value::Object(state);
        check_size(&serde_json::json!({ "reported": state }))?;
        match state {
            Value::Object(state) => self.updated(Request::Report(state)).await,
            _ => Ok(None),
        }
    }

    /// Reads the document, calls `edit` for the change, and writes it on condition that the
    /// document has not changed meanwhile; on a conflict it retries, with five attempts at most.
    /// `edit` gets `None` if there is no shadow yet (the change is then merged without a
    /// condition), and returns `None` to change nothing. Returns the document's new version.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the change may or may not be made.
    pub async fn modify<F>(&self, mut edit: F) -> Result<Option<u64>, RequestError>
    where
        F: FnMut(Option<&Document>) -> Option<Update>,
    {
        let mut attempt = 1;
        loop {
            let document = match self.get().await {
                Ok(document) => Some(document),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error),
            };
            let Some(mut update) = edit(document.as_ref()) else {
                return Ok(None);
            };
            update.version = document.map(|document| document.version);
            match self.update(update).await {
                Err(error) if error.is_conflict() && attempt < MODIFY_ATTEMPTS => attempt += 1,
                result => return result.map(Some),
            }
        }
    }

    /// Deletes the shadow. Without a shadow, the service returns
    /// [`NotFound`](crate::RejectionCode::NotFound).
    pub async fn delete(&self) -> Result<(), RequestError> {
        self.request(Request::Delete).await.map(drop)
    }

    /// Watches the latest delta: the desired values that the device has not reported. A change of
    /// the desired state appears here even if the difference is the same again.
    #[must_use]
    pub fn delta(&self) -> watch::Receiver<Delta> {
        self.delta.clone()
    }

    /// Returns the deltas one after the other; see [`Deltas::next`].
    #[must_use]
    pub fn deltas(&self) -> Deltas {
        let mut delta = self.delta.clone();
        delta.mark_changed();
        Deltas(delta)
    }

    /// Watches the known document: `None` before the first response, and while there is no shadow.
    #[must_use]
    pub fn document(&self) -> watch::Receiver<Option<Document>> {
        self.document.clone()
    }

    /// Stops the client for all its handles, and waits until its task has ended. Open requests fail
    /// with [`RequestError::Closed`].
    ///
    /// # Cancel safety
    ///
    /// Can be called again.
    pub async fn stop(&self) {
        drop(self.commands.send(Command::Stop).await);
        self.commands.closed().await;
    }

    async fn updated(&self, request: Request) -> Result<Option<u64>, RequestError> {
        match self.request(request).await? {
            Response::Updated(version) => Ok(Some(version)),
            Response::Document(_) | Response::Unchanged | Response::Deleted => Ok(None),
        }
    }

    async fn request(&self, request: Request) -> Result<Response, RequestError> {
        let (reply, response) = oneshot::channel();
        let command = Command::Request(request, reply);
        self.commands
            .send(command)
            .await
            .map_err(|_| RequestError::Closed)?;
        response.await.map_err(|_| RequestError::Closed)?
    }
}

impl fmt::Debug for ShadowClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShadowClient")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A stream of deltas. It holds only the latest: a delta that is not read in time is replaced by
/// the next one, which contains everything still to be done.
#[derive(Debug)]
pub struct Deltas(watch::Receiver<Delta>);

impl Deltas {
    /// Waits for a delta that is not empty; `None` when the client has ended.
    ///
    /// # Cancel safety
    ///
    /// Yes: no delta is lost.
    pub async fn next(&mut self) -> Option<Delta> {
        loop {
            self.0.changed().await.ok()?;
            let delta = self.0.borrow_and_update().clone();
            if !delta.is_empty() {
                return Some(delta);
            }
        }
    }
}

#[cfg(test)]
mod tests;
