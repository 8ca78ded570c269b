//! The device directory as other crates use it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;

mod crash;
mod damaged_files;
mod directory;
