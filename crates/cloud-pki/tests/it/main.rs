//! Keys and certificates that OpenSSL wrote, and PEM in the layouts that occur.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code"
)]

mod key;
mod pem;

/// Returns a file of `tests/keys`, all of which OpenSSL wrote for these tests.
fn file(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys");
    std::fs::read_to_string(path.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}
