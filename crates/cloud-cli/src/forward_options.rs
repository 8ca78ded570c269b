//! How requests are forwarded to a web server: options of `--forward`, and of each route.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use cloud_facade::remote::{Application, CertificatePin, ForwardOptions, SentHost};

use crate::api::read_roots;
use crate::application_check::CheckedApplication;
use crate::error::{CliError, Result};
use crate::forward_target::ForwardTarget;

/// The identifiers of [`ForwardArgs`], which no other way to serve takes.
pub(crate) const FORWARD_ONLY: [&str; 6] = [
    "forward_ca_file",
    "forward_pin",
    "restart_wait",
    "title_case_headers",
    "host_header",
    "no_forwarded_headers",
];

/// See the [module](self).
#[derive(Debug, Clone, Args)]
pub(crate) struct ForwardArgs {
    /// More roots, in PEM, for the certificate of --forward https:// [default: the system's]
    #[arg(long, value_name = "FILE")]
    forward_ca_file: Option<PathBuf>,

    /// Accept this certificate of --forward https:// and no other, by its SHA-256 fingerprint as
    /// `openssl x509 -fingerprint -sha256` prints it; may be given several times
    ///
    /// Its issuer, names and dates do not matter then.
    #[arg(
        long,
        value_name = "SHA256",
        value_delimiter = ',',
        conflicts_with = "forward_ca_file"
    )]
    forward_pin: Vec<CertificatePin>,

    /// Wait this long for the web server while it refuses connections, as one does that restarts
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    restart_wait: u32,

    /// Send the names of header fields to the web server as Content-Length, not content-length
    #[arg(long)]
    title_case_headers: bool,

    /// Send this host to the web server instead of the public one, with or without a port
    ///
    /// For a server that answers for its own name only. WebSockets may be refused then: browsers
    /// send the public name as their origin.
    #[arg(long, value_name = "HOST")]
    host_header: Option<SentHost>,

    /// Do not send Forwarded, X-Forwarded-For, -Proto and -Host to the web server
    ///
    /// Those that the caller sends are removed in any case.
    #[arg(long)]
    no_forwarded_headers: bool,
}

impl ForwardArgs {
    /// Returns the application that forwards to `target`, named by `option`.
    pub(crate) fn application(
        &self,
        target: &ForwardTarget,
        option: &'static str,
    ) -> Result<(Application, CheckedApplication)> {
        let is_tls = matches!(target, ForwardTarget::Https(_));
        if !is_tls && !self.forward_pin.is_empty() {
            return Err(CliError::Usage(
                "--forward-pin needs a target that begins with https://".to_owned(),
            ));
        }
        let local = target.application();
        local.warn_if_unresolvable(option);
        let upstream = local.upstream();
        let roots = self.forward_ca_file.as_deref().map(read_roots);
        let roots = roots.transpose()?;
        let mut options = ForwardOptions::new()
            .restart_wait(Duration::from_secs(self.restart_wait.into()))
            .title_case_headers(self.title_case_headers)
            .forwarded_headers(!self.no_forwarded_headers);
        if let Some(host) = &self.host_header {
            options = options.host_header(host.clone());
        }
        let options = target.options(options, roots.as_deref(), &self.forward_pin)?;
        let checked = CheckedApplication {
            upstream: upstream.clone(),
            is_http: true,
        };
        Ok((Application::forward_with(upstream, options), checked))
    }
}
