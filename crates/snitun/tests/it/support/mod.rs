//! Common helpers: both ends of a connection in memory, a model of their behaviour, and tunnels on
//! loopback.

pub(crate) mod model;
pub(crate) mod pair;
#[cfg(all(feature = "client", feature = "server"))]
mod relay;

#[cfg(all(feature = "client", feature = "server"))]
pub(crate) use relay::*;
