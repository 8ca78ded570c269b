//! `release`: builds the release of a commit: an archive with the program, its manual and its
//! licence, packages for Debian and for RPM, and the packages of the library's crates.
//!
//! It publishes nothing and tags nothing: both are a person's decision, and the last lines say how.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::archive::{PROGRAM, copy, documents, empty_directory, ensure_stripped, generate, pack};
use crate::process::{cargo, find_program, output_of, run, run_within};
use crate::profile_guided::host_triple;
use crate::{profile_guided, publish, static_build, workspace};

pub(crate) const ARGUMENTS: &str = "[--static] [--profile NAME] [--allow-dirty]";

pub(crate) const DETAILS: &str = "\
The archive contains the program with manual, completions and licence, and is tested before it is
packed. The program is that of `cargo xtask program`, which needs nginx. Publishes nothing.

  --static        builds the static programs for x86_64 and aarch64, each in an archive, and the
                  add-on for Home Assistant with both, instead of the archive and the packages for
                  this machine. Needs rustup, and qemu-user-static to run the program of the other
                  architecture; installs Zig below the target directory
  --profile NAME  builds with this profile [default: dist]; another one is faster to build, and
                  without profile-guided optimization (see `cargo xtask program --help`)
  --allow-dirty   accepts uncommitted changes and a changelog without a section for the version";

/// What makes the packages of the distributions, as subcommands of cargo.
const PACKAGERS: &[&str] = &["cargo-deb", "cargo-generate-rpm"];

/// Where the packages' metadata (`crates/cloud-cli/Cargo.toml`) finds what the program prints.
const PACKAGING: &str = "target/packaging";

/// The demonstration takes under a second; this is for a machine that does something else as well.
const DEMO_LIMIT: Duration = Duration::from_secs(180);

pub(crate) fn run_release(arguments: &[String]) -> Result<()> {
    let (mut allow_dirty, mut is_static, mut profile) = (false, false, "dist");
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--allow-dirty" => allow_dirty = true,
            "--static" => is_static = true,
            "--profile" => profile = rest.next().context("`--profile` needs a value")?,
            other => bail!("`release` has no argument `{other}`; see `cargo xtask release --help`"),
        }
    }
    if !allow_dirty {
        tree_is_clean()?;
    }
    let version = version()?;
    if !allow_dirty {
        changelog_has_version(&version)?;
    }
    let dist = workspace::target_directory()?.join("dist");
    if is_static {
        let files = static_build::build(profile, &version, &dist)?;
        return checksums(&dist, &files);
    }
    packagers_are_there()?;
    let host = host_triple()?;
    let name = format!("{PROGRAM}-{version}-{host}");
    let stage = empty_directory(&dist.join(&name))?;
    let program = build(profile, &stage)?;
    generate(&program, &stage)?;
    documents(&stage)?;
    works(&program, &version)?;
    let archive = pack(&dist, &name)?;
    let mut files = vec![archive];
    files.extend(distribution_packages(&program, profile, &dist)?);
    publish::check()?;
    publish::dry_run(allow_dirty)?;
    checksums(&dist, &files)?;

    println!();
    for file in &files {
        println!("{}", file.display());
    }
    println!(
        "the crates' packages are in {}",
        dist.with_file_name("package").display()
    );
    println!(
        "next: `git tag v{version}`, push the tag, hand out archive and packages with SHA256SUMS, `cargo publish --workspace`"
    );
    Ok(())
}

/// What is handed out must be what is in the history.
fn tree_is_clean() -> Result<()> {
    let changes = output_of(
        Command::new("git")
            .args(["status", "--porcelain"])
            .current_dir(workspace::root()),
    )
    .context("`git status` failed: a release is made from a git clone")?;
    ensure!(
        changes.is_empty(),
        "not everything is committed; commit it, or try a release with `--allow-dirty`:\n{changes}"
    );
    Ok(())
}

fn version() -> Result<String> {
    let metadata = workspace::metadata()?;
    let package = metadata
        .packages
        .iter()
        .find(|package| package.name.as_str() == "cloud-cli")
        .context("there is no package `cloud-cli`")?;
    Ok(package.version.to_string())
}

