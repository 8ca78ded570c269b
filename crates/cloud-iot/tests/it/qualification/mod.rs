//! AWS's device qualification (Device Advisor), with a test named after each case, against a
//! scripted server. docs/device-qualification.md lists the requirements and results.
//!
//! The shadow cases are in cloud-shadow's tests; the long run is on virtual time, in the core's
//! tests.

mod back_off;
mod mqtt;
mod sessions;
mod tls;
