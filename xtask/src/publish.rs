//! `publish`: whether the crates can be published, and what users of an older compiler or an older
//! version would notice. Uploads nothing: that is a person's decision.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::{DependencyKind, MetadataCommand, Package};

use crate::process::{cargo, output_of, run};
use crate::tools::{self, Tool};
use crate::workspace;

pub(crate) const ARGUMENTS: &str = "[--check | --allow-dirty]";

pub(crate) const DETAILS: &str = "\
Checks the manifests and the content of the packages, the minimum version of Rust, and the public
interface against the last tag; then packages all crates in the order of their dependencies and
builds each from its package. Uploads nothing.

  --check        omits what takes minutes: the interface and the builds
  --allow-dirty  accepts uncommitted changes";

/// Files that each package has, beside its sources.
const IN_EACH_PACKAGE: &[&str] = &["Cargo.toml", "LICENSE", "README.md", "src/lib.rs"];

/// Categories of crates.io that our crates use. The registry ignores one that it does not know.
const CATEGORIES: &[&str] = &[
    "api-bindings",
    "asynchronous",
    "command-line-utilities",
    "config",
    "cryptography",
    "development-tools::testing",
    "filesystem",
    "network-programming",
    "parser-implementations",
    "simulation",
    "web-programming::http-server",
];

/// Limits of crates.io.
const MAX_KEYWORDS: usize = 5;
const MAX_KEYWORD: usize = 20;

/// What precedes the minimum version of Rust in documents and scripts.
const IN_TEXT: &str = "Rust 1.";

const SEMVER_CHECKS: Tool = Tool {
    name: "cargo-semver-checks",
    version: "0.51.0",
    arguments: &[],
};

pub(crate) fn run_publish(arguments: &[String]) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments {
        [] => full(false),
        ["--allow-dirty"] => full(true),
        ["--check"] => check(),
        _ => bail!("`publish` takes {ARGUMENTS}, but was given {arguments:?}"),
    }
}

fn full(allow_dirty: bool) -> Result<()> {
    check()?;
    interface()?;
    dry_run(allow_dirty)
}

/// The manifests, the content of the packages, and the minimum version of Rust.
pub(crate) fn check() -> Result<()> {
    let metadata = workspace::metadata()?;
    let (published, unpublished): (Vec<&Package>, Vec<&Package>) = metadata
        .packages
        .iter()
        .partition(|package| package.publish.is_none());
    let names: BTreeSet<&str> = published
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let license = fs::read_to_string(workspace::root().join("LICENSE"))?;
    let mut faults = Vec::new();
    for package in &published {
        let mut found = manifest_faults(package, &names);
        found.extend(content_faults(package, &license)?);
        faults.extend(
            found
                .into_iter()
                .map(|fault| format!("{}: {fault}", package.name)),
        );
    }
    faults.extend(minimum_version_faults(&published)?);
    ensure!(
        faults.is_empty(),
        "the crates cannot be published:\n  {}",
        faults.join("\n  ")
    );
    let not: Vec<&str> = unpublished
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    println!(
        "{} crates can be published; `publish = false`: {}",
        published.len(),
        not.join(", ")
    );
    Ok(())
}

fn manifest_faults(package: &Package, published: &BTreeSet<&str>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut need = |holds: bool, fault: &str| {
        if !holds {
            faults.push(fault.to_owned());
        }
    };
    need(package.description.is_some(), "no `description`");
    need(package.license.is_some(), "no `license`");
    need(package.repository.is_some(), "no `repository`");
    need(package.rust_version.is_some(), "no `rust-version`");
    need(
        package.readme().is_some_and(|readme| readme.exists()),
        "no README.md",
    );
    let all_features = package.metadata.pointer("/docs/rs/all-features");
    let all_features = all_features.and_then(|value| value.as_bool());
    need(
        all_features == Some(true),
        "`[package.metadata.docs.rs]` has no `all-features = true`",
    );
    let count = package.keywords.len();
    need(
        (1..=MAX_KEYWORDS).contains(&count),
        "needs 1 to 5 `keywords`",
    );
    need(
        package.keywords.iter().all(|keyword| is_keyword(keyword)),
        "`keywords` have letters, digits, `-`, `_` and `+` only, 20 at most",
    );
    let known = |category: &String| CATEGORIES.contains(&category.as_str());
    need(
        !package.categories.is_empty() && package.categories.iter().all(known),
        "`categories` is empty, or has one that is not in xtask/src/publish.rs",
    );
    // Dev-dependencies without a version are left out of the published manifest.
    for dependency in &package.dependencies {
        if dependency.path.is_some() && dependency.kind != DependencyKind::Development {
            let name = dependency.name.as_str();
            need(
                published.contains(name) && dependency.req.to_string() != "*",
                &format!("depends on {name}, which is not published or has no version here"),
            );
        }
    }
    faults
}

fn is_keyword(keyword: &str) -> bool {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_+".contains(letter);
    keyword.len() <= MAX_KEYWORD
        && keyword.starts_with(|first: char| first.is_ascii_alphanumeric())
        && keyword.chars().all(allowed)
}