/// The changelog has a section for the version, so that its users learn what they get.
fn changelog_has_version(version: &str) -> Result<()> {
    let path = workspace::root().join("CHANGELOG.md");
    let text =
        fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    ensure!(
        has_section(&text, version),
        "CHANGELOG.md has no section `## {version}`: give what stands under `## Unreleased` its version and date, \
         or try a release with `--allow-dirty`"
    );
    Ok(())
}

fn has_section(changelog: &str, version: &str) -> bool {
    changelog
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .any(|title| title.split_whitespace().next() == Some(version))
}

/// Builds the program and puts it into `stage`.
fn build(profile: &str, stage: &Path) -> Result<PathBuf> {
    // The directory of the profile `dist` happens to have the name of ours.
    let built = workspace::target_directory()?.join(profile).join(PROGRAM);
    if profile == profile_guided::PROFILE {
        let optimized = profile_guided::build(true)?;
        // The packagers look for it there, where a build without optimization by a profile may have
        // left a link to its own.
        if built.exists() {
            fs::remove_file(&built)?;
        }
        copy(&optimized, &built)?;
    } else {
        run(cargo().args(["build", "--locked", "--profile", profile, "-p", "cloud-cli"]))?;
        ensure_stripped(&built, profile)?;
    }
    let program = stage.join(PROGRAM);
    copy(&built, &program)?;
    let bytes = fs::metadata(&program)?.len();
    println!("{PROGRAM}: {:.1} MB", bytes as f64 / 1e6);
    Ok(program)
}

/// The very file that is handed out says its version and does the whole job once.
fn works(program: &Path, version: &str) -> Result<()> {
    let said = output_of(Command::new(program).arg("--version")).unwrap_or_default();
    ensure!(
        said.split_whitespace().any(|word| word == version),
        "the program says `{said}` and not version {version}"
    );
    run_within(
        Command::new(program).args(["demo", "--once"]),
        Some(DEMO_LIMIT),
    )
}

fn packagers_are_there() -> Result<()> {
    for packager in PACKAGERS {
        ensure!(
            find_program(packager).is_some(),
            "`{packager}` makes a package, but is not there: `cargo install {}`",
            PACKAGERS.join(" ")
        );
    }
    Ok(())
}

/// A package for Debian and one for RPM, both of the program that is handed out.
fn distribution_packages(program: &Path, profile: &str, dist: &Path) -> Result<Vec<PathBuf>> {
    let packaging = empty_directory(&workspace::root().join(PACKAGING))?;
    generate(program, &packaging)?;
    let output = empty_directory(&dist.join("packages"))?;
    // The program is built, and stripped by its profile.
    run(cargo()
        .args([
            "deb",
            "-p",
            "cloud-cli",
            "--profile",
            profile,
            "--no-build",
            "--no-strip",
            "--output",
        ])
        .arg(&output))?;
    run(cargo()
        .args([
            "generate-rpm",
            "-p",
            "crates/cloud-cli",
            "--profile",
            profile,
            "--output",
        ])
        .arg(&output))?;
    let mut packages = Vec::new();
    for entry in fs::read_dir(&output)? {
        packages.push(entry?.path());
    }
    ensure!(
        packages.len() == PACKAGERS.len(),
        "there are {} packages in {}",
        packages.len(),
        output.display()
    );
    packages.sort();
    Ok(packages)
}

/// Names are relative to `dist`, where the sums are.
fn checksums(dist: &Path, files: &[PathBuf]) -> Result<()> {
    let mut command = Command::new("sha256sum");
    for file in files {
        command.arg(file.strip_prefix(dist)?);
    }
    let sum = output_of(command.current_dir(dist)).context("`sha256sum` failed")?;
    println!("{sum}");
    fs::write(dist.join("SHA256SUMS"), sum + "\n").context("could not write SHA256SUMS")
}

#[cfg(test)]
mod tests {
    use super::has_section;

    #[test]
    fn section_is_found_by_complete_version() {
        let text = "# Changelog\n\n## Unreleased\n\n## 0.2.0 - 2026-12-01\n\n### Added\n";
        assert!(has_section(text, "0.2.0"));
        assert!(!has_section(text, "0.2"));
        assert!(!has_section(text, "0.1.0"));
    }
}
