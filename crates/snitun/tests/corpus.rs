//! Replays the fuzzing corpus, one directory for each target of `fuzz/`. This is a separate program
//! because the published package contains neither the corpus nor this test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "it/support/choices.rs"]
mod choices;
#[path = "it/support/fuzzing.rs"]
mod fuzzing;
#[path = "it/support/model.rs"]
mod model;
#[path = "it/support/pair.rs"]
mod pair;

use std::path::Path;

#[test]
fn corpus_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    for (name, target) in fuzzing::TARGETS {
        let mut inputs: Vec<_> = corpus
            .join(name)
            .read_dir()
            .unwrap_or_else(|error| panic!("no corpus for {name}: {error}"))
            .map(|entry| entry.unwrap().path())
            .collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "the corpus of {name} is empty");
        for input in inputs {
            // Shown when the input fails.
            println!("{}", input.display());
            target(&std::fs::read(&input).unwrap());
        }
    }
}

/// A target without a program is never fuzzed; a program without a target fails when it runs.
#[test]
fn every_target_has_a_fuzz_program() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/Cargo.toml");
    let manifest = std::fs::read_to_string(manifest).unwrap();
    let mut programs: Vec<_> = manifest
        .split("[[bin]]")
        .skip(1)
        .map(|program| program.split('"').nth(1).expect("a name first"))
        .collect();
    let mut targets: Vec<_> = fuzzing::TARGETS.iter().map(|(name, _)| *name).collect();
    programs.sort_unstable();
    targets.sort_unstable();
    assert_eq!(programs, targets);
}

/// Each target also runs on random bytes.
#[test]
fn random_inputs_pass() {
    use rand::{Rng, RngExt, SeedableRng};
    let mut random = rand::rngs::StdRng::seed_from_u64(1);
    for (name, target) in fuzzing::TARGETS {
        for round in 0..50 {
            println!("{name} {round}");
            let mut input = vec![0; random.random_range(0..3000)];
            random.fill_bytes(&mut input);
            target(&input);
        }
    }
}
