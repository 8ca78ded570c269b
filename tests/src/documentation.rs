//! The Rust examples of documents, as documentation tests. That each document with an example is
//! here is checked by `crates/cloud-cli/tests/it/documentation.rs`.

#[doc = include_str!("../../README.md")]
pub mod readme {}

#[doc = include_str!("../../docs/embed.md")]
pub mod embed {}

#[doc = include_str!("../../crates/cloud-config/README.md")]
pub mod cloud_config {}

#[doc = include_str!("../../crates/cloud-facade/README.md")]
pub mod cloud_facade {}

#[doc = include_str!("../../crates/cloud-iot/README.md")]
pub mod cloud_iot {}

#[doc = include_str!("../../crates/cloud-net/README.md")]
pub mod cloud_net {}

#[doc = include_str!("../../crates/cloud-pki/README.md")]
pub mod cloud_pki {}

#[doc = include_str!("../../crates/cloud-provision/README.md")]
pub mod cloud_provision {}

#[doc = include_str!("../../crates/cloud-remote/README.md")]
pub mod cloud_remote {}

#[doc = include_str!("../../crates/cloud-shadow/README.md")]
pub mod cloud_shadow {}

#[doc = include_str!("../../crates/cloud-sim/README.md")]
pub mod cloud_sim {}
