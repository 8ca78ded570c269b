//! `cargo xtask apps`: web applications behind the built program, each used in Chromium.
//!
//! The checks are in `tests/applications`, for Node.js. This command installs what they need, below
//! `target/apps` and by the package manager of the distribution, and passes the paths to them in
//! environment variables.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::attack::build_program;
use crate::process::{find_program, run as run_command, run_within, with_retries};
use crate::{python, setup, workspace};

pub(crate) const ARGUMENTS: &str = "[--light] [--long] [--program PATH] [NAME…]";

pub(crate) const DETAILS: &str = "\
Builds clesyde-cloud with the profile `release`. Each application runs behind a simulator's relay;
Chromium, which verifies the certificate, uses it. Its page has to go on after the tunnel broke with
an expired token, and after a certificate rotation. Prints one line for each. Installs what is
missing: Chromium, Node.js, nginx, ffmpeg and jq with the package manager of the distribution, the
applications below target/apps.

  status-page      the built-in page, with axe-core       light
  socket-io        Socket.IO: polling, WebSocket          light
  event-stream     an EventSource                         light
  video            Range requests to nginx                light
  django-gunicorn  Django's administration                light
  node-red         the editor and a flow
  jupyterlab       a notebook with a kernel
  home-assistant   behind its add-on: login, states,
                   camera, upload; needs Python 3.13

  --light         only those that are light, which `ci` runs
  --long          waits for the token refresh that a device makes by itself, five minutes
  --program PATH  uses this program instead of building one";

/// Limit for all applications; Home Assistant installs packages at its first start.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// A program, and the Debian package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("chromium", "chromium"),
    ("certutil", "libnss3-tools"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("nginx", "nginx"),
    ("ffmpeg", "ffmpeg"),
    // For the start script of the add-on.
    ("jq", "jq"),
];

const LIGHT: &[&str] = &[
    "status-page",
    "socket-io",
    "event-stream",
    "video",
    "django-gunicorn",
];
const HEAVY: &[&str] = &["node-red", "jupyterlab", "home-assistant"];

/// Drives Chromium; brings no browser of its own.
const PLAYWRIGHT: &str = "playwright-core@1.65.1";
const SOCKET_IO: &str = "socket.io@4.8.4";
/// Finds what a screen reader or a keyboard cannot use.
const AXE: &str = "axe-core@4.14.1";
/// The newest major version that runs on Node.js 20.
const NODE_RED: &str = "node-red@4.1.8";

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut names = Vec::new();
    let mut program = None;
    let mut long = false;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--light" => names.extend(LIGHT),
            "--long" => long = true,
            "--program" => {
                let path = rest.next().context("`--program` needs a value")?;
                program = Some(PathBuf::from(path).canonicalize()?);
            }
            name => match LIGHT.iter().chain(HEAVY).find(|known| **known == name) {
                Some(known) => names.push(*known),
                None => bail!("there is no application `{name}`; see `cargo xtask apps --help`"),
            },
        }
    }
    if names.is_empty() {
        names.extend(LIGHT.iter().chain(HEAVY));
    }
    let mut command = prepare(&names)?;
    let program = program.map_or_else(build_program, Ok)?;
    command.env("APPS_PROGRAM", program);
    if long {
        command.env("APPS_LONG", "1");
    }
    run_within(&mut command, Some(LIMIT))
}

/// What `ci` runs.
pub(crate) fn light() -> Result<()> {
    run(&["--light".to_owned()])
}

/// Installs what these applications need. Returns the command that checks them.
fn prepare(names: &[&str]) -> Result<Command> {
    setup::install_missing(PROGRAMS)?;
    let directory = workspace::target_directory()?.join("apps");
    fs::create_dir_all(&directory)?;
    let script = workspace::root().join("tests/applications/main.mjs");
    let mut command = Command::new("node");
    command.arg(script).args(names);
    for (variable, name) in [
        ("APPS_CHROMIUM", "chromium"),
        ("APPS_CERTUTIL", "certutil"),
        ("APPS_NGINX", "nginx"),
    ] {
        let path = find_program(name).with_context(|| format!("{name} is not there"))?;
        command.env(variable, path);
    }
    let packages = node_packages(&directory.join("node"), &[PLAYWRIGHT, SOCKET_IO, AXE])?;
    command.env("APPS_NODE_PACKAGES", packages);
    if names.contains(&"video") {
        command.env("APPS_VIDEO", video(&directory)?);
    }
    if names.contains(&"node-red") {
        let packages = node_packages(&directory.join("node-red"), &[NODE_RED])?;
        command.env("APPS_NODE_RED", packages);
    }
    for application in names {
        if let Some((variable, python)) = python::application(application)? {
            command.env(variable, python);
        }
    }
    Ok(command)
}

/// Installs npm packages in a directory unless they are there. Returns its `package.json`, from
/// which Node.js finds them.
fn node_packages(directory: &Path, packages: &[&str]) -> Result<PathBuf> {
    let manifest = directory.join("package.json");
    let marker = directory.join("complete");
    let wanted = packages.join("\n");
    if fs::read_to_string(&marker).is_ok_and(|found| found == wanted) {
        return Ok(manifest);
    }
    fs::create_dir_all(directory)?;
    fs::write(&manifest, "{\"private\": true}\n")?;
    with_retries("npm", || {
        run_command(
            Command::new("npm")
                .args(["install", "--no-audit", "--no-fund", "--save-exact"])
                // Packages of others run nothing while they are installed.
                .args(["--ignore-scripts", "--omit=optional", "--loglevel=error"])
                .args(packages)
                .current_dir(directory),
        )
    })?;
    fs::write(marker, wanted)?;
    Ok(manifest)
}

/// A video of two minutes, too large for a browser to load all of it.
fn video(directory: &Path) -> Result<PathBuf> {
    const PICTURE: &str = "testsrc2=s=320x180:r=15:d=120,noise=alls=30:allf=t";
    let path = directory.join("video.mp4");
    if !path.exists() {
        let unfinished = directory.join("unfinished.mp4");
        run_command(
            Command::new("ffmpeg")
                .args(["-v", "error", "-y", "-f", "lavfi", "-i", PICTURE])
                .args(["-c:v", "libx264", "-preset", "ultrafast", "-crf", "23"])
                .args(["-g", "15", "-pix_fmt", "yuv420p", "-movflags", "+faststart"])
                .arg(&unfinished),
        )?;
        fs::rename(unfinished, &path)?;
    }
    let size = path.metadata()?.len();
    ensure!(size > 20_000_000, "the video has only {size} bytes");
    Ok(path)
}
