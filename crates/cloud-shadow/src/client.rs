//! The handle by which an application uses a shadow.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::bus::MessageBus;
use crate::delta::Delta;
use crate::document::{Document, Object};
use crate::error::{RequestError, StartError};
use crate::limits::{check_section, check_size};
use crate::machine::{Answer, Machine, Request};
use crate::task::{Command, Task};
use crate::topic::ShadowId;
use crate::typed::Typed;
use crate::update::Update;

/// AWS IoT Core refuses more requests in flight than this on one connection.
const MAX_IN_FLIGHT: usize = 10;

/// Commands between the handles and the task. The task takes them at once and queues the requests itself.
const COMMANDS: usize = 8;
/// For a [time limit](ShadowConfig::time_limit).
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How often [`ShadowClient::modify`] tries. Somebody who changes the shadow between a read and a write five times in a row
/// does it all the time.
const MODIFY_ATTEMPTS: usize = 5;

/// How many requests may be in flight at once over all shadows of a connection. Clones share the same places.
#[derive(Debug, Clone)]
pub struct RequestBudget(Arc<Semaphore>);

impl Default for RequestBudget {
    /// Ten, which is what AWS IoT Core allows on a connection.
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_IN_FLIGHT)))
    }
}

impl RequestBudget {
    pub(crate) async fn place(&self) -> Result<OwnedSemaphorePermit, RequestError> {
        // The semaphore is never closed.
        Arc::clone(&self.0)
            .acquire_owned()
            .await
            .map_err(|_| RequestError::Closed)
    }
}

/// Which shadow, and how to treat it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ShadowConfig {
    /// Which shadow of which thing.
    pub id: ShadowId,
    /// How long a request may take from the call to the answer, and the subscriptions at the start. Default: 30 s;
    /// what is longer than a day counts as a day.
    pub time_limit: Duration,
    /// Shared between all shadows of a connection. Default: one of its own, which is right for a single shadow.
    pub budget: RequestBudget,
}

impl ShadowConfig {
    /// The defaults for this shadow.
    #[must_use]
    pub fn new(id: ShadowId) -> Self {
        Self {
            id,
            time_limit: Duration::from_secs(30),
            budget: RequestBudget::default(),
        }
    }

    /// Sets [`time_limit`](Self::time_limit).
    #[must_use]
    pub fn time_limit(mut self, time_limit: Duration) -> Self {
        self.time_limit = time_limit;
        self
    }

    /// Sets [`budget`](Self::budget).
    #[must_use]
    pub fn budget(mut self, budget: RequestBudget) -> Self {
        self.budget = budget;
        self
    }
}

/// A device's shadow. Clones are handles to the same shadow; when the last one is dropped, or after
/// [`stop`](Self::stop), its task ends.
///
/// Requests are carried out one after the other, in the order of the calls. All of them, unless told otherwise:
///
/// # Errors
///
/// [`RequestError`]: refused by the shadow service, no answer within the time limit, not taken by the bus, too many
/// requests waiting (more than 16), or the client has ended.
///
/// # Cancel safety
///
/// A request whose future is dropped is not sent if it still waits for its turn; if it is sent already, it is carried
/// out, and its effect on the document is seen as that of anybody's.
#[derive(Clone)]
pub struct ShadowClient {
    id: ShadowId,
    commands: mpsc::Sender<Command>,
    delta: watch::Receiver<Delta>,
    document: watch::Receiver<Option<Document>>,
}

impl ShadowClient {
    /// Subscribes, fetches the document, and keeps it up to date from then on in a task of its own.
    ///
    /// The bus may be without a connection at this time, if it takes subscriptions nevertheless. Call
    /// [`connected`](Self::connected) after each connection.
    ///
    /// # Errors
    ///
    /// [`StartError`] if the bus does not take the subscriptions, or not within the time limit.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, nothing is left behind.
    pub async fn start(bus: impl MessageBus, config: ShadowConfig) -> Result<Self, StartError> {
        let ShadowConfig {
            id,
            time_limit,
            budget,
        } = config;
        let time_limit = time_limit.min(LONGEST);
        let deadline = tokio::time::Instant::now() + time_limit;
        let mut subscriptions = Vec::new();
        for filter in id.filters() {
            let subscription =
                tokio::time::timeout_at(deadline, bus.subscribe(filter.clone())).await;
            match subscription {
                // The end of any one of them is the end of the bus.
                Ok(Ok(messages)) => {
                    subscriptions.push(messages.map(Some).chain(stream::iter([None])))
                }
                Ok(Err(source)) => return Err(StartError::Subscribe { filter, source }),
                Err(_) => return Err(StartError::TimedOut { filter }),
            }
        }
        let token_prefix = format!("{:016x}", rand::random::<u64>());
        let mut machine = Machine::new(token_prefix, time_limit);
        machine.connected(tokio::time::Instant::now().into_std());

        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (delta_sender, delta) = watch::channel(Delta::default());
        let (document_sender, document) = watch::channel(None);
        let task = Task {
            bus: Arc::new(bus),
            id: id.clone(),
            machine,
            budget,
            commands: receiver,
            messages: stream::select_all(subscriptions).boxed(),
            delta: delta_sender,
            document: document_sender,
            replies: Default::default(),
        };
        tokio::spawn(task.run());
        Ok(Self {
            id,
            commands,
            delta,
            document,
        })
    }

