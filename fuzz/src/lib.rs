//! The fuzz targets. What they do is in `crates/snitun/tests/support/fuzzing.rs`, where a plain `cargo test` replays the corpus.

#[path = "../../crates/snitun/tests/support/choices.rs"]
mod choices;
#[path = "../../crates/snitun/tests/support/fuzzing.rs"]
mod fuzzing;
#[path = "../../crates/snitun/tests/support/model.rs"]
mod model;
#[path = "../../crates/snitun/tests/support/pair.rs"]
mod pair;

/// Feeds `data` to the target of that name.
///
/// # Panics
/// When the target finds something, and when there is none of that name.
pub fn run(name: &str, data: &[u8]) {
    let found = fuzzing::TARGETS.iter().find(|(target, _)| *target == name);
    let (_, target) = found.expect("a target of that name");
    target(data);
}
