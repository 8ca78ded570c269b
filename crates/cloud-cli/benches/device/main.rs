//! Compares the whole program, and an application in process, with what else would serve them: the
//! same TLS traffic over several ways, alternating within one run.
//!
//! ```text
//! cargo xtask bench device [--rounds N] [--only MEASURE,…] [--groups forward|in-process]
//! ```
//!
//! builds or finds the programs and starts this benchmark. Two tables:
//!
//! - `run --forward` to nginx, through the simulator's relay, beside nginx as a TLS reverse proxy
//!   to the same nginx, behind one HAProxy hop;
//! - an axum application in process, through the relay, beside the same application over rustls
//!   directly and behind one HAProxy hop.
//!
//! Each round takes each measurement of each way in turn; the output contains medians, and for
//! ratios the median over the rounds. Only ratios are meaningful across machines.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot be made ends the program"
)]

mod measurements;
mod ways;

use std::collections::HashMap;
use std::path::PathBuf;

use testkit::load::table::{self, Results};

use measurements::{IDLE_MEMORY, MEASUREMENTS, Measurement};
use ways::{Bench, Group, Paths, Way};

fn main() {
    let arguments = Arguments::read();
    let bench = Bench::start(&arguments.paths);
    let wanted = |name: &str| is_named(&arguments.only, name);
    let measurements: Vec<_> = MEASUREMENTS.iter().filter(|one| wanted(one.name)).collect();
    for missing in &bench.missing {
        println!("not measured: {missing}");
    }
    let groups = bench.groups.iter();
    for group in groups.filter(|group| is_named(&arguments.groups, group.name)) {
        let mut results = Results::default();
        // First and once: memory that was used before is used again.
        if wanted("memory") {
            for way in &group.ways {
                if let Some(memory) = measurements::idle_memory(&bench, way) {
                    results.add(IDLE_MEMORY, way.name, memory);
                }
            }
        }
        for round in 0..=arguments.rounds {
            eprintln!("{}: round {round} of {}", group.name, arguments.rounds);
            take(&bench, group, &measurements, &mut |figure, way, value| {
                // A warm-up: buffers and caches fill, the scheduler settles.
                if round > 0 {
                    results.add(figure, way, value);
                }
            });
        }
        print_table(group, &measurements, &results);
    }
}

fn take(
    bench: &Bench,
    group: &Group,
    measurements: &[&Measurement],
    add: &mut dyn FnMut(&'static str, &'static str, f64),
) {
    for measurement in measurements {
        for (way, figures) in group
            .ways
            .iter()
            .zip((measurement.take)(bench, &group.ways))
        {
            assert_eq!(figures.len(), measurement.figures.len());
            for (figure, value) in measurement.figures.iter().zip(figures) {
                add(figure, way.name, value);
            }
        }
    }
}

fn print_table(group: &Group, measurements: &[&Measurement], results: &Results) {
    let ways: Vec<_> = group.ways.iter().map(|way: &Way| way.name).collect();
    let others: Vec<&str> = group
        .ways
        .iter()
        .filter(|way| !way.ours)
        .map(|way| way.name)
        .collect();
    println!("\n{}", table::head(&ways));
    let figures = measurements.iter().flat_map(|one| one.figures);
    for figure in figures.chain([&IDLE_MEMORY]) {
        let ratios = |way: &str| {
            let ours = group.ways.iter().find(|one| one.ours && one.name == way);
            let ours = ours
                .into_iter()
                .flat_map(|ours| others.iter().map(|other| (ours.name, *other)));
            ours.collect()
        };
        println!("{}", results.line(figure, &ways, ratios));
    }
    println!(
        "(×N): N times the figure of {}, median of the rounds",
        others.join(" and of ")
    );
}

fn is_named(parts: &[String], name: &str) -> bool {
    parts.is_empty() || parts.iter().any(|part| name.contains(part.as_str()))
}

struct Arguments {
    rounds: usize,
    only: Vec<String>,
    groups: Vec<String>,
    paths: Paths,
}

impl Arguments {
    /// `--name value` pairs; `cargo bench` adds a lone `--bench`.
    fn read() -> Self {
        let mut found: HashMap<String, String> = HashMap::new();
        let mut arguments = std::env::args().skip(1).filter(|name| name != "--bench");
        while let Some(name) = arguments.next() {
            let value = arguments.next().expect("each option has a value");
            found.insert(name, value);
        }
        let list = |value: Option<String>| -> Vec<String> {
            value.map_or_else(Vec::new, |value| {
                value.split(',').map(str::to_owned).collect()
            })
        };
        let program: PathBuf = found.remove("--program").expect("--program").into();
        let arguments = Self {
            rounds: found
                .remove("--rounds")
                .map_or(5, |rounds| rounds.parse().expect("a number of rounds")),
            only: list(found.remove("--only")),
            groups: list(found.remove("--groups")),
            paths: Paths {
                platform: found
                    .remove("--platform")
                    .map_or_else(|| program.clone(), Into::into),
                program,
                application: found.remove("--application").map(Into::into),
                nginx: found.remove("--nginx").expect("--nginx").into(),
                haproxy: found.remove("--haproxy").map(Into::into),
            },
        };
        assert!(found.is_empty(), "what is {:?}?", found.keys());
        arguments
    }
}
