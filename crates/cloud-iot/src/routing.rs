//! Routing of received messages to handlers and streams.

pub(crate) mod ack_guard;
mod bounded_queue;
pub(crate) mod held_messages;
pub(crate) mod json;
pub(crate) mod router;
pub(crate) mod stream;
mod topic_scheduler;
