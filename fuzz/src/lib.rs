//! The fuzz targets. Their code is in `crates/snitun/tests/it/support/fuzzing.rs`, where `cargo
//! test` replays the corpus.

#[path = "../../crates/snitun/tests/it/support/choices.rs"]
mod choices;
#[path = "../../crates/snitun/tests/it/support/fuzzing.rs"]
mod fuzzing;
#[path = "../../crates/snitun/tests/it/support/model.rs"]
mod model;
#[path = "../../crates/snitun/tests/it/support/pair.rs"]
mod pair;

/// Runs the target with this name on `data`.
///
/// # Panics
/// If the target finds a bug, or no target has this name.
pub fn run(name: &str, data: &[u8]) {
    let found = fuzzing::TARGETS.iter().find(|(target, _)| *target == name);
    let (_, target) = found.expect("a target of that name");
    target(data);
}
