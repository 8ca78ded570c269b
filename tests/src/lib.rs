//! What the integration tests share: child processes, the real peers, and a TLS client that
//! verifies.

pub mod device;
#[cfg(doctest)]
pub mod documentation;
pub mod mosquitto;
pub mod network_namespace;
pub mod origin;
pub mod process;
pub mod proxy;
pub mod public;
pub mod virtual_time;
