//! Attacks on the built program `clesyde-cloud`, from outside: `cargo xtask attack`.
//!
//! Each attack starts its own simulator and its own device as child processes on loopback, does
//! what a hostile peer can do, and measures what a bound is promised for: memory, time, log lines,
//! and what an honest caller gets meanwhile. The result is a Markdown table; the exit code is 1 if
//! a bound does not hold. An attack that cannot finish counts as a bound that does not hold. Every
//! attack is bounded in number and in time.
//!
//! The program under attack is a parameter, so that an older build can be measured in the same way.

mod application;
mod arguments;
mod caller;
mod callers_access;
mod callers_floods;
mod callers_headers;
mod callers_hpack;
mod callers_passwords;
mod callers_slow;
mod child;
mod directory;
mod h2;
mod health;
mod honest;
mod hostile_broker;
mod memory;
mod plain_http;
mod platform;
mod proxy_relay;
mod report;
mod scene;
mod simulator;
mod tls;
mod tunnel;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use futures_util::future::LocalBoxFuture;
use tokio::time::timeout;

use crate::report::Row;

/// For one attack with all that it starts. Only an attack that hangs meets it.
const ATTACK_LIMIT: Duration = Duration::from_secs(240);

const USAGE: &str = "\
usage: attack --program PATH [--short] [--only NAME,…] [--list]

  --program PATH  the clesyde-cloud to attack
  --short         only the attacks, and the parts of them, that take seconds
  --only NAME,…   only these
  --list          name the attacks
";

/// What every attack needs.
pub(crate) struct Context {
    /// The program under attack.
    pub(crate) program: PathBuf,
    /// Whether to leave out what takes long.
    pub(crate) short: bool,
}

impl Context {
    /// The first duration in the short form, the second in the full one.
    pub(crate) fn seconds(&self, short: u64, full: u64) -> Duration {
        Duration::from_secs(if self.short { short } else { full })
    }
}

type Run = for<'a> fn(&'a Context) -> LocalBoxFuture<'a, Result<Vec<Row>>>;

struct Attack {
    name: &'static str,
    /// Whether the short form has it.
    short: bool,
    /// Whether the attack needs the machine: attacks with load run one after the other, the others
    /// beside them.
    load: bool,
    run: Run,
}

macro_rules! attack {
    ($name:literal, $short:expr, $load:expr, $run:path) => {
        Attack {
            name: $name,
            short: $short,
            load: $load,
            run: |context| Box::pin($run(context)),
        }
    };
}

const SHORT: bool = true;
const FULL: bool = false;
const LOAD: bool = true;
const QUIET: bool = false;