fn content_faults(package: &Package, license: &str) -> Result<Vec<String>> {
    let name = package.name.as_str();
    let list = output_of(cargo().args(["package", "--list", "--allow-dirty", "-p", name]))
        .with_context(|| format!("`cargo package --list -p {name}` failed"))?;
    let files: BTreeSet<&str> = list.lines().collect();
    let mut faults: Vec<String> = IN_EACH_PACKAGE
        .iter()
        .filter(|file| !files.contains(*file))
        .map(|file| format!("the package has no {file}"))
        .collect();
    let directory = package.manifest_path.parent().context("no directory")?;
    // A link to the file of the repository; the package gets its content.
    let own = fs::read_to_string(directory.join("LICENSE")).unwrap_or_default();
    if own != license {
        faults.push("LICENSE is not that of the repository".to_owned());
    }
    Ok(faults)
}

/// The minimum version of Rust: the same wherever it is stated, and enough for each dependency.
fn minimum_version_faults(published: &[&Package]) -> Result<Vec<String>> {
    let versions: BTreeSet<_> = published
        .iter()
        .filter_map(|package| package.rust_version.clone())
        .collect();
    let mut versions = versions.into_iter();
    let minimum = versions.next().context("no crate has a `rust-version`")?;
    let mut faults: Vec<String> = versions
        .map(|other| format!("`rust-version` is {minimum} and {other}"))
        .collect();

    let root = workspace::root();
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    if !manifest.contains("\nresolver = \"3\"\n") {
        faults.push("Cargo.toml: only resolver 3 selects dependencies by `rust-version`".into());
    }
    let stated = format!("{}.{}", minimum.major, minimum.minor);
    for file in workspace::tracked_files()? {
        if let Ok(text) = fs::read_to_string(root.join(&file)) {
            faults.extend(
                other_minimums(&file, &text, &stated)
                    .map(|other| format!("{}: says Rust {other}", file.display())),
            );
        }
    }

    let all = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .other_options(["--locked".to_owned()])
        .exec()
        .context("`cargo metadata` failed")?;
    for package in &all.packages {
        if let Some(needs) = package
            .rust_version
            .as_ref()
            .filter(|needs| **needs > minimum)
        {
            faults.push(format!(
                "{} {} needs Rust {needs}",
                package.name, package.version
            ));
        }
    }

    let compiler = output_of(Command::new("rustc").arg("--version")).unwrap_or_default();
    if compiler.starts_with(&format!("rustc {stated}.")) {
        println!("minimum version: all checks run with {stated} itself, the minimum");
    } else {
        println!(
            "!! NOT CHECKED with Rust {stated}, the minimum: this is {compiler}. `cargo +{stated} xtask test` does"
        );
    }
    Ok(faults)
}

/// Versions of Rust in a text that are not the minimum. What old code needed may stand in the
/// changelog.
fn other_minimums<'a>(
    file: &Path,
    text: &'a str,
    minimum: &'a str,
) -> impl Iterator<Item = String> + 'a {
    let exempt = file.ends_with("CHANGELOG.md") || file.ends_with("publish.rs");
    let parts = text
        .split(IN_TEXT)
        .skip(if exempt { usize::MAX } else { 1 });
    parts
        .filter_map(|rest| {
            let minor = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
            (!minor.is_empty()).then(|| format!("1.{minor}"))
        })
        .filter(move |version| version != minimum)
}

/// Breaking changes of the public interface since the last tag need another version.
fn interface() -> Result<()> {
    let tag = output_of(
        Command::new("git")
            .args(["describe", "--tags", "--abbrev=0", "--match", "v*"])
            .current_dir(workspace::root()),
    );
    let Some(tag) = tag else {
        println!("!! NOT CHECKED: the interface. There is no tag `v…` yet to compare it with");
        return Ok(());
    };
    let checks = tools::find_or_build(&SEMVER_CHECKS)?;
    run(Command::new(checks)
        .current_dir(workspace::root())
        .args(["semver-checks", "check-release", "--workspace"])
        .args(["--baseline-rev", &tag]))
    .with_context(|| format!("the interface differs from {tag} in more than the version allows"))
}

/// Packages all crates in the order of their dependencies, and builds each from its package.
pub(crate) fn dry_run(allow_dirty: bool) -> Result<()> {
    let mut command = cargo();
    command.args(["publish", "--workspace", "--dry-run", "--locked"]);
    if allow_dirty {
        command.arg("--allow-dirty");
    }
    run(&mut command)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{is_keyword, other_minimums};

    #[test]
    fn keywords_follow_the_rules_of_the_registry() {
        assert!(
            ["mqtt", "aws-iot", "x509", "c++"]
                .into_iter()
                .all(is_keyword)
        );
        for wrong in [
            "",
            "-mqtt",
            "two words",
            "a-keyword-of-21-bytes",
            "schlüssel",
        ] {
            assert!(!is_keyword(wrong), "{wrong}");
        }
    }

    #[test]
    fn other_minimum_versions_in_text_are_found() {
        let found = |file: &str| -> Vec<String> {
            let text = "Needs Rust 1.95 or newer. Rust 1.94.1 will do. Rust 1.x is a language.";
            other_minimums(Path::new(file), text, "1.95").collect()
        };
        assert_eq!(found("README.md"), ["1.94"]);
        assert_eq!(found("CHANGELOG.md"), [""; 0]);
    }
}
