//! Compares the tunnel with other programs: the same TLS traffic through several routes to a
//! service, alternating within one run.
//!
//! ```text
//! cargo xtask bench tunnel [--rounds N] [--only MEASURE,…] [--ways WAY,…]
//! ```
//!
//! builds or finds the programs below and starts this benchmark. A client (rustls) speaks TLS with
//! nginx directly, which shows the limits of the machine, the client and nginx, and through each
//! of: two HAProxy hops, rathole, our `relay` and `forward` examples, the Python package at both
//! ends, and the two combinations of ours with the Python package. Each round takes each
//! measurement of each route in turn; the output contains medians, and for ratios the median over
//! the rounds. Only ratios are meaningful across machines. A route whose program is missing is
//! reported and skipped.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot be made ends the program"
)]

mod measurements;
mod reader;
mod routes;

use std::collections::HashMap;

use measurements::{MEASUREMENTS, Measurement, Method};
use routes::{Paths, Route};
use testkit::load::table::{self, Results};

fn main() {
    let arguments = Arguments::read();
    let bench = routes::start(&arguments.programs);
    let routes: Vec<&Route> = bench
        .routes
        .iter()
        .filter(|route| is_wanted(&arguments.routes, route.name))
        .collect();
    let measurements: Vec<&Measurement> = MEASUREMENTS
        .iter()
        .filter(|measurement| is_wanted(&arguments.only, measurement.name))
        .collect();
    let names = bench.routes.iter().map(|route| route.name);
    assert!(
        !routes.is_empty(),
        "--ways: {:?}",
        names.collect::<Vec<_>>()
    );
    let names = MEASUREMENTS.iter().map(|measurement| measurement.name);
    assert!(
        !measurements.is_empty(),
        "--only: {:?}",
        names.collect::<Vec<_>>()
    );
    for missing in &bench.missing {
        println!("not measured: {missing}");
    }
    // A warm-up round: buffers and caches fill, the scheduler settles.
    for route in &routes {
        (measurements::WARM_UP)(&bench.client, route);
    }
    let mut results = Results::default();
    for round in 1..=arguments.rounds {
        eprintln!("round {round} of {}", arguments.rounds);
        for measurement in &measurements {
            let taken = match measurement.method {
                Method::Each(take) => routes
                    .iter()
                    .map(|route| take(&bench.client, route))
                    .collect(),
                Method::Together(take) => take(&bench.client, &routes),
            };
            for (route, figures) in routes.iter().zip(taken) {
                assert_eq!(figures.len(), measurement.figures.len());
                for (figure, value) in measurement.figures.iter().zip(figures) {
                    results.add(figure, route.name, value);
                }
            }
        }
    }
    print_table(&measurements, &routes, &results);
}

/// Prints the medians of every route, and beside each the ratio of ours to it.
fn print_table(measurements: &[&Measurement], routes: &[&Route], results: &Results) {
    let ways: Vec<_> = routes.iter().map(|route| route.name).collect();
    println!("{}", table::head(&ways));
    for measurement in measurements {
        for figure in measurement.figures {
            let ratios = |way: &str| match ways.iter().find(|name| **name == way) {
                Some(way) if *way != routes::OURS => vec![(routes::OURS, *way)],
                _ => Vec::new(),
            };
            println!("{}", results.line(figure, &ways, ratios));
        }
    }
    println!(
        "\n(×N): {} is N times that figure, median of the rounds",
        routes::OURS
    );
}

fn is_wanted(wanted: &[String], name: &str) -> bool {
    wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()))
}

struct Arguments {
    rounds: usize,
    only: Vec<String>,
    routes: Vec<String>,
    programs: Paths,
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
        let arguments = Self {
            rounds: found
                .remove("--rounds")
                .map_or(5, |rounds| rounds.parse().expect("a number of rounds")),
            only: list(found.remove("--only")),
            routes: list(found.remove("--ways")),
            programs: Paths {
                version: found
                    .remove("--protocol-version")
                    .unwrap_or_else(|| "2".to_owned()),
                relay: found.remove("--relay").expect("--relay").into(),
                forward: found.remove("--forward").expect("--forward").into(),
                nginx: found.remove("--nginx").expect("--nginx").into(),
                haproxy: found.remove("--haproxy").map(Into::into),
                rathole: found.remove("--rathole").map(Into::into),
                python: found.remove("--python").map(Into::into),
                scripts: found.remove("--scripts").map(Into::into),
                reader: found.remove("--reader").map(Into::into),
            },
        };
        assert!(found.is_empty(), "what is {:?}?", found.keys());
        arguments
    }
}
