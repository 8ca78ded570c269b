//! Links in documents: each one within the repository leads to a file, and to a heading of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::workspace;

/// Where documents that are read elsewhere (crates.io, docs.rs, the book) link to the repository.
const REPOSITORY: &str = "https://github.com/clesyde/clesyde-cloud-rs/blob/main/";

/// What a link leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    OtherSite,
    /// A file of the repository by its public address, maybe with a fragment.
    OfRepository(&'a str),
    Relative {
        path: String,
        fragment: String,
    },
}

impl<'a> Target<'a> {
    pub(crate) fn parse(link: &'a str) -> Self {
        if let Some(path) = link.strip_prefix(REPOSITORY) {
            return Self::OfRepository(path);
        }
        let scheme = link.split(['/', '#', '?']).next().unwrap_or_default();
        if scheme.contains(':') || link.starts_with("//") {
            return Self::OtherSite;
        }
        let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
        let path = path.split('?').next().unwrap_or_default();
        Self::Relative {
            path: path.to_owned(),
            fragment: fragment.to_owned(),
        }
    }
}

/// Says what is missing if the repository has no such file or heading.
pub(crate) fn missing_in_repository(link: &str) -> Option<String> {
    let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
    missing(&workspace::root().join(path), fragment)
}

/// The broken links of a Markdown document.
pub(crate) fn broken(document: &Path, text: &str) -> Vec<String> {
    let directory = document.parent().unwrap_or(document);
    links(text)
        .into_iter()
        .filter_map(|link| {
            let fault = match Target::parse(link) {
                Target::OtherSite => None,
                Target::OfRepository(path) => missing_in_repository(path),
                Target::Relative { path, fragment } if path.is_empty() => {
                    missing(document, &fragment)
                }
                Target::Relative { path, fragment } => missing(&directory.join(path), &fragment),
            };
            Some(format!("`{link}`: {}", fault?))
        })
        .collect()
}

fn missing(file: &Path, fragment: &str) -> Option<String> {
    if !file.exists() {
        return Some("no such file".to_owned());
    }
    let is_markdown = file.extension().is_some_and(|extension| extension == "md");
    if fragment.is_empty() || !is_markdown {
        return None;
    }
    let text = fs::read_to_string(file).unwrap_or_default();
    (!anchors(&text).iter().any(|anchor| anchor == fragment))
        .then(|| format!("no heading `{fragment}`"))
}

/// The text without its fenced blocks of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    })
}

/// The targets of the links `[text](target)`.
fn links(text: &str) -> Vec<&str> {
    prose(text)
        .flat_map(|line| line.split("](").skip(1))
        .filter_map(|rest| rest.split([')', ' ']).next())
        .collect()
}

/// The anchors of the headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> Vec<String> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    prose(text)
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let anchor: String = title
                .chars()
                .filter(|&letter| letter.is_alphanumeric() || " -_".contains(letter))
                .map(|letter| if letter == ' ' { '-' } else { letter })
                .collect();
            let count = seen.entry(anchor.clone()).or_default();
            *count += 1;
            match *count {
                1 => anchor,
                more => format!("{anchor}-{}", more - 1),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Target, anchors, broken};
    use crate::workspace;

    #[test]
    fn broken_links_of_a_document_are_named() {
        let document = workspace::root().join("docs/glossary.md");
        let text = "[a](protocol.md#on-disk) [b](#glossary) [c](https://example.com/x.md)\n\
            ```sh\n[d](nothing.md)\n```\n[e](nothing.md), [f](protocol.md#nowhere)\n\
            [g](https://github.com/clesyde/clesyde-cloud-rs/blob/main/nothing.md)";
        assert_eq!(
            broken(&document, text),
            [
                "`nothing.md`: no such file",
                "`protocol.md#nowhere`: no heading `nowhere`",
                "`https://github.com/clesyde/clesyde-cloud-rs/blob/main/nothing.md`: no such file",
            ]
        );
    }

    #[test]
    fn anchors_are_those_of_the_headings() {
        let text = "# The `run` command, and more\n## A\n## A\n```\n# no heading\n```\n";
        assert_eq!(anchors(text), ["the-run-command-and-more", "a", "a-1"]);
    }

    #[test]
    fn only_relative_links_are_files_beside_the_document() {
        let relative = Target::Relative {
            path: "a/b.md".to_owned(),
            fragment: "c".to_owned(),
        };
        assert_eq!(Target::parse("a/b.md#c"), relative);
        for other in [
            "https://example.com",
            "mailto:a@example.com",
            "//example.com/x",
        ] {
            assert_eq!(Target::parse(other), Target::OtherSite, "{other}");
        }
    }
}
