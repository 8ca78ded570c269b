//! The program, built with profile-guided optimization.
//!
//! It is compiled twice. The first, instrumented program records a profile: how often each part of
//! it runs while it serves requests. By that the compiler inlines and arranges the code of the
//! second one.
//!
//! The load is that of the benchmark `device`, so nginx must be installed. A profile belongs to one
//! target and one set of features, since the names of functions depend on both.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};

use crate::archive::{PROGRAM, empty_directory, ensure_stripped};
use crate::process::{cargo, output_of, run, with_retries};
use crate::tools::nginx;
use crate::workspace;

/// Cargo's profile of what is handed out.
pub(crate) const PROFILE: &str = "dist";

/// Measurements of the benchmark `device` that a device does for years. What only starts or
/// provisions a device is better small.
const LOAD: &str = "requests,http2,download,upload,connections,latency";

pub(crate) const ARGUMENTS: &str = "[--without-simulator]";

pub(crate) const DETAILS: &str = "\
It takes two builds with link-time optimization and a load of a minute between them, for which nginx
is needed. Installs the component llvm-tools of rustup. Prints the path of the program.

  --without-simulator  leaves out the commands `sim` and `demo`: a smaller program";

pub(crate) fn run_program(arguments: &[String]) -> Result<()> {
    let has_simulator = match arguments {
        [] => true,
        [flag] if flag == "--without-simulator" => false,
        other => bail!("`program` has no arguments {other:?}; see `cargo xtask program --help`"),
    };
    let program = build(has_simulator)?;
    let bytes = fs::metadata(&program)?.len();
    println!("{}: {:.1} MB", program.display(), bytes as f64 / 1e6);
    Ok(())
}

/// Builds the program for this machine, and returns its path.
pub(crate) fn build(has_simulator: bool) -> Result<PathBuf> {
    let profile = recorded_profile(has_simulator)?;
    let target_directory = workspace::target_directory()?;
    let flag = flag("-Cprofile-use=", &profile);
    let program = compile(has_simulator, &target_directory, &flag)?;
    ensure_stripped(&program, PROFILE)?;
    Ok(program)
}

/// Returns the file of the profile; records it unless the instrumented program is still the same.
fn recorded_profile(has_simulator: bool) -> Result<PathBuf> {
    // Before a build that takes ten minutes.
    let (nginx, merger) = (nginx()?, profdata()?);
    let name = if has_simulator {
        "with-simulator"
    } else {
        "without-simulator"
    };
    let directory = workspace::target_directory()?
        .join("profile-guided")
        .join(name);
    let raw = directory.join("raw");
    let flag = flag("-Cprofile-generate=", &raw);
    let program = compile(has_simulator, &directory, &flag)?;
    // Cargo does not see that the content of a file in a flag changes, so its name does.
    let built = fs::metadata(&program)?
        .modified()?
        .duration_since(UNIX_EPOCH)?;
    let profile = directory.join(format!("{}.profdata", built.as_secs()));
    if profile.exists() {
        println!("the profile is in {}", profile.display());
        return Ok(profile);
    }
    empty_directory(&raw)?;
    load(&program, has_simulator, &nginx, &raw)?;
    let mut merge = Command::new(merger);
    run(merge.args(["merge", "--output"]).arg(&profile).arg(&raw))?;
    Ok(profile)
}

fn flag(name: &str, path: &Path) -> OsString {
    let mut flag = OsString::from(name);
    flag.push(path);
    flag
}

/// Compiles the program below this directory with one more flag of the compiler.
fn compile(has_simulator: bool, target_directory: &Path, flag: &OsString) -> Result<PathBuf> {
    // As cargo's own variable: paths may contain spaces.
    const SEPARATOR: &str = "\x1f";
    let mut flags = env::var_os("CARGO_ENCODED_RUSTFLAGS").unwrap_or_else(|| {
        let plain = env::var("RUSTFLAGS").unwrap_or_default();
        let flags: Vec<_> = plain.split_whitespace().collect();
        flags.join(SEPARATOR).into()
    });
    if !flags.is_empty() {
        flags.push(SEPARATOR);
    }
    flags.push(flag);
    let target = host_triple()?;
    let mut command = cargo();
    command
        .args(["build", "--locked", "--package", "cloud-cli"])
        .args(["--bin", PROGRAM, "--profile", PROFILE])
        // So that the flag concerns neither build scripts nor macros.
        .args(["--target", &target])
        .arg("--target-dir")
        .arg(target_directory)
        .env("CARGO_ENCODED_RUSTFLAGS", flags);
    if !has_simulator {
        command.arg("--no-default-features");
    }
    run(&mut command)?;
    Ok(target_directory.join(target).join(PROFILE).join(PROGRAM))
}

/// Lets the instrumented program serve.
fn load(program: &Path, has_simulator: bool, nginx: &Path, raw: &Path) -> Result<()> {
    let platform = if has_simulator {
        program.to_owned()
    } else {
        run(cargo().args(["build", "--locked", "--package", "cloud-cli"]))?;
        workspace::target_directory()?.join("debug").join(PROGRAM)
    };
    let mut command = cargo();
    command
        .args(["bench", "--locked", "--profile", "dev"])
        .args(["--package", "cloud-cli", "--bench", "device", "--"])
        .args(["--groups", "forward", "--rounds", "0", "--only", LOAD])
        .arg("--nginx")
        .arg(nginx)
        .arg("--program")
        .arg(program)
        .arg("--platform")
        .arg(platform)
        .env("LLVM_PROFILE_FILE", raw.join("%p.profraw"));
    run(&mut command)
}

/// llvm-profdata of the compiler: the format of profiles is that of its version.
fn profdata() -> Result<PathBuf> {
    let sysroot = output_of(Command::new("rustc").args(["--print", "sysroot"]))
        .context("`rustc --print sysroot` failed")?;
    let tools = Path::new(&sysroot).join("lib/rustlib").join(host_triple()?);
    let tool = tools.join("bin/llvm-profdata");
    if !tool.exists() {
        let add = || run(Command::new("rustup").args(["component", "add", "llvm-tools"]));
        with_retries("rustup", add).with_context(|| format!("there is no {}", tool.display()))?;
    }
    Ok(tool)
}

pub(crate) fn host_triple() -> Result<String> {
    let text = output_of(Command::new("rustc").arg("-vV")).context("`rustc -vV` failed")?;
    text.lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("`rustc -vV` names no host")
}
