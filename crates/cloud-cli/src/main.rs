//! The program `clesyde-cloud`. What it does is in the library, so that an example can run it too.

use std::alloc::System;
use std::process::ExitCode;

use zeroizing_alloc::ZeroAlloc;

/// Wipes memory when it is freed: keys that were replaced must not stay in what rustls, ring and serde_json have allocated.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    cloud_cli::run(std::env::args_os())
}
