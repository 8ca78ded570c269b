//! A durable outbox against a broker: over restarts and `kill -9`.
//!
//! Power loss is covered by the tests of `outbox::durable::database`.

mod crash;
mod restart;

use std::path::Path;
use std::time::Duration;

use cloud_iot::{Backoff, SessionConfig};

/// A port without a listener.
const NOWHERE: u16 = 1;

/// A configuration with short delays; `tls` is read from a directory, because a worker process has
/// no other source.
fn config(port: u16, tls: &Path) -> SessionConfig {
    let mut config =
        SessionConfig::new("localhost", "device", crate::support::pki::read_device(tls));
    config.port = port;
    config.backoff = Backoff::new()
        .base_delay(Duration::from_millis(10))
        .jitter(Duration::from_millis(5));
    config.store_delay = Duration::from_millis(5);
    config.limits.publishes_per_second = None;
    config.limits.bytes_per_second = None;
    config
}
