//! Tasks of this workspace: `cargo xtask COMMAND`.
//!
//! Everything that a contributor or a CI machine does beyond plain `cargo` is a command here, so that both do
//! the same thing. It is plain `std::process`: no shell, no hidden state but what lies under the target directory.
//!
//! Not here: what `cargo` does well by itself, and anything that a test can check.

mod attack;
mod bench;
mod chaos;
mod check;
mod ci;
mod fuzz;
mod interop;
mod layering;
mod process;
mod python;
mod release;
mod setup;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup              prepare this machine for `interop`: mosquitto, openssl, curl, strace and the Python peers
  test [ARGS..]      cargo test --workspace: unit, integration and doc tests, examples built
       --repeat N    the same N times in a row, stopping at the first failure
  interop [ARGS..]   run the device and the simulator against mosquitto and the Python packages
  chaos              500 fresh runs of devices against a platform that does wrong whatever it can
       --seeds N     so many; --seed SEED: that one again, with a log of all that it does
  attack             attack the built program as hostile callers, platforms and local programs would
       --short       in two minutes; --only NAME,…, --program PATH, --list
  bench [NAME ARGS..]
                     measure ours beside what others wrote; without NAME, names the benchmarks
  fuzz TARGET --secs N
                     feed snitun with what a fuzzer comes up with (needs a nightly toolchain); without TARGET, names them
  layering           check which crate depends on which
  tidy               check the tree's text: leftovers, paths of one machine, conflict markers
  policy             check the dependencies' licences, sources and bans with cargo-deny
  alone              check that each crate builds by itself, with the features it asks for
  examples           build every example and run it; each must exit 0
  release            make what is handed out: an archive of the program with manual, completions and licence,
                     tried before it is packed, and the crates' packages; publishes nothing
  ci                 all the checks above and formatting, lints, documentation, the demo; tests last

ARGS go to the test runner, for example `cargo xtask test -p snitun`.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<()> {
    let Some((command, rest)) = arguments.split_first() else {
        print!("{USAGE}");
        return Ok(());
    };
    let alone = || {
        if rest.is_empty() {
            Ok(())
        } else {
            bail!("`{command}` takes no arguments, but was given {rest:?}")
        }
    };
    match command.as_str() {
        "help" | "-h" | "--help" => {
            print!("{USAGE}");
            Ok(())
        }
        "setup" => alone().and_then(|()| setup::run().map(drop)),
        "test" => test::run(rest),
        "interop" => interop::run(rest),
        "chaos" => chaos::run(rest),
        "attack" => attack::run(rest),
        "bench" => bench::run(rest),
        "fuzz" => fuzz::run(rest),
        "layering" => alone().and_then(|()| layering::run()),
        "tidy" => alone().and_then(|()| tidy::run()),
        "policy" => alone().and_then(|()| check::policy()),
        "alone" => alone().and_then(|()| check::each_alone()),
        "examples" => alone().and_then(|()| check::examples()),
        "release" => release::run_release(rest),
        "ci" => alone().and_then(|()| ci::run()),
        other => bail!("there is no command `{other}`\n\n{USAGE}"),
    }
}
