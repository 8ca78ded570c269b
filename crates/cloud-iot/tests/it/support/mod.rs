//! Peers for tests: certificates, a real broker in the same process behind a TLS front that can be
//! cut or frozen, and a scripted peer for behaviour that no real broker has.

#![allow(dead_code, reason = "each user of this module takes what it needs")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is test code"
)]

pub(crate) mod broker;
pub(crate) mod peer;
pub(crate) mod pki;
pub(crate) mod tap;
