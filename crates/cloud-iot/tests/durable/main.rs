//! What an outbox on disk promises, against a broker: over stops and starts, and over `kill -9`.
//!
//! What happens on the disk when power fails is in the tests of `durable::database`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test throughout"
)]

#[path = "../support/mod.rs"]
mod support;

mod killed;
mod restarted;

use std::path::Path;
use std::time::Duration;

use cloud_iot::{Backoff, SessionConfig};

/// Where nobody listens.
const NOWHERE: u16 = 1;

/// Quick in everything; `tls` is read from a directory, since a process to be killed has no other way.
fn config(port: u16, tls: &Path) -> SessionConfig {
    let mut config = SessionConfig::new("localhost", "device", support::pki::read_device(tls));
    config.port = port;
    config.backoff = Backoff {
        base_delay: Duration::from_millis(10),
        jitter: Duration::from_millis(5),
        ..Backoff::default()
    };
    config.store_delay = Duration::from_millis(5);
    config.limits.publishes_per_second = None;
    config.limits.bytes_per_second = None;
    config
}
