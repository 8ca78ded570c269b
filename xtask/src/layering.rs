//! Which crate may depend on which (docs/architecture.md).
//!
//! Edges and crates that are not in the table below fail the check. The leaf crates are the
//! exception: every other crate may use them. The check reads declared dependencies, not the
//! resolved graph: optional and target-specific edges count too.

use anyhow::{Result, bail};
use cargo_metadata::DependencyKind;

use crate::workspace;

/// One crate: what it may use, and what its tests and examples may use on top.
struct Layer {
    name: &'static str,
    uses: &'static [Edge],
    tests_use: &'static [Edge],
}

/// A dependency and the features of it that may be switched on.
struct Edge(&'static str, &'static [&'static str]);

const LAYERS: &[Layer] = &[
    independent("cloud-config"),
    independent("cloud-provision"),
    independent("cloud-iot"),
    independent("cloud-shadow"),
    independent("snitun"),
    independent("cloud-net"),
    independent("cloud-pki"),
    independent(TESTKIT),
    Layer {
        name: "cloud-remote",
        uses: &[Edge("snitun", &["client"])],
        // Its tests run against the real relay.
        tests_use: &[Edge("snitun", &["server"])],
    },
    Layer {
        name: "cloud-facade",
        uses: &[
            Edge("cloud-config", &[]),
            Edge("cloud-provision", &[]),
            Edge("cloud-iot", &[]),
            Edge("cloud-shadow", &[]),
            Edge("cloud-remote", &[]),
        ],
        // Its examples bring their own cloud, so that they run by themselves.
        tests_use: &[Edge("cloud-sim", &[])],
    },
    Layer {
        name: "cloud-sim",
        uses: &[Edge("snitun", &["server"])],
        tests_use: &[Edge("snitun", &["client"])],
    },
    Layer {
        name: "cloud-cli",
        uses: &[
            Edge("cloud-facade", &["csr", "durable", "metrics"]),
            Edge("cloud-sim", &[]),
        ],
        tests_use: &[],
    },
    independent("xtask"),
];

/// Depend on no other crate of ours, and any of them may depend on these.
const LEAVES: [&str; 2] = ["cloud-net", "cloud-pki"];

/// What tests share: every crate may use it as a dev-dependency.
const TESTKIT: &str = "testkit";

/// Sees every crate: it tests them together, and is never published or depended on.
const ABOVE_ALL: &str = "integration-tests";

const fn independent(name: &'static str) -> Layer {
    Layer {
        name,
        uses: &[],
        tests_use: &[],
    }
}

pub(crate) fn run() -> Result<()> {
    let metadata = workspace::metadata()?;
    let members: Vec<&str> = metadata
        .packages
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let mut faults = Vec::new();
    let mut edges = 0;

    for package in &metadata.packages {
        let name = package.name.as_str();
        if name == ABOVE_ALL {
            continue;
        }
        let Some(layer) = LAYERS.iter().find(|layer| layer.name == name) else {
            faults.push(format!(
                "{name}: not in the table; decide what it may depend on"
            ));
            continue;
        };
        for dependency in &package.dependencies {
            if !members.contains(&dependency.name.as_str()) {
                continue;
            }
            edges += 1;
            if LEAVES.contains(&dependency.name.as_str()) && !LEAVES.contains(&name) {
                continue;
            }
            let in_tests = dependency.kind == DependencyKind::Development;
            if in_tests && dependency.name == TESTKIT {
                continue;
            }
            let allowed: Vec<&Edge> = layer
                .uses
                .iter()
                .chain(if in_tests { layer.tests_use } else { &[] })
                .filter(|Edge(to, _)| *to == dependency.name)
                .collect();
            if allowed.is_empty() {
                let kind = if in_tests { " (dev-dependency)" } else { "" };
                faults.push(format!("{name} -> {}{kind}", dependency.name));
                continue;
            }
            for feature in &dependency.features {
                if !allowed
                    .iter()
                    .any(|Edge(_, features)| features.contains(&feature.as_str()))
                {
                    faults.push(format!(
                        "{name} -> {} with feature `{feature}`",
                        dependency.name
                    ));
                }
            }
        }
    }

    if faults.is_empty() {
        println!(
            "{edges} edges between {} crates, all of them allowed",
            members.len()
        );
        return Ok(());
    }
    bail!(
        "not allowed by xtask/src/layering.rs:\n  {}\nLet the caller pass data or implement a trait of the crate it uses (docs/architecture.md)",
        faults.join("\n  ")
    )
}