static ATTACKS: &[Attack] = &[
    attack!("half-headers", SHORT, LOAD, callers_headers::half_headers),
    attack!(
        "stop-in-header",
        SHORT,
        LOAD,
        callers_headers::stop_in_header
    ),
    attack!("hpack-cookies", SHORT, LOAD, callers_hpack::cookies),
    attack!("hpack-fields", SHORT, LOAD, callers_hpack::fields),
    attack!(
        "hpack-four-addresses",
        FULL,
        LOAD,
        callers_hpack::four_addresses
    ),
    attack!("hpack-unread-page", SHORT, LOAD, callers_hpack::unread_page),
    attack!(
        "hpack-memory-limit",
        FULL,
        LOAD,
        callers_hpack::memory_limit
    ),
    attack!("slow-bodies", SHORT, LOAD, callers_slow::bodies),
    attack!("unread-bodies", SHORT, LOAD, callers_slow::unread_bodies),
    attack!("unread-http2", SHORT, LOAD, callers_slow::unread_http2),
    attack!("unread-http1", FULL, LOAD, callers_slow::unread_http1),
    attack!(
        "botnet-connections",
        SHORT,
        LOAD,
        callers_slow::botnet_connections
    ),
    attack!("botnet-requests", FULL, LOAD, callers_slow::botnet_requests),
    attack!(
        "unknown-callers",
        SHORT,
        LOAD,
        callers_slow::unknown_callers
    ),
    attack!("passwords", SHORT, LOAD, callers_passwords::addresses),
    attack!("passwords-unknown", SHORT, LOAD, callers_passwords::unknown),
    attack!("deny-unknown", SHORT, QUIET, callers_access::deny_unknown),
    attack!(
        "content-length",
        SHORT,
        QUIET,
        callers_access::content_length
    ),
    attack!("host", SHORT, QUIET, callers_access::host),
    attack!(
        "vendor-headers",
        SHORT,
        QUIET,
        callers_access::vendor_headers
    ),
    attack!("smuggling", SHORT, QUIET, callers_access::smuggling),
    attack!("http2-floods", SHORT, LOAD, callers_floods::floods),
    attack!("health", SHORT, QUIET, health::idle_connections),
    attack!("delta-flood", SHORT, QUIET, platform::delta_flood),
    attack!("iot-delta-flood", SHORT, QUIET, platform::iot_delta_flood),
    attack!("unusable-answers", FULL, QUIET, platform::unusable_answers),
    attack!("junk-messages", SHORT, QUIET, platform::junk_messages),
    attack!("raw-text", SHORT, QUIET, platform::raw_text),
    attack!("retired-keys", SHORT, QUIET, memory::retired_keys),
    attack!("foreign-writer", SHORT, QUIET, directory::foreign_writer),
    attack!("other-serial", SHORT, QUIET, directory::other_serial),
    attack!("secret-arguments", SHORT, QUIET, arguments::secrets),
    attack!("simulator-control", SHORT, QUIET, simulator::control),
    attack!("tunnel-losses", FULL, QUIET, tunnel::losses),
    attack!("broken-line", FULL, QUIET, tunnel::broken_line),
    attack!("tls", SHORT, QUIET, tls::openssl),
    attack!("testssl", SHORT, QUIET, tls::testssl),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match start(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("attack: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether all bounds hold.
fn start(arguments: &[String]) -> Result<bool> {
    let (mut program, mut short, mut only) = (None, false, Vec::new());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || {
            rest.next()
                .with_context(|| format!("`{argument}` needs a value\n\n{USAGE}"))
        };
        match argument.as_str() {
            "--program" => program = Some(PathBuf::from(value()?)),
            "--only" => only.extend(value()?.split(',').map(str::to_owned)),
            "--short" => short = true,
            "--list" => {
                for attack in ATTACKS {
                    println!(
                        "{}{}",
                        attack.name,
                        if attack.short {
                            ""
                        } else {
                            " (full form only)"
                        }
                    );
                }
                return Ok(true);
            }
            "--help" | "-h" => {
                print!("{USAGE}");
                return Ok(true);
            }
            other => bail!("there is no option `{other}`\n\n{USAGE}"),
        }
    }
    if let Some(name) = only
        .iter()
        .find(|name| !ATTACKS.iter().any(|attack| attack.name == **name))
    {
        bail!("there is no attack `{name}`; --list names them");
    }
    let program = program.with_context(|| format!("`--program` is missing\n\n{USAGE}"))?;
    let program = program
        .canonicalize()
        .with_context(|| format!("there is no program {}", program.display()))?;
    let chosen: Vec<&'static Attack> = ATTACKS
        .iter()
        .filter(|attack| match only.is_empty() {
            true => attack.short || !short,
            false => only.iter().any(|name| name == attack.name),
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(run(&Context { program, short }, &chosen)))
}

async fn run(context: &Context, attacks: &[&'static Attack]) -> bool {
    let begin = Instant::now();
    let of_load = |load| {
        attacks
            .iter()
            .copied()
            .filter(move |attack| attack.load == load)
    };
    let (mut rows, beside) = tokio::join!(
        in_turn(context, of_load(LOAD)),
        in_turn(context, of_load(QUIET))
    );
    rows.extend(beside);
    println!("{}", report::table(&rows));
    let broken = rows.iter().filter(|row| !row.held).count();
    println!(
        "{} bounds, {broken} of them do not hold; {} s",
        rows.len(),
        begin.elapsed().as_secs()
    );
    broken == 0
}

async fn in_turn(context: &Context, attacks: impl Iterator<Item = &'static Attack>) -> Vec<Row> {
    let mut rows = Vec::new();
    for attack in attacks {
        let begin = Instant::now();
        let found = match timeout(ATTACK_LIMIT, (attack.run)(context)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => vec![Row::failed(attack.name, &error)],
            Err(_) => {
                let error = anyhow!("no end within {} s", ATTACK_LIMIT.as_secs());
                vec![Row::failed(attack.name, &error)]
            }
        };
        eprintln!("{}: {} s", attack.name, begin.elapsed().as_secs());
        for row in &found {
            eprintln!("  {row}");
        }
        rows.extend(found);
    }
    rows
}
