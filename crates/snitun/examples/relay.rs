//! A SniTun server with one or two listeners.
//!
//! ```text
//! relay [--listen ADDR] [--public ADDR] [--proxy-protocol] [--fernet-key KEY[,KEY…]] [--issue HOSTNAME:FILE]…
//!       [--protocol-version 0|1|2] [--cipher aes-cbc|aes-gcm|aes-gcm-siv] [--valid SECONDS] [--throttling MESSAGES_PER_SECOND]
//!       [--max-callers-per-address NUMBER]
//! ```
//!
//! With `--public`, callers connect there and devices to `--listen`; without it, both use
//! `--listen`. `--proxy-protocol` requires a PROXY protocol header on the listener for callers,
//! also from devices if they share it. Without `--fernet-key` each start generates a new key and
//! refuses tokens issued before. `--issue` writes a token with its key and initialization vector as
//! JSON, readable only by the current user, for the `forward` example and for tests. One JSON line
//! reports that the server is ready and its addresses, another the metrics: on SIGUSR1, and after
//! SIGTERM or Ctrl-C. Without arguments the program listens on a free port with a fresh Fernet key,
//! reports it, and stops.

mod support;

use std::fs::OpenOptions;
use std::io::Write;
use std::num::{NonZeroU32, NonZeroUsize};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use rustls::pki_types::DnsName;
use snitun::server::{
    FernetKeys, ListenerConfig, ListenerRole, Server, ServerConfig, ServerHandle, TokenContent,
};
use snitun::{Cipher, ProtocolVersion, SessionKey};
use support::ExampleError;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Runs a SniTun server: devices keep a tunnel to it, and callers reach them by the host name in
/// their ClientHello
#[derive(Parser)]
struct Options {
    /// Address for devices, and for callers as well without --public
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", value_parser = support::address)]
    listen: String,

    /// Address for callers
    #[arg(long, value_name = "ADDR", value_parser = support::address)]
    public: Option<String>,

    /// Require a PROXY protocol header from callers
    #[arg(long)]
    proxy_protocol: bool,

    /// Keys to issue (the first one) and verify tokens, 32 bytes in URL-safe base64 each [default:
    /// a fresh one, which does not verify older tokens]
    // A key may begin with a hyphen.
    #[arg(
        long,
        value_name = "KEY",
        value_delimiter = ',',
        allow_hyphen_values = true
    )]
    fernet_key: Vec<String>,

    /// Write a token for a host name to a file, with its key, as JSON; can be repeated
    #[arg(long, value_name = "HOSTNAME:FILE")]
    issue: Vec<Issue>,

    /// Protocol version of issued tokens: 0, 1 or 2
    #[arg(long, value_name = "VERSION", default_value = "0", value_parser = support::version)]
    protocol_version: ProtocolVersion,

    /// Cipher of issued tokens: aes-cbc, aes-gcm or aes-gcm-siv
    #[arg(long, default_value_t)]
    cipher: Cipher,

    /// Lifetime of issued tokens
    #[arg(long, value_name = "SECONDS", default_value_t = 24 * 3600, value_parser = clap::value_parser!(u64).range(1..))]
    valid: u64,

    /// Maximum messages of 8 KiB or more per second to each device
    #[arg(long, value_name = "MESSAGES_PER_SECOND", value_parser = support::throttling)]
    throttling: Option<NonZeroU32>,

    /// Maximum callers served at a time from one address
    #[arg(long, value_name = "NUMBER", default_value = "512")]
    max_callers_per_address: NonZeroUsize,
}

/// Host name of a token, and the file to write it to.
#[derive(Clone)]
struct Issue {
    hostname: String,
    file: String,
}

impl FromStr for Issue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (hostname, file) = text.split_once(':').ok_or("use HOSTNAME:FILE")?;
        // Callers send it in their ClientHello, which allows only DNS names.
        DnsName::try_from(hostname).map_err(|_| format!("\"{hostname}\" is not a host name"))?;
        if file.is_empty() {
            return Err("the file is missing after the host name".to_owned());
        }
        Ok(Self {
            hostname: hostname.to_owned(),
            file: file.to_owned(),
        })
    }
}

// One thread, enough for gigabits: a server with many devices may use more.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    support::end(run(Options::parse()).await)
}

