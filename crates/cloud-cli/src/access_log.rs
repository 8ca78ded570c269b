//! The access log: a line for each request, and for each connection without HTTP, once it has
//! ended.
//!
//! Its texts are the callers', escaped and cut ([`cloud_net::UntrustedText`]). Queries may hold
//! secrets, so they are left out unless they are wanted. Writing never delays a caller: lines pass
//! through an [`Outlet`].

mod rotating_file;

use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use cloud_facade::remote::{AccessRecord, ConnectionRecord, RequestRecord};
use cloud_net::UntrustedText;
use serde_json::{Value, json};

use self::rotating_file::RotatingFile;
use crate::error::{CliError, Result};
use crate::logging;
use crate::outlet::{LostLines, Outlet, OutletSettings};
use crate::time_fmt::rfc3339;

/// Bytes in a MiB.
const MIB: u64 = 1024 * 1024;

/// The form of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum AccessLogFormat {
    /// No access log.
    #[default]
    Off,
    /// The Common Log Format.
    Common,
    /// One JSON object a line.
    Json,
}

/// Options of the access log.
#[derive(Debug, Args)]
#[command(next_help_heading = "Access log")]
pub(crate) struct AccessLogOptions {
    /// Write a line for each request of a caller, or with --forward-tcp and --passthrough for each
    /// connection
    ///
    /// `common` is the Common Log Format; `json` has also host, user agent, referer, duration,
    /// bytes, protocol and local server. The lines have addresses of callers.
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "off")]
    access_log: AccessLogFormat,

    /// Write the access log to this file instead of standard error
    ///
    /// The file is replaced at its maximum size, and opened again when another program, such as
    /// logrotate, has moved it.
    #[arg(long, value_name = "FILE")]
    access_log_file: Option<PathBuf>,

    /// Size at which the file is replaced, in MiB
    #[arg(long, value_name = "MIB", default_value = "10")]
    access_log_max_size: NonZeroU64,

    /// Replaced files to keep, as FILE.1 (the newest), FILE.2 and so on
    #[arg(long, value_name = "NUMBER", default_value = "5")]
    access_log_keep: NonZeroU32,

    /// Include queries of requests, which may hold secrets
    #[arg(long)]
    access_log_query: bool,
}

impl AccessLogOptions {
    /// Opens the access log, if one is wanted.
    pub(crate) fn open(&self) -> Result<Option<AccessLog>> {
        if self.access_log == AccessLogFormat::Off {
            return Ok(None);
        }
        let file = match &self.access_log_file {
            None => None,
            Some(path) => {
                let max = self.access_log_max_size.get().saturating_mul(MIB);
                let file = RotatingFile::open(path.clone(), max, self.access_log_keep.get());
                let file = file.map_err(|error| {
                    CliError::with_path("cannot write the access log", path, &error)
                })?;
                Some(start_outlet(file)?)
            }
        };
        Ok(Some(AccessLog {
            format: self.access_log,
            with_query: self.access_log_query,
            file,
        }))
    }
}

fn start_outlet(file: RotatingFile) -> Result<Outlet> {
    let settings = OutletSettings {
        name: "access-log",
        // The file has only lines of its format. `/metrics` counts lost lines.
        note: Box::new(|_| None),
        on_error: Box::new(|error| tracing::warn!(%error, "the access log cannot be written")),
    };
    Outlet::start(settings, file)
        .map_err(|error| CliError::with_cause("could not start a thread", &error))
}

/// See the [module](self). Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct AccessLog {
    format: AccessLogFormat,
    with_query: bool,
    /// `None` for standard error.
    file: Option<Outlet>,
}

impl AccessLog {
    /// Writes the line of a record. Returns at once.
    pub(crate) fn record(&self, record: &AccessRecord) {
        let Some(line) = self.line(record) else {
            return;
        };
        match &self.file {
            Some(file) => {
                file.push(format!("{line}\n"));
            }
            None => logging::access_line(&line),
        }
    }

    /// Returns the count of lost lines, if the log has a file of its own.
    pub(crate) fn lost_lines(&self) -> Option<LostLines> {
        self.file.as_ref().map(Outlet::lost_lines)
    }

    /// Waits until everything is written.
    pub(crate) async fn flush(&self) {
        if let Some(file) = &self.file {
            file.flush().await;
        }
    }

