//! `doctor --bundle`: what support needs to examine a device from afar, in one archive.
//!
//! It holds nothing secret: what other commands print, the recent log lines of this process, and
//! names and modes of files, never their content.

use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::http::Method;
use clap::Args;
use cloud_facade::config::Store;
use cloud_net::{from_unix_seconds, unix_seconds};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::commands::config::{self, ConfigCommand};
use crate::commands::{cert, status};
use crate::control_socket::running_instance;
use crate::error::{CliError, Result};
use crate::logging;
use crate::options::{GlobalOptions, NAME};
use crate::output::Output;
use crate::settings::Settings;
use crate::settings::definition::Definition;
use crate::terminal;
use crate::time_fmt::{now, rfc3339};

/// Time limit for an instance on this machine.
const INSTANCE_TIMEOUT: Duration = Duration::from_secs(5);

/// Ten times the metrics of a busy instance.
const MAX_METRICS: u64 = 1024 * 1024;

/// A device has about ten files; another directory may have any number.
const MAX_FILES: usize = 200;

/// The mode of the files in the archive.
const MODE: u32 = 0o600;

/// Options of `doctor` that concern the bundle.
#[derive(Debug, Args)]
pub(super) struct BundleOptions {
    /// Write an archive (.tar.gz) for support to this file: versions, configuration, the results of
    /// the checks, recent log lines and the modes of the device's files, but no secrets
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,

    /// Add the metrics of the instance that runs with this --health address
    #[arg(long, value_name = "ADDR", requires = "bundle")]
    health: Option<SocketAddr>,
}

impl BundleOptions {
    /// Writes the archive, if one is wanted, with the results of the checks.
    pub(super) async fn write(
        &self,
        global: &GlobalOptions,
        settings: &Settings,
        definition: &Definition,
        results: &[Value],
        output: &Output,
    ) -> Result {
        let Some(path) = &self.bundle else {
            return Ok(());
        };
        let mut files = vec![
            ("versions.json", pretty(&versions())),
            (
                "config.json",
                printed(|output| {
                    config::run(global, settings, definition, &ConfigCommand::Show, output)
                })
                .await?,
            ),
            (
                "status.json",
                printed(|output| status::show(global, output)).await?,
            ),
            (
                "certificates.json",
                printed(|output| cert::show(global, output)).await?,
            ),
            ("doctor.jsonl", lines(results)),
            ("log.txt", logging::recent()),
            ("files.txt", listing(&global.base_path()?)),
        ];
        if let Some(log) = instance_log(&global.base_path()?).await {
            files.push(("instance-log.txt", log));
        }
        if let Some(address) = self.health {
            files.push(("metrics.txt", metrics(address).await));
        }
        archive(path, &files)
            .map_err(|error| CliError::with_path("could not write the bundle", path, &error))?;
        output.result(
            &json!({ "event": "bundle" }),
            format_args!(
                "\nwrote the bundle: look into it before you hand it out; it names hosts and the serial number"
            ),
        )
    }
}

/// Writes the archive for its owner alone, as a whole.
fn archive(path: &Path, files: &[(&str, String)]) -> io::Result<()> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // Its mode is 0600.
    let mut file = NamedTempFile::new_in(directory)?;
    let mut builder = tar::Builder::new(GzEncoder::new(&mut file, Compression::default()));
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(MODE);
        header.set_size(content.len() as u64);
        header.set_mtime(u64::try_from(unix_seconds(SystemTime::now())).unwrap_or_default());
        builder.append_data(&mut header, format!("{NAME}/{name}"), content.as_bytes())?;
    }
    builder.into_inner()?.finish()?.flush()?;
    file.persist(path)?;
    Ok(())
}

fn versions() -> Value {
    let first_line = |path: &str| {
        let text = fs::read_to_string(path).ok()?;
        text.lines().next().map(str::to_owned)
    };
    json!({
        "program": NAME,
        "version": env!("CARGO_PKG_VERSION"),
        "architecture": std::env::consts::ARCH,
        "simulator": cfg!(feature = "sim"),
        "kernel": first_line("/proc/version"),
        "system": first_line("/etc/os-release"),
        "time": now(),
    })
}

