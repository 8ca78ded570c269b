//! Replays the inputs that the fuzzer has found worth keeping, one directory for each target of `fuzz/`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/choices.rs"]
mod choices;
#[path = "support/fuzzing.rs"]
mod fuzzing;
#[path = "support/model.rs"]
mod model;
#[path = "support/pair.rs"]
mod pair;

use std::path::Path;

#[test]
fn the_corpus_holds() {
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

/// Inputs that no fuzzer had time for: each target takes random bytes, too.
#[test]
fn random_bytes_hold() {
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
