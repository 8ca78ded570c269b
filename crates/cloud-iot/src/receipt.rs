//! What a caller gets for an accepted message.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::error::DeliveryError;

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
pub struct Receipt(oneshot::Receiver<Result<Ack, DeliveryError>>);

impl Receipt {
    pub(crate) fn new(receiver: oneshot::Receiver<Result<Ack, DeliveryError>>) -> Self {
        Self(receiver)
    }
}

impl Future for Receipt {
    type Output = Result<Ack, DeliveryError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|outcome| outcome.unwrap_or(Err(DeliveryError::Stopped)))
    }
}