/// Returns what a command prints with `--json`, and its error as a line.
async fn printed(command: impl FnOnce(&Output) -> Result) -> Result<String> {
    let buffer = Buffer::default();
    let output = Output::with_writer(true, buffer.clone())?;
    // It may wait for a running instance.
    let result = tokio::task::block_in_place(|| command(&output));
    output.flush().await?;
    let text = buffer.0.lock().unwrap_or_else(PoisonError::into_inner);
    let text = String::from_utf8_lossy(&text);
    Ok(match result {
        Ok(()) => text.into_owned(),
        Err(error) => {
            let error = json!({ "error": error.to_string() });
            format!("{text}{}\n", terminal::line(&error.to_string()))
        }
    })
}

/// A writer into memory.
#[derive(Debug, Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        written.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pretty(value: &Value) -> String {
    terminal::text(&format!("{value:#}\n")).into_owned()
}

fn lines(values: &[Value]) -> String {
    values
        .iter()
        .map(|value| format!("{}\n", terminal::line(&value.to_string())))
        .collect()
}

/// Lists the base path and the device's directory: mode, owner, size, time and name.
fn listing(base_path: &Path) -> String {
    let directory = Store::new(base_path).directory().to_owned();
    let mut paths = vec![base_path.to_owned(), directory.clone()];
    match fs::read_dir(&directory) {
        Ok(entries) => paths.extend(entries.flatten().map(|entry| entry.path()).take(MAX_FILES)),
        Err(error) => return format!("{directory:?}: {error}\n"),
    }
    paths.sort();
    paths
        .iter()
        .map(|path| match path.symlink_metadata() {
            Ok(metadata) => format!("{} {path:?}\n", attributes(&metadata)),
            Err(error) => format!("{path:?}: {error}\n"),
        })
        .collect()
}

fn attributes(metadata: &Metadata) -> String {
    let modified = metadata.modified().map_or_else(
        |_| "-".to_owned(),
        |at| rfc3339(from_unix_seconds(unix_seconds(at))),
    );
    format!(
        "{:06o} {}:{} {:>8} {modified}",
        metadata.mode(),
        metadata.uid(),
        metadata.gid(),
        metadata.len()
    )
}

/// Returns the recent log lines of the instance that runs on this base path, or why there are none;
/// `None` if no instance runs.
async fn instance_log(base_path: &Path) -> Option<String> {
    let instance = running_instance(base_path)?;
    let log = timeout(
        INSTANCE_TIMEOUT,
        instance.call::<Value>(Method::GET, "log", None),
    );
    Some(match log.await {
        Ok(Ok(answer)) => terminal::text(answer["log"].as_str().unwrap_or_default()).into_owned(),
        Ok(Err(error)) => format!("{error}\n"),
        Err(_) => "the running instance does not answer\n".to_owned(),
    })
}

/// Returns the metrics of a running instance, or why there are none.
async fn metrics(address: SocketAddr) -> String {
    let fetch = async {
        let mut stream = TcpStream::connect(address).await?;
        // HTTP/1.0: the connection ends with the answer.
        let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MAX_METRICS).read_to_end(&mut answer).await?;
        io::Result::Ok(answer)
    };
    match timeout(INSTANCE_TIMEOUT, fetch).await {
        Ok(Ok(answer)) => {
            terminal::text(&String::from_utf8_lossy(&answer).replace('\r', "")).into_owned()
        }
        Ok(Err(error)) => format!("http://{address}/metrics: {error}\n"),
        Err(_) => format!("http://{address}/metrics does not answer\n"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn archive_is_private_and_replaces_older_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.tar.gz");
        fs::write(&path, "older").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        archive(&path, &[("a.txt", "content".to_owned())]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        let file = fs::File::open(&path).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap(), Path::new("clesyde-cloud/a.txt"));
        assert_eq!(entry.header().mode().unwrap(), MODE);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
