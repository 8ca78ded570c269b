//! What every crate that talks to a network peer needs, and that knows nothing of Clesyde.
//!
//! - [`UntrustedText`]: text that a peer sent, escaped when it enters, so that it can be logged and shown.
//! - [`LogThrottle`]: a rate limit for log lines that a peer can cause.
//! - [`Connector`] (feature `connect`): TCP connections to a host, with bounded name lookups, the
//!   address race of RFC 8305, and a [`Proxy`].
//!
//! This crate is a leaf: it depends on no other crate of this workspace, and any of them may depend on it.

#[cfg(feature = "connect")]
mod connect;
#[cfg(feature = "connect")]
mod happy_eyeballs;
#[cfg(feature = "connect")]
mod http_connect;
mod log_throttle;
#[cfg(feature = "connect")]
mod proxy;
#[cfg(feature = "connect")]
mod proxy_error;
#[cfg(feature = "connect")]
mod resolve;
#[cfg(feature = "connect")]
mod socks5;
mod untrusted_text;

#[cfg(feature = "connect")]
pub use connect::{ConnectError, Connector};
#[cfg(feature = "connect")]
pub use happy_eyeballs::AddressFamily;
pub use log_throttle::LogThrottle;
#[cfg(feature = "connect")]
pub use proxy::{InvalidProxy, Proxy};
#[cfg(feature = "connect")]
pub use proxy_error::{ProxyError, ProxyFailure, ProxyReply};
pub use untrusted_text::UntrustedText;

#[doc(hidden)]
pub mod private {
    pub use tracing;
}
