//! `provision --from`: a production line. Registers a device for each line that comes in, and
//! answers each with a line.
//!
//! One at a time: a line is answered before the next one is read, so that a scanner and its
//! operator see what became of each device.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use cloud_facade::config::{SerialNumber, Store};
use cloud_facade::provision::{Client, ProvisioningKey};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::{ProvisionArgs, Report, already_provisioned};
use crate::commands::store;
use crate::error::{CliError, Result, chain};
use crate::options::GlobalOptions;
use crate::output::Output;
use crate::provisioning_key;
use crate::shutdown::Shutdown;
use crate::value_parsers::{ApiUrl, BYTE_ORDER_MARK};

/// Longest line: a serial number and the longest provisioning key, escaped in JSON.
const MAX_LINE: usize = 64 * 1024;

/// A line of the input: a secret, since it may contain a key.
type Line = io::Result<Zeroizing<String>>;

/// A line in JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    sn: String,
    /// Wiped by the program's allocator.
    key: Option<String>,
}

/// What all devices have in common.
struct Batch<'a> {
    global: &'a GlobalOptions,
    arguments: &'a ProvisionArgs,
    url: &'a ApiUrl,
    client: Client,
    key: Option<ProvisioningKey>,
}

pub(super) async fn run(
    global: &GlobalOptions,
    arguments: &ProvisionArgs,
    from: &Path,
    output: &Output,
) -> Result {
    let is_standard_input = from == Path::new("-");
    if is_standard_input && arguments.token_file.as_deref() == Some(from) {
        return Err(CliError::Usage(
            "--from and --token-file cannot both read standard input: put the key into a file or into CLESYDE_TOKEN"
                .to_owned(),
        ));
    }
    let url = global.require_api_url()?;
    // A base path that is a file is reported once, not for each line.
    store(global)?;
    let batch = Batch {
        global,
        arguments,
        url,
        client: arguments.api.client(global, url)?,
        key: provisioning_key::read_if_given(arguments.token_file.as_deref())?,
    };
    let reader: Box<dyn BufRead + Send> = if is_standard_input {
        Box::new(BufReader::new(io::stdin()))
    } else {
        let file = File::open(from)
            .map_err(|error| CliError::with_path("could not open", from, &error))?;
        Box::new(BufReader::new(file))
    };
    let mut shutdown = Shutdown::install()?;
    let mut lines = read_lines(reader);
    let (mut count, mut failed) = (0_u64, 0_u64);
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            () = shutdown.requested() => {
                return Err(CliError::Failed(format!(
                    "interrupted after {count} lines, of which {failed} failed; nothing was sent for the others"
                )));
            }
        };
        let Some(line) = line else { break };
        count += 1;
        let (json, text) = match batch.provision(line, &mut shutdown).await {
            Ok(report) => report,
            Err((sn, error)) => {
                failed += 1;
                let sn = sn.as_ref().map(SerialNumber::as_str);
                let error = error.to_string();
                let name = sn.map_or_else(|| format!("line {count}"), str::to_owned);
                let text = format!("{name} failed: {error}");
                let json =
                    json!({ "event": "provision_failed", "sn": sn, "line": count, "error": error });
                (json, text)
            }
        };
        output.result(&json, text)?;
    }
    if failed > 0 {
        return Err(CliError::Failed(format!(
            "{failed} of {count} devices were not registered"
        )));
    }
    Ok(())
}

impl Batch<'_> {
    /// Registers the device of one line. The error has its serial number, if that could be read.
    async fn provision(
        &self,
        line: Line,
        shutdown: &mut Shutdown,
    ) -> Result<Report, (Option<SerialNumber>, CliError)> {
        let (sn, key) = line
            .map_err(|error| CliError::with_cause("could not read the line", &error))
            .and_then(|line| parse(&line))
            .map_err(|error| (None, error))?;
        self.register(&sn, key, shutdown)
            .await
            .map_err(|error| (Some(sn), error))
    }

    async fn register(
        &self,
        sn: &SerialNumber,
        key: Option<ProvisioningKey>,
        shutdown: &mut Shutdown,
    ) -> Result<Report> {
        let store = Store::new(self.global.base_path()?.join(sn.as_str()));
        if !self.arguments.force {
            store
                .ensure_serial_number(sn)
                .map_err(|error| CliError::Failed(chain(&error)))?;
        }
        if self.arguments.is_done(&store)? {
            return Ok(already_provisioned(sn));
        }
        let key = key.as_ref().or(self.key.as_ref()).ok_or_else(|| {
            CliError::Failed(
                "there is no provisioning key: add \"key\" to the line, or give --token-file FILE or CLESYDE_TOKEN"
                    .to_owned(),
            )
        })?;
        self.arguments
            .register(&store, &self.client, self.url, sn, key, shutdown)
            .await
    }
}

