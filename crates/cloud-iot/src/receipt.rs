//! What a caller gets for an accepted message.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::error::DeliveryError;
use crate::store::StoreError;

/// How far a delivered message is known to have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ack {
    /// QoS 0: written to the connection. Nothing tells whether it arrived.
    Sent,
    /// QoS 1: the server has it.
    Acknowledged,
}

/// The fate of an accepted message: a future that ends with the acknowledgement or with the
/// reason why there is none. It always ends, at the latest when the session stops.
///
/// Dropping it changes nothing: the message stays accepted and is delivered.
///
/// # Cancel safety
///
/// Polling it by reference (`(&mut receipt).await`) can be given up and taken up again.
#[derive(Debug)]
#[must_use = "a receipt may be dropped, but then nobody learns whether the message was delivered"]
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
    /// `stored` tells when the message is on disk; `None` if it is not to be.
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

    /// Waits until the message does not depend on this process any more: until it is
    /// [on disk](crate::SessionBuilder::outbox_store), or has come to its end before that was
    /// needed, which the receipt itself tells.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the message could not be stored. It stays accepted and will be delivered,
    /// but only as long as this process lives.
    ///
    /// # Cancel safety
    ///
    /// It can be given up and called again.
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
