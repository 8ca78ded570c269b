//! The driver of the [`Core`]: one task for each shadow, which owns the core, passes it messages,
//! commands and time, and executes its output.
//!
//! The task ends when the last client handle is dropped, on [`Command::Stop`], or when the bus
//! ends; open requests then fail with [`RequestError::Closed`].

use std::collections::HashMap;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::stream::{BoxStream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use crate::bus::{BusError, BusMessage, MessageBus};
use crate::core::{Core, Request, RequestId, Response, Transmit};
use crate::delta::Delta;
use crate::document::Document;
use crate::error::RequestError;
use crate::in_flight_limit::InFlightLimit;
use crate::topic::ShadowId;

pub(crate) type Reply = oneshot::Sender<Result<Response, RequestError>>;

pub(crate) enum Command {
    Request(Request, Reply),
    Connected,
    MessagesLost,
    Stop,
}

/// A request that waits for the in-flight limit, then for the bus. Returns its permit, to hold
/// until the response arrives.
type Sending = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, RequestError>> + Send>>;

pub(crate) struct Driver<B> {
    pub(crate) bus: Arc<B>,
    pub(crate) id: ShadowId,
    pub(crate) core: Core,
    pub(crate) in_flight_limit: InFlightLimit,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// `None`: the bus has ended.
    pub(crate) messages: BoxStream<'static, Option<BusMessage>>,
    pub(crate) delta: watch::Sender<Delta>,
    pub(crate) document: watch::Sender<Option<Document>>,
    pub(crate) replies: HashMap<RequestId, Reply>,
    pub(crate) outgoing: Outgoing,
}

/// What the driver waits for.
enum Event {
    Command(Command),
    /// `None`: the bus has ended.
    Message(Option<BusMessage>),
    /// The bus has accepted or rejected the request.
    Sent(Result<OwnedSemaphorePermit, RequestError>),
    /// A deadline of the core has passed.
    Timeout,
}

/// State of the request in flight.
#[derive(Default)]
pub(crate) enum Outgoing {
    #[default]
    Nothing,
    Sending {
        token: String,
        sending: Sending,
    },
    Sent {
        token: String,
        _permit: OwnedSemaphorePermit,
    },
}

impl Outgoing {
    fn token(&self) -> Option<&str> {
        match self {
            Self::Nothing => None,
            Self::Sending { token, .. } | Self::Sent { token, .. } => Some(token),
        }
    }

    /// Waits until the bus has accepted or rejected the request; never returns if there is none.
    async fn sent(&mut self) -> Result<OwnedSemaphorePermit, RequestError> {
        match self {
            Self::Sending { sending, .. } => sending.await,
            Self::Nothing | Self::Sent { .. } => std::future::pending().await,
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl<B: MessageBus> Driver<B> {
    pub(crate) async fn run(mut self) {
        loop {
            self.transmit();
            self.publish_updates();
            let event = self.next().await;
            if self.handle(event).is_break() {
                break;
            }
        }
        tracing::debug!(shadow = %self.id, "shadow client ended");
    }

    /// Waits for the next event.
    async fn next(&mut self) -> Event {
        let timeout = self.core.poll_timeout();
        let timer = async {
            match timeout {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            command = self.commands.recv() => Event::Command(command.unwrap_or(Command::Stop)),
            message = self.messages.next() => Event::Message(message.flatten()),
            result = self.outgoing.sent() => Event::Sent(result),
            () = timer => Event::Timeout,
        }
    }

    /// Handles an event. A break ends the task.
    fn handle(&mut self, event: Event) -> ControlFlow<()> {
        match event {
            Event::Command(Command::Request(request, reply)) => self.submit(request, reply),
            Event::Command(Command::Connected) => self.core.handle_connected(now()),
            Event::Command(Command::MessagesLost) => self.core.handle_messages_lost(),
            Event::Command(Command::Stop) => return ControlFlow::Break(()),
            Event::Message(Some(message)) => self.receive(&message),
            Event::Message(None) => {
                tracing::debug!(shadow = %self.id, "the message bus has ended");
                return ControlFlow::Break(());
            }
            Event::Sent(result) => self.sent(result),
            Event::Timeout => self.core.handle_timeout(now()),
        }
        ControlFlow::Continue(())
    }

    /// Handles the acceptance or rejection of the request by the bus.
    fn sent(&mut self, result: Result<OwnedSemaphorePermit, RequestError>) {
        let token = self.outgoing.token().unwrap_or_default().to_owned();
        self.outgoing = match result {
            Ok(permit) => Outgoing::Sent {
                token,
                _permit: permit,
            },
            Err(error) => {
                self.core.handle_send_failure(now(), &token, error);
                Outgoing::Nothing
            }
        };
    }

    fn submit(&mut self, request: Request, reply: Reply) {
        match self.core.handle_request(now(), request) {
            Ok(id) => {
                self.replies.insert(id, reply);
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn receive(&mut self, message: &BusMessage) {
        match self.id.parse(&message.topic) {
            Some(kind) => {
                tracing::trace!(shadow = %self.id, ?kind, bytes = message.payload.len(), "shadow message");
                self.core.handle_message(now(), kind, &message.payload);
            }
            None => {
                tracing::debug!(shadow = %self.id, topic = message.topic, "message for another shadow ignored")
            }
        }
    }

    /// Drops a completed request, and sends the next one.
    fn transmit(&mut self) {
        for (id, _) in self.replies.iter().filter(|(_, reply)| reply.is_closed()) {
            self.core.handle_cancel(*id);
        }
        self.replies.retain(|_, reply| !reply.is_closed());
        if self.outgoing.token() != self.core.in_flight() {
            self.outgoing = Outgoing::Nothing;
        }
        if let Some(Transmit {
            operation,
            token,
            payload,
        }) = self.core.poll_transmit(now())
        {
            tracing::debug!(shadow = %self.id, %operation, token, "shadow request");
            let (bus, in_flight_limit) = (Arc::clone(&self.bus), self.in_flight_limit.clone());
            let topic = self.id.request_topic(operation);
            let sending = async move {
                let permit = in_flight_limit.acquire().await?;
                let sent: Result<(), BusError> = bus.publish(topic, payload).await;
                sent.map(|()| permit).map_err(RequestError::Bus)
            };
            self.outgoing = Outgoing::Sending {
                token,
                sending: Box::pin(sending),
            };
        }
    }

    /// Updates the watchers and completes the callers' requests. The watchers first, so that a
    /// caller that gets its response finds the matching document.
    fn publish_updates(&mut self) {
        let replica = self.core.replica();
        let document = replica.document();
        self.document.send_if_modified(|shown| {
            let changed = shown.as_ref() != document;
            if changed {
                *shown = document.cloned();
            }
            changed
        });
        let delta = replica.delta();
        self.delta.send_if_modified(|shown| {
            let changed = shown != delta;
            // Two empty deltas are the same to a watcher.
            let news = changed && !(shown.is_empty() && delta.is_empty());
            if changed {
                *shown = delta.clone();
            }
            news
        });
        while let Some(done) = self.core.poll_completion() {
            if let Some(reply) = self.replies.remove(&done.id) {
                // The caller may have been dropped.
                drop(reply.send(done.result));
            }
        }
    }
}
