//! The tests of the protocol core and, with the features `client` and `server`, of both ends over
//! sockets.
//!
//! These tests are separate programs: `allocations`, which installs a counting allocator, and
//! `corpus`, which the published package does not contain.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

mod backpressure;
mod decoder;
#[cfg(all(feature = "client", feature = "server"))]
mod examples;
#[cfg(feature = "client")]
mod first_ping;
mod in_flight;
mod limits;
mod mux;
mod pacing;
mod send_limits;
#[cfg(all(feature = "client", feature = "server"))]
mod server;
#[cfg(all(feature = "client", feature = "server"))]
mod server_limits;
#[cfg(all(feature = "client", feature = "server"))]
mod server_ports;
mod time_limits;
#[cfg(all(feature = "client", feature = "server"))]
mod tunnel;
mod vectors;
