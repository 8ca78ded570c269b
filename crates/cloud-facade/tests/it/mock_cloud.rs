//! The example of a host's unit tests, run as it stands.

#[allow(dead_code, unreachable_pub)]
#[path = "../../examples/host_unit_test.rs"]
mod example;