/// Reads the serial number, and the key if there is one. Errors do not repeat the line: it may be
/// a key.
fn parse(line: &str) -> Result<(SerialNumber, Option<ProvisioningKey>)> {
    let line = line.trim_start_matches(BYTE_ORDER_MARK).trim();
    let (sn, key) = if line.starts_with('{') {
        let order: Order = serde_json::from_str(line).map_err(|error| {
            CliError::Failed(format!(
                "the line is no JSON object with \"sn\" and perhaps \"key\": wrong at column {}",
                error.column()
            ))
        })?;
        (order.sn, order.key)
    } else {
        (line.to_owned(), None)
    };
    let sn: SerialNumber = sn
        .parse()
        .map_err(|error| CliError::with_cause("the serial number cannot be used", &error))?;
    if sn.as_str().starts_with('.') {
        // It names a directory: neither the base path, nor its parent, nor a device's own.
        return Err(CliError::Failed(
            "the serial number cannot be used: it starts with a dot, and names a directory"
                .to_owned(),
        ));
    }
    let key = key
        .map(|key| ProvisioningKey::new(&key))
        .transpose()
        .map_err(|error| CliError::with_cause("the key cannot be used", &error))?;
    Ok((sn, key))
}

/// Reads lines in a thread, since a read blocks: one that no signal interrupts. Empty lines are
/// skipped. The channel ends with the input, or with an error of reading it.
fn read_lines(mut reader: Box<dyn BufRead + Send>) -> mpsc::Receiver<Line> {
    // A line that is read ahead is one for which nothing is sent after a signal.
    let (sender, receiver) = mpsc::channel(1);
    tokio::task::spawn_blocking(move || {
        while let Some(line) = next_line(&mut reader).transpose() {
            let is_broken = line
                .as_ref()
                .is_err_and(|error| error.kind() != io::ErrorKind::InvalidData);
            if sender.blocking_send(line).is_err() || is_broken {
                break;
            }
        }
    });
    receiver
}

/// Returns the next line that is not empty; `None` at the end.
fn next_line(reader: &mut impl BufRead) -> io::Result<Option<Zeroizing<String>>> {
    loop {
        let mut bytes = Zeroizing::new(Vec::new());
        let limit = MAX_LINE as u64 + 1;
        if reader.take(limit).read_until(b'\n', &mut bytes)? == 0 {
            return Ok(None);
        }
        let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        if bytes.len() > MAX_LINE && !bytes.ends_with(b"\n") {
            reader.skip_until(b'\n')?;
            return Err(invalid("it is too long for a serial number and a key"));
        }
        let line = std::str::from_utf8(&bytes).map_err(|_| invalid("it is not UTF-8"))?;
        if !line.trim().is_empty() {
            return Ok(Some(Zeroizing::new(line.to_owned())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_serial_number_or_object() {
        for (line, key) in [
            ("SN-1\r\n", false),
            ("\u{feff}SN-1", false),
            (r#" {"sn":"SN-1"} "#, false),
            (r#"{"key":"a\u0062c","sn":"SN-1"}"#, true),
        ] {
            let (sn, found) = parse(line).unwrap();
            assert_eq!((sn.as_str(), found.is_some()), ("SN-1", key), "{line}");
        }
        for line in [
            "..",
            ".clesydecloud",
            "a/b",
            "hunter2 hunter2",
            r#"{"sn":"SN-1","key":"hunter2","more":1}"#,
            r#"{"sn":"hunter2/"}"#,
            r#"{"sn":"SN-1","key":""}"#,
            r#"{"sn":"SN-1","key":"hunter2"#,
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn overlong_line_does_not_stop_the_next() {
        let input = format!("{}\n\nSN-2\n\u{20}\nSN-3", "x".repeat(3 * MAX_LINE));
        let mut reader = input.as_bytes();
        next_line(&mut reader).unwrap_err();
        for expected in ["SN-2\n", "SN-3"] {
            assert_eq!(next_line(&mut reader).unwrap().unwrap().as_str(), expected);
        }
        assert!(next_line(&mut reader).unwrap().is_none());
    }
}
