//! Checks of the text of the repository.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::{links, workspace};

/// Marks of unfinished work and of one machine, written in two halves so that this file passes.
const UNWANTED: &[(&str, &str)] = &[
    (
        concat!("FIX", "ME"),
        "finish it or describe the limit in the documentation",
    ),
    (
        concat!("TO", "DO:"),
        "finish it or describe the limit in the documentation",
    ),
    (concat!("todo", "!("), "a stub"),
    (concat!("unimpl", "emented!("), "a stub"),
    (concat!("/ho", "me/"), "a path of one machine"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("/Use", "rs/"), "a path of one machine"),
    (concat!("<<<<", "<<< "), "a conflict marker"),
    (concat!(">>>>", ">>> "), "a conflict marker"),
];

/// Figurative words for which there is a standard term (docs/glossary.md), in two halves as above.
const FIGURATIVE: &[&str] = &[
    concat!("wi", "sh"),
    concat!("wi", "shes"),
    concat!("wi", "shed"),
    concat!("to", "ld"),
    concat!("bo", "rne"),
    concat!("an", "ew"),
    concat!("who", "ever"),
    concat!("some", "body"),
    concat!("fa", "res"),
    concat!("le", "ash"),
    concat!("tell", "ing"),
];

/// An attribute that allows unsafe code, in two halves as above, and the one file that may have it.
const UNSAFE: (&str, &str) = (concat!("(unsafe", "_code"), "crates/cloud-cli/src/heap.rs");

/// Maximum width of a line of comment, as of code, which rustfmt wraps.
const COMMENT_WIDTH: usize = 100;

/// Text of others that stays as it is.
const VERBATIM: &[&str] = &["LICENSE", "Cargo.lock", "snitun.json"];

/// Inputs for the fuzzer, not text even where they look like it.
const CORPUS: &str = "crates/snitun/tests/corpus";

pub(crate) fn run() -> Result<()> {
    let mut faults = Vec::new();
    let mut seen = 0;
    for file in workspace::tracked_files()? {
        if VERBATIM.iter().any(|name| file.ends_with(name)) || file.starts_with(CORPUS) {
            continue;
        }
        let path = workspace::root().join(&file);
        if !path.exists() {
            continue; // deleted, not yet committed
        }
        let bytes =
            fs::read(&path).with_context(|| format!("could not read {}", file.display()))?;
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        seen += 1;
        if file.extension().is_some_and(|extension| extension == "rs") {
            faults.extend(wide_comments(&text).map(|line| {
                format!(
                    "{}:{line}: a comment over {COMMENT_WIDTH} columns",
                    file.display()
                )
            }));
        }
        if file.extension().is_some_and(|extension| extension == "md") {
            let broken = links::broken(&path, &text).into_iter();
            faults.extend(broken.map(|fault| format!("{}: {fault}", file.display())));
        }
        for (number, line) in text.lines().enumerate() {
            let place = format!("{}:{}", file.display(), number + 1);
            for (mark, meaning) in UNWANTED {
                if line.contains(mark) {
                    faults.push(format!("{place}: `{mark}`: {meaning}"));
                }
            }
            if line.contains(UNSAFE.0) && !file.ends_with(UNSAFE.1) {
                faults.push(format!(
                    "{place}: unsafe code, which only {} may have",
                    UNSAFE.1
                ));
            }
            let mut words = line.split(|letter: char| !letter.is_ascii_alphabetic());
            if let Some(word) = words.find(|word| {
                FIGURATIVE
                    .iter()
                    .any(|figure| figure.eq_ignore_ascii_case(word))
            }) {
                faults.push(format!(
                    "{place}: `{word}`: use the field's term (docs/glossary.md)"
                ));
            }
            if line.ends_with([' ', '\t', '\r']) && !line.ends_with("  ") {
                faults.push(format!("{place}: white space at the end of the line"));
            }
        }
        if !text.is_empty() && !text.ends_with('\n') {
            faults.push(format!(
                "{}: no newline at the end of the file",
                file.display()
            ));
        }
    }
    if faults.is_empty() {
        println!("{seen} text files, nothing to mend");
        return Ok(());
    }
    bail!("in the tree's text:\n  {}", faults.join("\n  "))
}

/// Returns the numbers of the lines of prose in comments that are too wide. Tables and code in
/// documentation cannot be wrapped, nor can a link.
fn wide_comments(text: &str) -> impl Iterator<Item = usize> {
    let mut in_code = false;
    text.lines().zip(1..).filter_map(move |(line, number)| {
        let comment = line.trim_start().strip_prefix("//");
        let comment = comment.map(|comment| comment.trim_start_matches(['/', '!', ' ']));
        in_code = match comment {
            None => false,
            Some(comment) => in_code != comment.starts_with("```"),
        };
        let prose = comment.is_some_and(|comment| {
            !in_code && !comment.starts_with('|') && !comment.contains("://")
        });
        (prose && line.chars().count() > COMMENT_WIDTH).then_some(number)
    })
}

#[cfg(test)]
mod tests {
    use super::{COMMENT_WIDTH, wide_comments};

    #[test]
    fn wide_prose_is_found_but_no_table_code_or_link() {
        let prose = "word ".repeat(COMMENT_WIDTH / 5);
        let text = format!(
            "//! {prose}\n    // {prose}\n/// | {prose} |\n// https://{prose}\n/// ```\n/// {prose}\n\
             /// ```\n/// {prose}\nlet code = \"{prose}\";\n"
        );
        let found: Vec<usize> = wide_comments(&text).collect();
        assert_eq!(found, [1, 2, 8]);
    }
}