async fn run(options: Options) -> Result<(), ExampleError> {
    let fernet = match options.fernet_key.as_slice() {
        [] => FernetKeys::generate(),
        keys => FernetKeys::from_keys(keys).map_err(ExampleError::option("--fernet-key"))?,
    };
    let mut config = ServerConfig {
        throttling: options.throttling,
        ..ServerConfig::default()
    };
    config.set_callers_per_address(options.max_callers_per_address.get());
    let server = Server::new(fernet.clone(), config);
    let mut listeners = Vec::new();
    let mut addresses = Vec::new();
    for (address, port) in options.listeners() {
        let listener = TcpListener::bind(address)
            .await
            .map_err(ExampleError::context(format_args!(
                "cannot listen on {address}"
            )))?;
        addresses.push(listener.local_addr()?.to_string());
        listeners.push((listener, port));
    }
    // Only after the listeners are bound: existing tokens in the files may be in use.
    for to_issue in &options.issue {
        issue(&fernet, &options, to_issue)?;
    }
    // Before the ready line, so that no signal is missed.
    let stop = stop_signal(std::env::args_os().len() == 1)?;
    report_on_signal(server.handle())?;
    println!(
        "{}",
        serde_json::json!({ "ready": true, "listen": addresses[0], "public": addresses.last() })
    );
    let mut serving = tokio::task::JoinSet::new();
    for (listener, port) in listeners {
        let (server, mut stop) = (server.clone(), stop.clone());
        serving.spawn(async move {
            let stopped = async {
                // An error means that the signal task is gone: stop as well.
                let _ = stop.wait_for(|stop| *stop).await;
            };
            server.serve_listener(listener, port, stopped).await;
        });
    }
    while let Some(ended) = serving.join_next().await {
        ended?;
    }
    report_metrics(&server.handle());
    Ok(())
}

fn report_metrics(server: &ServerHandle) {
    println!("{}", serde_json::json!({ "metrics": server.metrics() }));
}

/// Prints the metrics on each SIGUSR1.
#[cfg(unix)]
fn report_on_signal(server: ServerHandle) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut asked = signal(SignalKind::user_defined1())?;
    tokio::spawn(async move {
        while asked.recv().await.is_some() {
            report_metrics(&server);
        }
    });
    Ok(())
}

#[cfg(not(unix))]
fn report_on_signal(_: ServerHandle) -> std::io::Result<()> {
    Ok(())
}

impl Options {
    /// Returns the addresses and listener configurations.
    fn listeners(&self) -> Vec<(&str, ListenerConfig)> {
        let port = |role, proxy_protocol| ListenerConfig {
            role,
            proxy_protocol,
        };
        match &self.public {
            None => vec![(&self.listen, port(ListenerRole::Any, self.proxy_protocol))],
            Some(public) => vec![
                (&self.listen, port(ListenerRole::Devices, false)),
                (public, port(ListenerRole::Callers, self.proxy_protocol)),
            ],
        }
    }
}

fn issue(fernet: &FernetKeys, options: &Options, issue: &Issue) -> Result<(), ExampleError> {
    let Issue { hostname, file } = issue;
    let key = SessionKey::generate()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut content = TokenContent::new(hostname, key, now.saturating_add(options.valid));
    content.protocol_version = options.protocol_version;
    content.cipher = options.cipher;
    let issued = serde_json::json!({
        "token": fernet.issue(&content)?,
        "aes_key": *content.key.key_hex(),
        "aes_iv": *content.key.iv_hex(),
        "hostname": hostname,
        "protocol_version": u8::from(options.protocol_version),
        "cipher": options.cipher.name(),
    });
    write_secret(file, &issued.to_string()).map_err(ExampleError::context(format_args!(
        "cannot write the token file {file}"
    )))
}

/// Writes a file that only the current user can read, even if it existed before: its content
/// authenticates the device.
fn write_secret(file: &str, text: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(file)?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    file.write_all(text.as_bytes())
}

/// Returns a watch that becomes true on SIGTERM or Ctrl-C; in the demo, at once.
fn stop_signal(demo: bool) -> std::io::Result<watch::Receiver<bool>> {
    let (stop, stopped) = watch::channel(demo);
    let signal = support::stop_signal()?;
    tokio::spawn(async move {
        // An error means that no signal can arrive: stop.
        let _ = signal.await;
        stop.send_replace(true);
    });
    Ok(stopped)
}
