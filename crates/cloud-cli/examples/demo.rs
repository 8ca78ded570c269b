//! Everything at work on this machine: a cloud, a device that registers and comes online, and a visitor who fetches its
//! page through the tunnel, before and after the device's certificate is replaced.
//!
//! The same as `clesyde-cloud demo --once`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cloud_cli::run(["clesyde-cloud", "demo", "--once"])
}
