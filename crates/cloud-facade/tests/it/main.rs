//! Tests of the facade as a host sees it.

#![allow(clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod builder;
#[cfg(feature = "test-util")]
mod mock_cloud;
mod platform;
mod reports;
mod session;
mod subscriptions;
mod supervisor;
