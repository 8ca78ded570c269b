//! The program `clesyde-cloud`. The library implements it, so that an example can run it too.

use std::alloc::System;
use std::process::ExitCode;

use zeroizing_alloc::ZeroAlloc;

/// Wipes memory when it is freed: replaced keys must not remain in allocations of rustls, ring and
/// serde_json.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    cloud_cli::run(std::env::args_os())
}
