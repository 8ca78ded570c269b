//! What every crate that talks to a network peer needs, and that knows nothing of Clesyde.
//!
//! - [`UntrustedText`]: text that a peer sent, escaped when it enters, so that it can be logged and shown.
//! - [`LogThrottle`]: a rate limit for log lines that a peer can cause.
//!
//! This crate is a leaf: it depends on no other crate of this workspace, and any of them may depend on it.

mod log_throttle;
mod untrusted_text;

pub use log_throttle::LogThrottle;
pub use untrusted_text::UntrustedText;

#[doc(hidden)]
pub mod private {
    pub use tracing;
}
