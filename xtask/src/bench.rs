//! Benchmarks against other programs: `cargo xtask bench NAME`.
//!
//! A command finds the programs that its benchmark needs and names missing ones; the measurement is
//! a bench target of the crate. `docs/benchmarks.md` has the figures and their meaning. `ci` does
//! not run benchmarks: they need an idle machine, and do not fail when they are slow.

mod codec;
mod device;
mod footprint;
mod messaging;
mod tunnel;

use anyhow::{Result, bail};

/// Runs a benchmark with the arguments behind its name.
type Bench = fn(&[String]) -> Result<()>;

const BENCHES: &[(&str, Bench)] = &[
    ("codec", codec::run),
    ("device", device::run),
    ("footprint", footprint::run),
    ("messaging", messaging::run),
    ("tunnel", tunnel::run),
];

/// Which profile each measured program is built with.
const PROFILES: &str = "profiles: `bench` (thin LTO) for the measuring program, `dist` (fat LTO) for the programs \
     that it starts, and profile-guided optimization for `clesyde-cloud`";

pub(crate) const DETAILS: &str = "\
Without NAME, lists the benchmarks. docs/benchmarks.md explains the figures.
The measuring program is built with the profile `bench`: `release` with thin LTO.

  codec [FILTER]      snitun's codec and multiplexer without sockets
  device [--rounds N] [--only MEASURE,…] [--profile PROFILE]
                      `run --forward` beside nginx as a reverse proxy, and an application in process
                      beside itself without a tunnel; the program is built as for a release (see
                      `cargo xtask program --help`) unless another profile is named
  footprint [--profile PROFILE] [--only PART,…]
                      memory, wake-ups, start and size of the program, beside the Python library.
                      Parts: start, size, idle, reader, channels, peak; `crates` alone is the size
                      by crate
  messaging [--rounds N] [--only MEASURE,…] [--before PROGRAM]
                      the MQTT session, rumqttc and aiomqtt against mosquitto; with --before also
                      the session of another commit
  tunnel [--rounds N] [--only MEASURE,…] [--ways WAY,…]
                      the tunnel, nginx, HAProxy and rathole; `relay` and `forward` are built with
                      the profile `dist`";

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let names: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
    let Some((wanted, rest)) = arguments.split_first() else {
        println!("benchmarks: {}", names.join(", "));
        return Ok(());
    };
    match BENCHES.iter().find(|(name, _)| name == wanted) {
        Some((_, bench)) => {
            println!("{PROFILES}");
            bench(rest)
        }
        None => bail!(
            "there is no benchmark `{wanted}`, only {}",
            names.join(", ")
        ),
    }
}