    /// Which shadow this is.
    #[must_use]
    pub fn id(&self) -> &ShadowId {
        &self.id
    }

    /// To be called after each connection of the bus, once its subscriptions are in place again: fetches the document, so
    /// that changes made meanwhile are found. If two connections in a row have ended before the document came, it is fetched
    /// with a delay, up to five minutes. Returns at once; what is found shows in [`delta`](Self::delta) and
    /// [`document`](Self::document). A shadow that does not exist yet is fine.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, nothing is fetched.
    pub async fn connected(&self) {
        // A client that has ended needs no document.
        drop(self.commands.send(Command::Connected).await);
    }

    /// To be called when the bus has lost messages without losing its connection: fetches the document, once more if that is
    /// under way already.
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
            Answer::Document(document) => Ok(document),
            Answer::Updated(_) | Answer::Unchanged | Answer::Deleted => Err(RequestError::Closed),
        }
    }

    /// Changes the document; returns its new version.
    pub async fn update(&self, update: Update) -> Result<u64, RequestError> {
        self.updated(update.into_request()?)
            .await
            .map(Option::unwrap_or_default)
    }

    /// Merges `state` into what the device says of itself; returns the document's new version.
    pub async fn update_reported(&self, state: Value) -> Result<u64, RequestError> {
        self.update(Update::new().reported(state)).await
    }

    /// Merges `state` into what is wanted of the device; returns the document's new version.
    pub async fn update_desired(&self, state: Value) -> Result<u64, RequestError> {
        self.update(Update::new().desired(state)).await
    }

    /// Makes sure that `state` is reported: sends only what the document does not say already, and nothing if it says all
    /// of it (`None`). Returns the document's new version.
    pub async fn report(&self, state: Object) -> Result<Option<u64>, RequestError> {
        check_section(&state).map_err(RequestError::Invalid)?;
        let state = Value::Object(state);
        check_size(&serde_json::json!({ "reported": state }))?;
        match state {
            Value::Object(state) => self.updated(Request::Report(state)).await,
            _ => Ok(None),
        }
    }

    /// Reads the document, lets `edit` say what to change, and writes it on condition that nobody has changed it
    /// meanwhile; if somebody has, does it again, five times at most. `edit` gets `None` if there is no shadow yet (the
    /// change is then merged without a condition), and returns `None` to change nothing. Returns the document's new version.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the change is made, or not.
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

    /// Removes the shadow. If there is none, the shadow service says
    /// [`NotFound`](crate::RejectionCode::NotFound).
    pub async fn delete(&self) -> Result<(), RequestError> {
        self.request(Request::Delete).await.map(drop)
    }

    /// What the cloud wants and the device has not reported: always the latest. A change of the desired state shows here
    /// even if it leads to the same difference again.
    #[must_use]
    pub fn delta(&self) -> watch::Receiver<Delta> {
        self.delta.clone()
    }

    /// The deltas to act on, one after the other; see [`Deltas::next`].
    #[must_use]
    pub fn deltas(&self) -> Deltas {
        let mut delta = self.delta.clone();
        delta.mark_changed();
        Deltas(delta)
    }

    /// The document as far as it is known: `None` before the first answer, and while there is no shadow.
    #[must_use]
    pub fn document(&self) -> watch::Receiver<Option<Document>> {
        self.document.clone()
    }

    /// The same shadow with its states as a type of the application's.
    #[must_use]
    pub fn typed<T>(&self) -> Typed<T> {
        Typed::new(self.clone())
    }

    /// Ends the client for all its handles, and waits until its task has ended. Requests that are still open fail with
    /// [`RequestError::Closed`].
    ///
    /// # Cancel safety
    ///
    /// May be called again.
    pub async fn stop(&self) {
        drop(self.commands.send(Command::Stop).await);
        self.commands.closed().await;
    }

    async fn updated(&self, request: Request) -> Result<Option<u64>, RequestError> {
        match self.request(request).await? {
            Answer::Updated(version) => Ok(Some(version)),
            Answer::Document(_) | Answer::Unchanged | Answer::Deleted => Ok(None),
        }
    }

    async fn request(&self, request: Request) -> Result<Answer, RequestError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Request(request, reply);
        self.commands
            .send(command)
            .await
            .map_err(|_| RequestError::Closed)?;
        answer.await.map_err(|_| RequestError::Closed)?
    }
}

impl fmt::Debug for ShadowClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShadowClient")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// The deltas of a shadow as they come. It holds only the latest: one that is not fetched in time is replaced by the next
/// one, which says all that is still to be done.
#[derive(Debug)]
pub struct Deltas(watch::Receiver<Delta>);

impl Deltas {
    /// Waits for a delta that is not empty; `None` when the client has ended.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
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
