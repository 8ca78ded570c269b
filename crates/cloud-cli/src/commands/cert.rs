//! `cert show`: prints the device's two certificates and whether their keys match. Read-only.

use std::fmt;
use std::time::SystemTime;

use clap::Subcommand;
use cloud_facade::config::{CredentialSlot, LoadError, PairReport, Store};
use cloud_net::UntrustedText;
use serde::Serialize;

use crate::commands::device_store;
use crate::error::{CliError, Result};
use crate::options::GlobalOptions;
use crate::output::Output;
use crate::time_fmt::rfc3339;

/// Subcommands of `cert`.
#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Show subject, names, serial number, dates, issuer and key match of both certificates
    Show,
}

/// Both certificates, as `cert show --json` prints them.
#[derive(Debug, Serialize)]
struct Certificates {
    iot: Certificate,
    remote: Certificate,
}

/// One certificate.
#[derive(Debug, Serialize)]
pub(crate) struct Certificate {
    subject: String,
    names: Vec<String>,
    pub(crate) serial: String,
    serial_hex: String,
    not_before: String,
    pub(crate) not_after: String,
    issuer: String,
    sha256: String,
    key_matches: bool,
    /// Reason why the key is unusable; only in the text form.
    #[serde(skip)]
    key_problem: Option<String>,
    #[serde(skip)]
    expired: bool,
}

pub(crate) fn show(global: &GlobalOptions, output: &Output) -> Result {
    let store = device_store(global)?;
    let (iot, remote) = (
        inspect(&store, CredentialSlot::Iot),
        inspect(&store, CredentialSlot::Remote),
    );
    // One unreadable certificate does not hide the other.
    if let Ok(iot) = &iot {
        output.text(format_args!("Device certificate, for messaging\n{iot}"))?;
    }
    if let Ok(remote) = &remote {
        output.text(format_args!("\nCertificate for remote access\n{remote}"))?;
    }
    let (iot, remote) = (iot?, remote?);
    output.json(&Certificates { iot, remote })
}

/// Inspects one certificate of the store.
pub(crate) fn inspect(store: &Store, pair: CredentialSlot) -> Result<Certificate> {
    store
        .inspect(pair)
        .map(Certificate::from)
        .map_err(|error: LoadError| CliError::from_load(store, &error))
}

impl From<PairReport> for Certificate {
    fn from(report: PairReport) -> Self {
        let PairReport {
            info,
            key_matches,
            key_problem,
            ..
        } = report;
        Self {
            subject: info.subject,
            names: info.names,
            serial: info.serial,
            serial_hex: info.serial_hex,
            not_before: rfc3339(info.not_before),
            not_after: rfc3339(info.not_after),
            issuer: info.issuer,
            sha256: info.sha256,
            key_matches,
            key_problem: key_problem.map(|problem| problem.to_string()),
            expired: info.not_after < SystemTime::now(),
        }
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let expired = if self.expired { "  EXPIRED" } else { "" };
        let key = match (&self.key_problem, self.key_matches) {
            (_, true) => "matches",
            (Some(problem), false) => problem,
            (None, false) => "does not match",
        };
        writeln!(f, "  subject     {}", UntrustedText::new(&self.subject))?;
        writeln!(f, "  names       {}", names(&self.names))?;
        writeln!(f, "  serial      {}", self.serial)?;
        writeln!(f, "  serial hex  {}", self.serial_hex)?;
        writeln!(f, "  not before  {}", self.not_before)?;
        writeln!(f, "  not after   {}{expired}", self.not_after)?;
        writeln!(f, "  issuer      {}", UntrustedText::new(&self.issuer))?;
        writeln!(f, "  sha-256     {}", self.sha256)?;
        write!(f, "  key         {key}")
    }
}

/// Formats the names of a certificate for the terminal.
pub(crate) fn names(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<_> = names.iter().map(|name| UntrustedText::new(name)).collect();
    let names: Vec<_> = names.iter().map(UntrustedText::as_str).collect();
    names.join(", ")
}
