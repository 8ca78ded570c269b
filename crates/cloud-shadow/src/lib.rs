//! AWS IoT device shadows over any message bus
mod bus;
mod client;
mod delta;
mod document;
mod error;
mod limits;
mod machine;
mod message;
mod replica;
mod task;
#[cfg(test)]
mod test_support;
mod topic;
mod typed;

pub use bus::{BoxedBus, BusError, BusMessage, BusSubscription, MessageBus};
pub use client::{Deltas, RequestBudget, ShadowClient, ShadowConfig, Update};
pub use delta::{Delta, parse_delta};
pub use document::{Document, Object};
pub use error::{Rejection, RejectionCode, RequestError, StartError};
pub use limits::{InvalidState, MAX_DEPTH, MAX_STATE};
pub use topic::{InvalidName, MessageKind, Operation, ShadowId};
pub use typed::{Typed, TypedDeltas, TypedDocument};
