//! The tests that docs/architecture.md names for each invariant are there, under these names and
//! where it says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// Invariants that have to have tests.
const INVARIANTS: usize = 11;

/// All text of the Rust files below a directory.
fn sources(directory: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("cannot look into {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            text += &sources(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &std::fs::read_to_string(&path)?;
        }
    }
    Ok(text)
}

#[test]
fn documented_tests_of_invariants_exist() -> anyhow::Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let document = std::fs::read_to_string(root.join("docs/architecture.md"))?;
    let (_, section) = document
        .split_once("### What shows them")
        .context("no such section")?;
    let mut shown = BTreeSet::new();
    for row in section.lines() {
        let Some((number, cell)) = row
            .strip_prefix("| ")
            .and_then(|row| row.split_once(" | "))
            .and_then(|(number, cell)| Some((number.parse::<usize>().ok()?, cell)))
        else {
            continue;
        };
        // "`one` and `another` in a/directory, `third` in another/one"
        for group in cell.split(" in ").zip(cell.split(" in ").skip(1)) {
            let (names, rest) = group;
            let directory = rest.split([',', ';', ' ']).next().unwrap_or_default();
            let sources = sources(&root.join(directory))?;
            for name in names.split('`').skip(1).step_by(2) {
                ensure!(
                    sources.contains(&format!("fn {name}(")),
                    "invariant {number}: there is no {name} in {directory}"
                );
                shown.insert(number);
            }
        }
    }
    ensure!(
        shown == (1..=INVARIANTS).collect(),
        "there are tests for {shown:?} only"
    );
    Ok(())
}
