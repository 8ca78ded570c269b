//! The program `clesyde-cloud`. What it does is in the library, so that an example can run it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    cloud_cli::run(std::env::args_os())
}
