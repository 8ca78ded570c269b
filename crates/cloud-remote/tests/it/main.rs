//! Remote access with real components: a SniTun server on the loopback interface as the relay,
//! certificates of a CA created for the test, and public clients that verify them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test fails by panicking, in its helpers too.

mod answers;
mod auth;
mod connection_auth;
mod forward_options;
mod forwarding;
mod handover;
mod messages;
mod peers;
mod proxies;
mod reachability;
mod requests;
mod rotation;
mod serving;
mod shutdown;
mod streams;
mod support;
mod tokens;
