//! The thin shell around the [`Machine`]: one task for each shadow, which alone owns the machine, feeds it messages,
//! commands and time, and carries out what it says.
//!
//! The task ends when the last client handle is gone, when it is told to stop, or when the bus ends; requests that are
//! still open then fail with [`RequestError::Closed`].

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::stream::{BoxStream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use crate::bus::{BusError, BusMessage, MessageBus};
use crate::client::RequestBudget;
use crate::delta::Delta;
use crate::document::Document;
use crate::error::RequestError;
use crate::machine::{Answer, Machine, Request, RequestId, Transmit};
use crate::topic::ShadowId;

pub(crate) type Reply = oneshot::Sender<Result<Answer, RequestError>>;

pub(crate) enum Command {
    Request(Request, Reply),
    Connected,
    MessagesLost,
    Stop,
}

/// A request on its way to the bus: waits for the connection's budget, then for the bus. Yields the place that it takes
/// in the budget, to be kept until the answer is there.
type Sending = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, RequestError>> + Send>>;

pub(crate) struct Task<B> {
    pub(crate) bus: Arc<B>,
    pub(crate) id: ShadowId,
    pub(crate) machine: Machine,
    pub(crate) budget: RequestBudget,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// `None`: the bus is gone.
    pub(crate) messages: BoxStream<'static, Option<BusMessage>>,
    pub(crate) delta: watch::Sender<Delta>,
    pub(crate) document: watch::Sender<Option<Document>>,
    pub(crate) replies: HashMap<RequestId, Reply>,
}

/// What the task keeps for the request in flight.
enum Outgoing {
    Nothing,
    Sending {
        token: String,
        sending: Sending,
    },
    Sent {
        token: String,
        _place: OwnedSemaphorePermit,
    },
}

impl Outgoing {
    fn token(&self) -> Option<&str> {
        match self {
            Self::Nothing => None,
            Self::Sending { token, .. } | Self::Sent { token, .. } => Some(token),
        }
    }

    /// Waits until the bus has taken the request over, or has not; for ever if there is nothing to wait for.
    async fn handed_over(&mut self) -> Result<OwnedSemaphorePermit, RequestError> {
        match self {
            Self::Sending { sending, .. } => sending.await,
            Self::Nothing | Self::Sent { .. } => std::future::pending().await,
        }
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl<B: MessageBus> Task<B> {
    pub(crate) async fn run(mut self) {
        let mut outgoing = Outgoing::Nothing;
        loop {
            self.transmit(&mut outgoing);
            self.tell();
            let timeout = self.machine.poll_timeout();
            let timer = async {
                match timeout {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Request(request, reply)) => self.submit(request, reply),
                    Some(Command::Connected) => self.machine.connected(now()),
                    Some(Command::MessagesLost) => self.machine.messages_lost(),
                    Some(Command::Stop) | None => break,
                },
                message = self.messages.next() => match message.flatten() {
                    Some(message) => self.receive(&message),
                    None => {
                        tracing::debug!(shadow = %self.id, "the message bus has ended");
                        break;
                    }
                },
                result = outgoing.handed_over() => {
                    let token = outgoing.token().unwrap_or_default().to_owned();
                    outgoing = match result {
                        Ok(place) => Outgoing::Sent { token, _place: place },
                        Err(error) => {
                            self.machine.handle_send_failure(now(), &token, error);
                            Outgoing::Nothing
                        }
                    };
                }
                () = timer => self.machine.handle_timeout(now()),
            }
        }
        tracing::debug!(shadow = %self.id, "shadow client ended");
    }

    fn submit(&mut self, request: Request, reply: Reply) {
        match self.machine.submit(now(), request) {
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
                self.machine.handle_message(now(), kind, &message.payload);
            }
            None => {
                tracing::debug!(shadow = %self.id, topic = message.topic, "not about this shadow, ignored")
            }
        }
    }

    /// Lets go of a request that has ended, and starts the next one.
    fn transmit(&mut self, outgoing: &mut Outgoing) {
        for (id, _) in self.replies.iter().filter(|(_, reply)| reply.is_closed()) {
            self.machine.cancel(*id);
        }
        self.replies.retain(|_, reply| !reply.is_closed());
        if outgoing.token() != self.machine.in_flight() {
            *outgoing = Outgoing::Nothing;
        }
        if let Some(Transmit {
            operation,
            token,
            payload,
        }) = self.machine.poll_transmit(now())
        {
            tracing::debug!(shadow = %self.id, %operation, token, "shadow request");
            let (bus, budget) = (Arc::clone(&self.bus), self.budget.clone());
            let topic = self.id.request_topic(operation);
            let sending = async move {
                let place = budget.place().await?;
                let sent: Result<(), BusError> = bus.publish(topic, payload).await;
                sent.map(|()| place).map_err(RequestError::Bus)
            };
            *outgoing = Outgoing::Sending {
                token,
                sending: Box::pin(sending),
            };
        }
    }

    /// Answers the callers, and shows what is new. The watchers first, so that a caller who has its answer finds the
    /// document to match.
    fn tell(&mut self) {
        let replica = self.machine.replica();
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
            // That there is still nothing to do is no news.
            let news = changed && !(shown.is_empty() && delta.is_empty());
            if changed {
                *shown = delta.clone();
            }
            news
        });
        while let Some(done) = self.machine.poll_done() {
            if let Some(reply) = self.replies.remove(&done.id) {
                // The caller may have gone away meanwhile.
                drop(reply.send(done.result));
            }
        }
    }
}