    fn line(&self, record: &AccessRecord) -> Option<String> {
        match (record, self.format) {
            (AccessRecord::Request(request), AccessLogFormat::Common) => {
                Some(common(request, &self.target(request)))
            }
            (AccessRecord::Request(request), _) => Some(self.request_json(request).to_string()),
            (AccessRecord::Connection(connection), AccessLogFormat::Common) => {
                Some(common_connection(connection))
            }
            (AccessRecord::Connection(connection), _) => {
                Some(connection_json(connection).to_string())
            }
            // A refused connection has no request; `/metrics` counts it, and the log names the
            // limit.
            _ => None,
        }
    }

    /// Returns the path, with the query if it is wanted.
    fn target(&self, request: &RequestRecord) -> String {
        match request.query.as_ref().filter(|_| self.with_query) {
            Some(query) => format!("{}?{query}", request.path),
            None => request.path.to_string(),
        }
    }

    fn request_json(&self, request: &RequestRecord) -> Value {
        let referer = request.referer.as_ref().map(|referer| {
            let end = referer
                .as_str()
                .find(['?', '#'])
                .filter(|_| !self.with_query);
            referer
                .as_str()
                .split_at(end.unwrap_or(referer.as_str().len()))
                .0
        });
        json!({
            "event": "request",
            "ts": rfc3339(request.started),
            "address": request.address,
            "user": request.user,
            "method": request.method,
            "host": request.host,
            "path": self.target(request),
            "protocol": format!("{:?}", request.version),
            "status": request.status.map(|status| status.as_u16()),
            "received": request.received,
            "sent": request.sent,
            "duration_s": request.duration.as_secs_f64(),
            "user_agent": request.user_agent,
            "referer": referer,
            "upstream": request.upstream,
            "refused": request.refused.map(|reason| reason.name()),
            "cut": request.cut,
        })
    }
}

fn connection_json(connection: &ConnectionRecord) -> Value {
    json!({
        "event": "connection",
        "ts": rfc3339(connection.started),
        "address": connection.address,
        "received": connection.received,
        "sent": connection.sent,
        "duration_s": connection.duration.as_secs_f64(),
        "upstream": connection.upstream,
        "cut": connection.cut,
    })
}

/// Returns a line of the Common Log Format: address, identity (never known), user, time, request
/// line, status, bytes sent.
fn common(request: &RequestRecord, target: &str) -> String {
    let address = address(request.address);
    let time = common_time(request.started);
    let first = format!("{} {target} {:?}", request.method, request.version);
    let status = request.status.map(|status| status.as_u16().to_string());
    let status = status.as_deref().unwrap_or("-");
    // A space would begin the next field.
    let user = request.user.as_ref().map(|user| user.as_str());
    let user = user.unwrap_or("-").replace([' ', '"'], "_");
    format!(
        "{address} - {user} [{time}] \"{}\" {status} {}",
        quoted(&first),
        request.sent
    )
}

/// Returns the line of a connection, whose protocol is unknown: `TCP` and the local server stand
/// for the request line.
fn common_connection(connection: &ConnectionRecord) -> String {
    let address = address(connection.address);
    let time = common_time(connection.started);
    let upstream = UntrustedText::new(&connection.upstream);
    format!(
        "{address} - - [{time}] \"TCP {}\" - {}",
        quoted(upstream.as_str()),
        connection.sent
    )
}

fn address(address: Option<std::net::IpAddr>) -> String {
    address.map_or_else(|| "-".to_owned(), |address| address.to_string())
}

/// Escapes quotation marks; the text is escaped otherwise.
fn quoted(text: &str) -> String {
    text.replace('"', "\\\"")
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Returns a time as the Common Log Format has it, in UTC.
fn common_time(time: SystemTime) -> String {
    let text = rfc3339(time);
    let parts = text
        .split_at_checked("2026-11-30T".len())
        .and_then(|(date, time)| {
            let mut date = date.trim_end_matches('T').split('-');
            let (year, month, day) = (date.next()?, date.next()?, date.next()?);
            let month = MONTHS.get(month.parse::<usize>().ok()?.checked_sub(1)?)?;
            Some(format!("{day}/{month}/{year}:{} +0000", time.get(..8)?))
        });
    // Only years beyond 9999 have another form.
    parts.unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_of_common_format_is_utc() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_796_060_607);
        let text = rfc3339(time);
        assert!(text.starts_with("2026-11-30T17:43:27"), "{text}");
        assert_eq!(common_time(time), "30/Nov/2026:17:43:27 +0000");
    }

    #[test]
    fn quotation_marks_cannot_end_the_request_line() {
        assert_eq!(quoted(r#"GET /" 200 0 "x"#), r#"GET /\" 200 0 \"x"#);
    }
}
