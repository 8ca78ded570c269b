//! `release --static`: programs that run on any Linux of their architecture, with nothing beside
//! them, and the add-on for Home Assistant that contains them.
//!
//! They are linked against musl, as the containers of Home Assistant are. Zig compiles the C code
//! in them (ring) and links them, for each architecture; it and cargo-zigbuild are packages of
//! PyPI.
//! The standard library for musl, with musl itself, comes with rustup.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{cargo, find_program, output_of, run, run_within, with_retries};
use crate::{archive, home_assistant, python, workspace};

/// An architecture.
struct Target {
    triple: &'static str,
    /// Its name in the target triples of Rust and in the names of emulators.
    architecture: &'static str,
    /// Its name for Home Assistant.
    home_assistant: &'static str,
}

const TARGETS: &[Target] = &[
    Target {
        triple: "x86_64-unknown-linux-musl",
        architecture: "x86_64",
        home_assistant: "amd64",
    },
    Target {
        triple: "aarch64-unknown-linux-musl",
        architecture: "aarch64",
        home_assistant: "aarch64",
    },
];

/// The demonstration takes under a second; an emulator needs more.
const DEMO_LIMIT: Duration = Duration::from_secs(300);

/// Builds the programs with this profile, runs them, and packs them. Returns the files.
pub(crate) fn build(profile: &str, version: &str, dist: &Path) -> Result<Vec<PathBuf>> {
    let zig = python::zig()?;
    standard_libraries()?;
    let mut programs = Vec::new();
    for target in TARGETS {
        let program = compile(&zig, target.triple, profile)?;
        works_alone(&program, target, version)?;
        programs.push((target, program));
    }
    let native = programs
        .iter()
        .find(|(target, _)| target.architecture == env::consts::ARCH);
    let (_, native) = native.context("this machine runs neither of the programs")?;
    let mut files = Vec::new();
    for (target, program) in &programs {
        let name = format!("{}-{version}-{}", archive::PROGRAM, target.triple);
        let stage = archive::empty_directory(&dist.join(&name))?;
        archive::copy(program, &stage.join(archive::PROGRAM))?;
        archive::generate(native, &stage)?;
        archive::documents(&stage)?;
        files.push(archive::pack(dist, &name)?);
    }
    let programs = programs
        .iter()
        .map(|(target, program)| (target.home_assistant, program.as_path()));
    files.push(home_assistant::add_on(version, programs, dist)?);
    Ok(files)
}

/// The standard library for musl is in the toolchain afterwards.
fn standard_libraries() -> Result<()> {
    let sysroot = output_of(Command::new("rustc").args(["--print", "sysroot"]))
        .context("`rustc --print sysroot` failed")?;
    let libraries = Path::new(&sysroot).join("lib/rustlib");
    let is_missing = |target: &Target| !libraries.join(target.triple).join("lib").exists();
    let missing: Vec<_> = TARGETS
        .iter()
        .filter(|target| is_missing(target))
        .map(|target| target.triple)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let add = || {
        run(Command::new("rustup")
            .args(["target", "add"])
            .args(&missing))
    };
    with_retries("rustup", add).with_context(|| {
        format!(
            "{sysroot} has no standard library for {}",
            missing.join(" and ")
        )
    })
}

fn compile(zig: &Path, triple: &str, profile: &str) -> Result<PathBuf> {
    // cargo-zigbuild is beside the interpreter.
    let mut path = zig
        .parent()
        .map(Path::as_os_str)
        .unwrap_or_default()
        .to_owned();
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    run(cargo()
        .args(["zigbuild", "--locked", "--package", "cloud-cli"])
        .args(["--profile", profile, "--target", triple])
        .env("PATH", path)
        .env("CARGO_ZIGBUILD_PYTHON_PATH", zig))?;
    let built = workspace::target_directory()?.join(triple);
    let directory = if profile == "dev" { "debug" } else { profile };
    let program = built.join(directory).join(archive::PROGRAM);
    archive::ensure_stripped(&program, profile)?;
    Ok(program)
}

/// Runs the program in a root directory without any other: it says its version and does the whole
/// job once, for which it needs `localhost` and a place for files. Without an emulator for its
/// architecture, a line says that it was not run.
fn works_alone(program: &Path, target: &Target, version: &str) -> Result<()> {
    let root = tempfile::tempdir()?;
    fs::create_dir(root.path().join("tmp"))?;
    fs::create_dir(root.path().join("etc"))?;
    fs::write(root.path().join("etc/hosts"), "127.0.0.1 localhost\n")?;
    archive::copy(program, &root.path().join(archive::PROGRAM))?;
    let mut words = Vec::new();
    if target.architecture != env::consts::ARCH {
        let name = format!("qemu-{}-static", target.architecture);
        let Some(emulator) = find_program(&name) else {
            println!(
                "!! NOT RUN: the program for {}: {name} is not there (Debian: qemu-user-static)",
                target.architecture
            );
            return Ok(());
        };
        archive::copy(&emulator, &root.path().join(&name))?;
        words.push(format!("/{name}"));
    }
    words.push(format!("/{}", archive::PROGRAM));
    let command = |arguments: &[&str]| {
        // Root in a user namespace of its own may change its root directory.
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "chroot"])
            .arg(root.path())
            .args(&words)
            .args(arguments)
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default());
        command
    };
    let said = output_of(&mut command(&["--version"])).unwrap_or_default();
    ensure!(
        said.split_whitespace().any(|word| word == version),
        "the program for {} says `{said}` and not version {version}",
        target.architecture
    );
    let bytes = fs::metadata(program)?.len();
    println!("{}: {said}, {:.1} MB", target.triple, bytes as f64 / 1e6);
    run_within(&mut command(&["demo", "--once"]), Some(DEMO_LIMIT))
}
