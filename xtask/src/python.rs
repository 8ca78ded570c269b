//! The Python peers, each in a virtual environment of its own under the target directory.
//!
//! They exclude each other: version 0.1.2 of the device library requires snitun 0.40
//! and version 0.1.20 requires snitun 0.45, and snitun 0.47 requires Python 3.13.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::{find_program, output_of, run as run_command, with_retries};
use crate::workspace;

/// The interpreters of the environments that were made.
pub(crate) struct Peers {
    /// Has clesyde_cloud_lib 0.1.2 and snitun 0.40.0.
    pub(crate) clesyde: PathBuf,
    /// Has clesyde_cloud_lib 0.1.20 and its snitun 0.45.1; absent on a machine without Python 3.12.
    pub(crate) clesyde_0120: Option<PathBuf>,
    /// Has uvicorn and grpcio.
    pub(crate) web: PathBuf,
    /// Has snitun 0.47.0; absent on a machine without Python 3.13.
    pub(crate) snitun_047: Option<PathBuf>,
    /// Has AWS's SDK for devices.
    pub(crate) aws_sdk: PathBuf,
}

/// One environment: what is installed, and what must be importable afterwards.
struct Environment {
    /// Below the target directory.
    directory: &'static str,
    packages: &'static [&'static str],
    imports: &'static str,
}

const CLESYDE: Environment = Environment {
    directory: "interop/clesyde",
    packages: &["clesyde_cloud_lib==0.1.2", "snitun==0.40.0"],
    imports: "import clesydecloud.client, snitun.client.client_peer, snitun.server.run",
};

const CLESYDE_0120: Environment = Environment {
    directory: "interop/clesyde-0.1.20",
    // It imports async-timeout without declaring it.
    packages: &[
        "clesyde_cloud_lib==0.1.20",
        "snitun==0.45.1",
        "async-timeout==5.0.1",
    ],
    imports: "import clesydecloud.client, snitun.client.client_peer, snitun.server.run",
};

const AWS_SDK: Environment = Environment {
    directory: "interop/aws-sdk",
    packages: &["awsiotsdk==1.31.0"],
    imports: "import awsiot.iotshadow, awsiot.mqtt5_client_builder, awsiot.mqtt_connection_builder",
};

const WEB: Environment = Environment {
    directory: "interop/web",
    packages: &["uvicorn==0.54.0", "grpcio==1.85.3"],
    imports: "import uvicorn, grpc",
};

const SNITUN_047: Environment = Environment {
    directory: "interop/snitun-0.47",
    packages: &["snitun==0.47.0"],
    imports: "import snitun.client.client_peer, snitun.server.run",
};

const AIOMQTT: Environment = Environment {
    directory: "interop/aiomqtt",
    packages: &["aiomqtt==2.0.0"],
    imports: "import aiomqtt",
};

const DJANGO: Environment = Environment {
    directory: "apps/django",
    packages: &["django==5.2.19", "gunicorn==27.0.1"],
    imports: "import django, gunicorn",
};

const JUPYTERLAB: Environment = Environment {
    directory: "apps/jupyterlab",
    packages: &["jupyterlab==4.6.6"],
    imports: "import jupyterlab, ipykernel",
};

const ZIG: Environment = Environment {
    directory: "static/zig",
    packages: &["ziglang==0.17.1", "cargo-zigbuild==0.24.1"],
    imports: "import ziglang",
};

const HOME_ASSISTANT: Environment = Environment {
    directory: "apps/home-assistant",
    // The newest that runs on Python 3.13.0.
    packages: &["homeassistant==2025.4.4"],
    imports: "import homeassistant",
};

/// The oldest Python that clesyde_cloud_lib 0.1.2 runs on, the oldest for 0.1.20, the oldest for
/// snitun 0.47.0, and the oldest for Home Assistant.
const FOR_CLESYDE: (u32, u32) = (3, 11);
const FOR_CLESYDE_0120: (u32, u32) = (3, 12);
const FOR_SNITUN_047: (u32, u32) = (3, 13);
const FOR_HOME_ASSISTANT: (u32, u32) = (3, 13);
/// Newer ones are looked for by name up to this minor version.
const NEWEST_MINOR: u32 = 16;

/// The Python for the device library: the oldest usable one, for which its dependencies have
/// wheels.
pub(crate) fn oldest_usable() -> Option<PathBuf> {
    interpreters()
        .into_iter()
        .find(|(version, _)| *version >= FOR_CLESYDE)
        .map(|(_, path)| path)
}

/// Makes all environments, or prints which one it cannot make.
pub(crate) fn prepare() -> Result<Peers> {
    let usable = oldest_usable().context(
        "no Python 3.11 or newer with the `venv` module: install one (Debian: python3 and python3-venv)",
    )?;
    Ok(Peers {
        clesyde: CLESYDE.make(&usable)?,
        clesyde_0120: clesyde_0120()?,
        web: WEB.make(&usable)?,
        snitun_047: snitun_047()?,
        aws_sdk: AWS_SDK.make(&usable)?,
    })
}

/// The environment with clesyde_cloud_lib 0.1.20, or `None` with a message if there is no Python
/// for it.
pub(crate) fn clesyde_0120() -> Result<Option<PathBuf>> {
    CLESYDE_0120.make_if_possible(FOR_CLESYDE_0120, "INTEROP_WITHOUT_CLESYDE_0120=1")
}

