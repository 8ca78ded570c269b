//! Receipts of accepted messages.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::error::DeliveryError;
use crate::outbox::store::StoreError;

/// Delivery status of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ack {
    /// QoS 0: written to the connection. It may not have arrived.
    Sent,
    /// QoS 1: the server has acknowledged it.
    Acknowledged,
}

/// A future of an accepted message's delivery: it returns the acknowledgement or the reason for the
/// failure. It always completes, at the latest when the session stops.
///
/// Dropping it has no effect: the message stays accepted and is delivered.
///
/// # Cancel safety
///
/// Polling by reference (`(&mut receipt).await`) can be cancelled and resumed.
#[derive(Debug)]
#[must_use = "a receipt may be dropped, but then the result of the delivery is lost"]
pub struct Receipt {
    delivered: oneshot::Receiver<Result<Ack, DeliveryError>>,
    stored: Stored,
}

#[derive(Debug)]
enum Stored {
    Known(Result<(), StoreError>),
    Waiting(oneshot::Receiver<Result<(), StoreError>>),
}

impl Receipt {
    /// `stored` reports when the message is stored; `None` if it is not to be.
    pub(crate) fn new(
        delivered: oneshot::Receiver<Result<Ack, DeliveryError>>,
        stored: Option<oneshot::Receiver<Result<(), StoreError>>>,
    ) -> Self {
        let stored = match stored {
            Some(receiver) => Stored::Waiting(receiver),
            None => Stored::Known(Err(StoreError::NotKept)),
        };
        Self { delivered, stored }
    }

    /// Creates a receipt of a message that is delivered already, or not at all: for tests of code
    /// that publishes.
    pub fn resolved(result: Result<Ack, DeliveryError>) -> Self {
        let (delivered, receiver) = oneshot::channel();
        let _ = delivered.send(result);
        Self::new(receiver, None)
    }

    /// Waits until the message no longer depends on this process: until it is
    /// [stored](crate::SessionBuilder::outbox_store), or resolved before that, as the receipt
    /// itself reports.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the message could not be stored. It stays accepted and is delivered if
    /// this process lives long enough.
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped, and the method called again.
    pub async fn stored(&mut self) -> Result<(), StoreError> {
        if let Stored::Waiting(receiver) = &mut self.stored {
            let outcome = receiver.await.unwrap_or(Err(StoreError::Stopped));
            self.stored = Stored::Known(outcome);
        }
        match &self.stored {
            Stored::Known(outcome) => outcome.clone(),
            Stored::Waiting(_) => Err(StoreError::Stopped),
        }
    }
}

impl Future for Receipt {
    type Output = Result<Ack, DeliveryError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.delivered)
            .poll(cx)
            .map(|outcome| outcome.unwrap_or(Err(DeliveryError::Stopped)))
    }
}
