//! What goes into an archive that `release` hands out, and how it is packed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::{output_of, run};
use crate::workspace;

/// The program's file name.
pub(crate) const PROGRAM: &str = "clesyde-cloud";

/// Shells whose completion scripts go into the archive.
const SHELLS: &[&str] = &["bash", "zsh", "fish"];

/// Files of the tree that go into the archive as they are.
const DOCUMENTS: &[&str] = &[
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "docs/systemd/clesyde-cloud.service",
    "docs/systemd/clesyde-cloud.default",
];

/// Makes this directory, and empties it if it exists.
pub(crate) fn empty_directory(path: &Path) -> Result<PathBuf> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("could not clear {}", path.display()))?;
    }
    fs::create_dir_all(path).with_context(|| format!("could not make {}", path.display()))?;
    Ok(path.to_owned())
}

/// Copies the documents of an archive.
pub(crate) fn documents(stage: &Path) -> Result<()> {
    for document in DOCUMENTS {
        let from = workspace::root().join(document);
        let name = from.file_name().context("a document has no name")?;
        copy(&from, &stage.join(name))?;
    }
    Ok(())
}

/// The manual, the completion scripts and the default configuration, as the program itself prints
/// them.
pub(crate) fn generate(program: &Path, stage: &Path) -> Result<()> {
    let print = |arguments: &[&str], file: &str| -> Result<()> {
        let text = output_of(Command::new(program).args(arguments))
            .with_context(|| format!("`{PROGRAM} {}` failed", arguments.join(" ")))?;
        let path = stage.join(file);
        fs::write(&path, text + "\n").with_context(|| format!("could not write {}", path.display()))
    };
    let manual = stage.join("man");
    fs::create_dir_all(&manual).with_context(|| format!("could not make {}", manual.display()))?;
    run(Command::new(program).args(["man", "--all"]).arg(&manual))?;
    print(&["config", "template"], &format!("{PROGRAM}.toml"))?;
    SHELLS
        .iter()
        .try_for_each(|shell| print(&["completions", shell], &format!("{PROGRAM}.{shell}")))
}

/// An archive whose bytes depend on its content alone.
pub(crate) fn pack(dist: &Path, name: &str) -> Result<PathBuf> {
    let archive = dist.join(format!("{name}.tar.gz"));
    let date = output_of(
        Command::new("git")
            .args(["log", "-1", "--format=%ct"])
            .current_dir(workspace::root()),
    )
    .context("`git log` failed")?;
    run(Command::new("tar")
        .current_dir(dist)
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
        .arg(format!("--mtime=@{date}"))
        .args(["--use-compress-program=gzip -n9", "-cf"])
        .arg(&archive)
        .arg(name))?;
    Ok(archive)
}

pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("could not copy {} to {}", from.display(), to.display()))
}

/// Checks that a program has no symbol table, which is a fifth of it. The profile `dev` keeps it.
pub(crate) fn ensure_stripped(program: &Path, profile: &str) -> Result<()> {
    ensure!(
        profile == "dev" || !has_symbols(&fs::read(program)?),
        "{} is not stripped: cargo ignores `strip` for a package that [profile.{profile}.package] names",
        program.display()
    );
    Ok(())
}

/// Returns whether an ELF program has a symbol table for debuggers: its section has this name, and
/// nothing else in the program does.
fn has_symbols(program: &[u8]) -> bool {
    // Put together here, so that a program with this function is not taken for one with symbols.
    let name = [&b"\0.sym"[..], b"tab\0"].concat();
    program.windows(name.len()).any(|window| window == name)
}

#[cfg(test)]
mod tests {
    use super::has_symbols;

    #[test]
    fn symbols_are_found_in_a_program_with_them() {
        let test_program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(has_symbols(&test_program), cfg!(target_os = "linux"));
        assert!(!has_symbols(b"\x7fELF and no section names"));
    }
}