/// The environment with snitun 0.47.0, or `None` with a message if there is no Python for it.
pub(crate) fn snitun_047() -> Result<Option<PathBuf>> {
    SNITUN_047.make_if_possible(FOR_SNITUN_047, "INTEROP_WITHOUT_SNITUN_047=1")
}

/// The environment with aiomqtt 2.0.0.
pub(crate) fn aiomqtt() -> Result<PathBuf> {
    let usable = oldest_usable().context("no Python 3.11 or newer with the `venv` module")?;
    AIOMQTT.make(&usable)
}

/// The environment with Zig and cargo-zigbuild.
pub(crate) fn zig() -> Result<PathBuf> {
    let usable = oldest_usable().context("no Python 3.11 or newer with the `venv` module")?;
    ZIG.make(&usable)
}

/// The variable and the interpreter for one of the applications of `apps`; `None` for one that
/// needs no Python.
pub(crate) fn application(name: &str) -> Result<Option<(&'static str, PathBuf)>> {
    let (variable, environment, version) = match name {
        "django-gunicorn" => ("APPS_PY_DJANGO", DJANGO, FOR_CLESYDE),
        "jupyterlab" => ("APPS_PY_JUPYTERLAB", JUPYTERLAB, FOR_CLESYDE),
        "home-assistant" => ("APPS_PY_HOME_ASSISTANT", HOME_ASSISTANT, FOR_HOME_ASSISTANT),
        _ => return Ok(None),
    };
    let (major, minor) = version;
    let newer = interpreters()
        .into_iter()
        .find(|(found, _)| *found >= version);
    let (_, python) = newer.with_context(|| format!("{name} needs Python {major}.{minor}"))?;
    Ok(Some((variable, environment.make(&python)?)))
}

impl Environment {
    /// The environment's interpreter with the oldest Python from `version` on, or `None`, said
    /// loudly. `without` is what leaves its tests out.
    fn make_if_possible(&self, version: (u32, u32), without: &str) -> Result<Option<PathBuf>> {
        let newer = interpreters()
            .into_iter()
            .find(|(found, _)| *found >= version);
        let Some((_, python)) = newer else {
            let (major, minor) = version;
            println!(
                "!! NOT TESTED against {}: it needs Python {major}.{minor}, and there is none on this machine; its tests fail unless {without}",
                self.packages.join(" and ")
            );
            return Ok(None);
        };
        self.make(&python).map(Some)
    }

    /// The environment's interpreter; created again unless a complete one exists.
    fn make(&self, python: &Path) -> Result<PathBuf> {
        let directory = workspace::target_directory()?.join(self.directory);
        let interpreter = directory.join("bin").join("python");
        let marker = directory.join("complete");
        let wanted = format!("{}\n{}\n", python.display(), self.packages.join("\n"));
        let complete = fs::read_to_string(&marker).is_ok_and(|found| found == wanted);
        if !(complete && self.works(&interpreter)) {
            if directory.exists() {
                fs::remove_dir_all(&directory)
                    .with_context(|| format!("could not remove {}", directory.display()))?;
            }
            run_command(Command::new(python).args(["-m", "venv"]).arg(&directory))?;
            with_retries("pip", || {
                run_command(
                    Command::new(&interpreter)
                        .args([
                            "-m",
                            "pip",
                            "install",
                            "--quiet",
                            "--disable-pip-version-check",
                        ])
                        .args(["--retries", "5", "--timeout", "60"])
                        .args(self.packages),
                )
            })?;
            ensure!(
                self.works(&interpreter),
                "{} was installed, but `{}` fails in {}",
                self.packages.join(" and "),
                self.imports,
                directory.display()
            );
            fs::write(&marker, &wanted)?;
        }
        println!("{} in {}", self.packages.join(" and "), directory.display());
        Ok(interpreter)
    }

    fn works(&self, interpreter: &Path) -> bool {
        output_of(Command::new(interpreter).args(["-c", self.imports])).is_some()
    }
}

/// Every Python 3 here that can make an environment, oldest first.
///
/// A version manager's shim may be in `PATH` without anything behind it, so each is asked for its
/// version and for the path that it really has.
fn interpreters() -> Vec<((u32, u32), PathBuf)> {
    let named = (FOR_CLESYDE.1..=NEWEST_MINOR).map(|minor| format!("python3.{minor}"));
    let in_path = std::iter::once("python3".to_owned())
        .chain(named)
        .filter_map(|name| find_program(&name))
        .chain(Some(PathBuf::from("/usr/bin/python3")));
    let mut found: Vec<_> = in_path
        .chain(version_manager())
        .filter_map(|path| probe(&path))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// What pyenv has installed, whether or not it is switched on.
fn version_manager() -> Vec<PathBuf> {
    let base = env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv")));
    let Some(entries) = base.and_then(|base| fs::read_dir(base.join("versions")).ok()) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.path().join("bin").join("python3"))
        .collect()
}

fn probe(python: &Path) -> Option<((u32, u32), PathBuf)> {
    const QUESTION: &str = "import sys, venv, ensurepip; print(sys.version_info[0], sys.version_info[1], sys.executable)";
    let answer = output_of(Command::new(python).args(["-c", QUESTION]))?;
    let mut words = answer.splitn(3, ' ');
    let major = words.next()?.parse().ok()?;
    let minor = words.next()?.parse().ok()?;
    let path = PathBuf::from(words.next()?);
    (major == 3).then_some(((major, minor), path))
}
