//! `docs`: the book of `docs/`, and the documentation of the crates; broken links fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::process::run;
use crate::tools::{self, Tool};
use crate::{check, links, workspace};

pub(crate) const ARGUMENTS: &str = "[--book]";

pub(crate) const DETAILS: &str = "\
The book of docs/ is built by mdBook into target/book, the documentation of the crates by rustdoc
into target/doc. Links in both are checked. Builds mdBook under the target directory if it is not
installed.

  --book  builds only the book";

/// Without its web server and its file watcher, which `mdbook serve` needs, and not optimized: that
/// would double the time of its build.
const MDBOOK: Tool = Tool {
    name: "mdbook",
    version: "0.5.4",
    arguments: &[
        "--debug",
        "--config",
        "profile.dev.debug=0",
        "--no-default-features",
        "--features",
        "search",
    ],
};

/// Pages of mdBook whose links are those of other pages, or relative to another place.
const REPEATED: &[&str] = &["print.html", "404.html"];

pub(crate) fn run_docs(arguments: &[String]) -> Result<()> {
    match arguments {
        [] => {
            check::docs()?;
            book()
        }
        [flag] if flag == "--book" => book(),
        other => bail!("`docs` takes {ARGUMENTS}, but was given {other:?}"),
    }
}

/// Builds the book and checks its links.
pub(crate) fn book() -> Result<()> {
    all_pages_are_listed()?;
    let output = workspace::target_directory()?.join("book");
    let mdbook = tools::find_or_build(&MDBOOK)?;
    run(Command::new(mdbook)
        .arg("build")
        .arg(workspace::root())
        .arg("--dest-dir")
        .arg(&output))?;
    let count = check_links(&output)?;
    println!("{count} links of the book lead somewhere");
    println!("the book is in {}", output.join("index.html").display());
    Ok(())
}

/// mdBook leaves out a page that SUMMARY.md does not name.
fn all_pages_are_listed() -> Result<()> {
    let summary = fs::read_to_string(workspace::root().join("docs/SUMMARY.md"))?;
    let missing: Vec<String> = workspace::tracked_files()?
        .into_iter()
        .filter_map(|file| Some(file.strip_prefix("docs").ok()?.to_owned()))
        .filter(|page| page.extension().is_some_and(|extension| extension == "md"))
        .map(|page| page.display().to_string())
        .filter(|page| page != "SUMMARY.md" && !summary.contains(&format!("({page})")))
        .collect();
    ensure!(
        missing.is_empty(),
        "docs/SUMMARY.md does not name {}",
        missing.join(", ")
    );
    Ok(())
}

/// Checks that each link of each page leads to a file of the book and to a place in it. Links to
/// other sites are not followed.
fn check_links(book: &Path) -> Result<usize> {
    let mut pages = BTreeMap::new();
    read_pages(book, &mut pages)?;
    let places: BTreeMap<&Path, BTreeSet<String>> = pages
        .iter()
        .map(|(page, text)| (page.as_path(), attributes(text, "id").collect()))
        .collect();
    let mut faults = Vec::new();
    let mut count = 0;
    for (page, text) in &pages {
        if REPEATED.iter().any(|name| page.ends_with(name)) {
            continue;
        }
        for link in attributes(text, "href").chain(attributes(text, "src")) {
            count += 1;
            let fault = match links::Target::parse(&link) {
                links::Target::OtherSite => None,
                links::Target::OfRepository(path) => links::missing_in_repository(path),
                links::Target::Relative { path, fragment } => {
                    let file = if path.is_empty() {
                        page.clone()
                    } else {
                        normalized(&page.with_file_name(&path))
                    };
                    match places.get(file.as_path()) {
                        Some(places) if fragment.is_empty() || places.contains(&fragment) => None,
                        Some(_) => Some(format!("no place `{fragment}`")),
                        None if file.is_file() => None,
                        None => Some("no such file in the book".to_owned()),
                    }
                }
            };
            if let Some(fault) = fault {
                let page = page.strip_prefix(book).unwrap_or(page);
                faults.push(format!("{}: `{link}`: {fault}", page.display()));
            }
        }
    }
    ensure!(
        faults.is_empty(),
        "broken links in the book:\n  {}",
        faults.join("\n  ")
    );
    ensure!(count > 0, "found no links in {}", book.display());
    Ok(count)
}

fn read_pages(directory: &Path, pages: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    let entries = fs::read_dir(directory)
        .with_context(|| format!("could not look into {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            read_pages(&path, pages)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "html")
        {
            let text = fs::read_to_string(&path)?;
            pages.insert(path, text);
        }
    }
    Ok(())
}

/// The values of an attribute in HTML, in which mdBook quotes all values.
fn attributes<'a>(html: &'a str, name: &str) -> impl Iterator<Item = String> + 'a {
    let start = format!(" {name}=\"");
    let mut rest = html;
    std::iter::from_fn(move || {
        let (_, value) = rest.split_once(&start)?;
        let (value, after) = value.split_once('"')?;
        rest = after;
        Some(value.replace("&amp;", "&"))
    })
}

/// The path without `.` and `..`.
fn normalized(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                result.pop();
            }
            other => result.push(other),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::check_links;

    #[test]
    fn broken_links_of_a_book_are_named() {
        let book = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(book.path().join(name), text).unwrap();
        fs::create_dir(book.path().join("sub")).unwrap();
        write(
            "index.html",
            r##"<a href="sub/a.html#x"></a><a href="#top"></a><p id="top"></p>"##,
        );
        write(
            "sub/a.html",
            r#"<p id="x"></p><img src="../picture.png"><a href="https://example.com/x">"#,
        );
        write("picture.png", "");
        assert_eq!(check_links(book.path()).unwrap(), 4);

        write(
            "index.html",
            r#"<a href="sub/a.html#y"></a><a href="b.html"></a>"#,
        );
        let message = check_links(book.path()).unwrap_err().to_string();
        assert!(
            message.contains("index.html: `sub/a.html#y`: no place `y`"),
            "{message}"
        );
        assert!(
            message.contains("index.html: `b.html`: no such file"),
            "{message}"
        );
        assert_eq!(message.lines().count(), 3, "{message}");
    }
}
