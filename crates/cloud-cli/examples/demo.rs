//! Demonstrates everything on this machine: a simulated cloud, a device that registers and
//! connects, and a client that fetches its page through the tunnel, before and after the device's
//! certificate is replaced.
//!
//! Equivalent to `clesyde-cloud demo --once`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cloud_cli::run(["clesyde-cloud", "demo", "--once"])
}
