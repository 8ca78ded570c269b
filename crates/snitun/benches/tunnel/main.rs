//! The tunnel against its peers: the same TLS traffic through several ways to reach a service, in turns within one run.
//!
//! ```text
//! cargo xtask bench tunnel [--rounds N] [--only MEASURE,…] [--ways WAY,…]
//! ```
//!
//! builds or looks for the programs below and starts this. A client of ours (rustls) speaks TLS with nginx directly, which shows
//! what the machine, client and nginx come to by themselves, and through each of: two HAProxy hops, rathole, our `relay` and
//! `forward` examples, the Python package at both ends, and the two mixtures of ours with the Python package. Each measure is
//! taken of each way in turn, as many rounds as asked for; medians are printed, and of the ratios the median over the rounds.
//! Only ratios mean anything: the machine is what it is. A way whose program is missing is named and left out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot be made ends the program"
)]

mod client;
mod measures;
mod ways;

use std::collections::HashMap;

use measures::{MEASURES, Measure, Take};
use ways::{Programs, Way};

fn main() {
    let arguments = Arguments::read();
    let bench = ways::start(&arguments.programs);
    let ways: Vec<&Way> = bench
        .ways
        .iter()
        .filter(|way| is_wanted(&arguments.ways, way.name))
        .collect();
    let measures: Vec<&Measure> = MEASURES
        .iter()
        .filter(|measure| is_wanted(&arguments.only, measure.name))
        .collect();
    let names = bench.ways.iter().map(|way| way.name);
    assert!(!ways.is_empty(), "--ways: {:?}", names.collect::<Vec<_>>());
    let names = MEASURES.iter().map(|measure| measure.name);
    assert!(
        !measures.is_empty(),
        "--only: {:?}",
        names.collect::<Vec<_>>()
    );
    for missing in &bench.missing {
        println!("not measured: {missing}");
    }
    // One round that does not count: buffers and caches fill, the scheduler settles.
    for way in &ways {
        (measures::WARM_UP)(&bench.client, way);
    }
    let mut results: HashMap<(&str, &str), Vec<f64>> = HashMap::new();
    for round in 1..=arguments.rounds {
        eprintln!("round {round} of {}", arguments.rounds);
        for measure in &measures {
            let taken = match measure.take {
                Take::Each(take) => ways.iter().map(|way| take(&bench.client, way)).collect(),
                Take::Together(take) => take(&bench.client, &ways),
            };
            for (way, figures) in ways.iter().zip(taken) {
                assert_eq!(figures.len(), measure.figures.len());
                for (figure, value) in measure.figures.iter().zip(figures) {
                    results.entry((figure, way.name)).or_default().push(value);
                }
            }
        }
    }
    print_table(&measures, &ways, &results);
}

/// Medians of every way, and below each the ratio of ours to it.
fn print_table(measures: &[&Measure], ways: &[&Way], results: &HashMap<(&str, &str), Vec<f64>>) {
    print!("| measure |");
    ways.iter().for_each(|way| print!(" {} |", way.name));
    print!("\n|---|");
    ways.iter().for_each(|_| print!("---|"));
    println!();
    for figure in measures.iter().flat_map(|measure| measure.figures) {
        print!("| {figure} |");
        for way in ways {
            let values = &results[&(*figure, way.name)];
            print!(" {}", short(median(values.clone())));
            if way.name != ways::OURS
                && let Some(ours) = results.get(&(*figure, ways::OURS))
            {
                let ratios = ours.iter().zip(values).map(|(ours, other)| ours / other);
                let ratio = median(ratios.collect());
                if !ratio.is_nan() {
                    print!(" (×{ratio:.2})");
                }
            }
            print!(" |");
        }
        println!();
    }
    println!(
        "\n(×N): {} is N times that figure, median of the rounds",
        ways::OURS
    );
}

fn short(value: f64) -> String {
    if value.is_nan() {
        return "–".to_owned();
    }
    let digits = match value.abs() {
        0.0..1.0 => 4,
        1.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

fn is_wanted(wanted: &[String], name: &str) -> bool {
    wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()))
}

struct Arguments {
    rounds: usize,
    only: Vec<String>,
    ways: Vec<String>,
    programs: Programs,
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
            ways: list(found.remove("--ways")),
            programs: Programs {
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
            },
        };
        assert!(found.is_empty(), "what is {:?}?", found.keys());
        arguments
    }
}
