//! Programs of others in the version that this repository is written for: installed, or built
//! under the target directory.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{cargo, find_program, output_of, run, with_retries};
use crate::workspace;

/// A program that crates.io has.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// More arguments of `cargo install`.
    pub(crate) arguments: &'static [&'static str],
}

/// The path of the program; builds it if there is none of the right version.
pub(crate) fn find_or_build(tool: &Tool) -> Result<PathBuf> {
    let Tool {
        name,
        version,
        arguments,
    } = tool;
    let is_right = |path: &PathBuf| {
        output_of(Command::new(path).arg("--version"))
            .is_some_and(|text| text.split([' ', 'v']).any(|word| word == *version))
    };
    let root = workspace::target_directory()?.join("tools");
    let built = root.join("bin").join(name);
    if let Some(found) = find_program(name)
        .into_iter()
        .chain([built.clone()])
        .find(is_right)
    {
        return Ok(found);
    }
    println!("building {name} {version}, which takes some minutes once");
    with_retries(&format!("installing {name}"), || {
        run(cargo()
            .args([
                "install",
                "--quiet",
                "--locked",
                *name,
                "--version",
                *version,
            ])
            .args(*arguments)
            .arg("--root")
            .arg(&root))
    })?;
    Ok(built)
}

/// Returns the path of nginx.
pub(crate) fn nginx() -> Result<PathBuf> {
    find_program("nginx").context(
        "nginx is not installed (Debian: apt-get install nginx-light; it need not run as a service)",
    )
}
