//! What every crate that talks to a network peer needs, and that knows nothing of Clesyde.
//!
//! - [`UntrustedText`]: text that a peer sent, escaped when it enters, so that it can be logged and
//!   shown.
//! - [`LogThrottle`]: a rate limit for log lines that a peer can cause.
//! - [`Connector`] (feature `connect`): TCP connections to a host, with bounded name lookups, the
//!   address race of RFC 8305, and a [`Proxy`].
//! - [`ExponentialBackoff`]: delays that grow with consecutive failures.
//! - [`error_chain`], [`root_cause`]: errors with their causes.
//! - [`Malformed`] (feature `json`): the error of JSON from a peer, which does not quote it.
//! - [`rfc3339()`] (feature `rfc3339`): dates as text.
//! - [`unix_seconds`], [`from_unix_seconds`]: dates as numbers.
//!
//! ```
//! use cloud_net::{Connector, UntrustedText};
//! use tokio::time::{Duration, Instant};
//!
//! # #[cfg(feature = "connect")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let listener = tokio::net::TcpListener::bind("localhost:0").await?;
//! # let port = listener.local_addr()?.port();
//! let deadline = Instant::now() + Duration::from_secs(10);
//! let stream = Connector::new().connect("localhost", port, deadline).await?;
//! println!("connected to {}", stream.peer_addr()?);
//! assert_eq!(UntrustedText::new("two\nlines").as_str(), r"two\nlines");
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "connect"))]
//! # fn main() {}
//! ```
//!
//! | Cargo feature | default | adds |
//! |---|---|---|
//! | `connect` | yes | `Connector`, `Proxy` and their errors |
//! | `json` | yes | `Malformed` |
//! | `rfc3339` | yes | `rfc3339()` |
//!
//! | error | means | again later? |
//! |---|---|---|
//! | `ConnectError` | the host has no address, or none accepts a connection in time | yes |
//! | `ProxyError` | the proxy cannot be reached, or does not connect to the host; `ProxyFailure` has the reason | yes, unless the proxy refuses |
//! | `InvalidProxy` | the address of the proxy is not valid | no: change it |
//! | `Malformed` | JSON of a peer that cannot be used | no |
//!
//! This crate is a leaf: it depends on no other crate of this workspace, and any of them may depend
//! on it.

mod backoff;
#[cfg(feature = "connect")]
mod connect;
#[cfg(feature = "connect")]
mod connect_error;
mod error_chain;
#[cfg(feature = "connect")]
mod happy_eyeballs;
#[cfg(feature = "connect")]
mod host_and_port;
#[cfg(feature = "connect")]
mod http_connect;
#[cfg(feature = "json")]
mod json_error;
mod log_throttle;
#[cfg(feature = "connect")]
mod proxy;
#[cfg(feature = "connect")]
mod resolve;
#[cfg(feature = "rfc3339")]
mod rfc3339;
#[cfg(feature = "connect")]
mod socks5;
mod unix_time;
mod untrusted_text;

pub use backoff::ExponentialBackoff;
#[cfg(feature = "connect")]
pub use connect::Connector;
#[cfg(feature = "connect")]
pub use connect_error::{ConnectError, ProxyError, ProxyFailure, ProxyReply};
pub use error_chain::{error_chain, root_cause};
#[cfg(feature = "connect")]
pub use happy_eyeballs::AddressFamily;
#[cfg(feature = "json")]
pub use json_error::Malformed;
pub use log_throttle::LogThrottle;
#[cfg(feature = "connect")]
pub use proxy::{InvalidProxy, Proxy};
#[cfg(feature = "rfc3339")]
pub use rfc3339::rfc3339;
pub use unix_time::{from_unix_seconds, unix_seconds};
pub use untrusted_text::UntrustedText;

#[doc(hidden)]
pub mod private {
    pub use tracing;
}
