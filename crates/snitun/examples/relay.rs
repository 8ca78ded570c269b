//! A SniTun server on one port, or on two.
//!
//! ```text
//! relay --listen ADDR --fernet-key KEY[,KEY…] [--public ADDR] [--proxy-protocol] [--issue HOSTNAME:FILE]…
//!       [--protocol-version 0|1|2] [--cipher aes-cbc|aes-gcm|aes-gcm-siv] [--valid SECONDS] [--throttling MESSAGES_PER_SECOND]
//! ```
//!
//! With `--public`, callers connect there and devices to `--listen`; without it, both to the one port. `--proxy-protocol`
//! demands a PROXY protocol header on the port for callers, of devices as well where they share it. `--issue` writes a token
//! with its key and initial vector as JSON, readable by nobody else, for the `forward` example and for tests. One JSON line
//! says when the server listens and where, another what it has done: on SIGUSR1, and when SIGTERM or Ctrl-C has stopped it.
//! Without arguments it listens on a free port with a fresh Fernet key, says so, and stops.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use snitun::server::{
    FernetKeys, Port, PortRole, Server, ServerConfig, ServerHandle, TokenContent,
};
use snitun::{Cipher, ProtocolVersion, SessionKey};
use tokio::net::TcpListener;
use tokio::sync::watch;

// One thread, enough for gigabits: a server of your own, with many devices, may have more.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::read()?;
    let fernet = FernetKeys::from_keys(&options.fernet_keys)?;
    for (hostname, file) in &options.issue {
        issue(&fernet, &options, hostname, file)?;
    }
    let config = ServerConfig {
        throttling: options.throttling,
        ..ServerConfig::default()
    };
    let server = Server::new(fernet, config);
    let mut listeners = Vec::new();
    let mut addresses = Vec::new();
    for (address, port) in options.ports() {
        let listener = TcpListener::bind(address).await?;
        addresses.push(listener.local_addr()?.to_string());
        listeners.push((listener, port));
    }
    // Before anyone is told that we are ready, so that no signal is missed.
    let stop = stop_signal(options.demo)?;
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
                // An error means that whoever could have told us is gone: stop as well.
                let _ = stop.wait_for(|stop| *stop).await;
            };
            server.serve_port(listener, port, stopped).await;
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

/// Says on each SIGUSR1 what the server has done.
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

struct Options {
    demo: bool,
    listen: String,
    public: Option<String>,
    proxy_protocol: bool,
    fernet_keys: Vec<String>,
    issue: Vec<(String, String)>,
    version: ProtocolVersion,
    cipher: Cipher,
    valid: u64,
    throttling: Option<std::num::NonZeroU32>,
}

impl Options {
    fn read() -> Result<Self, Box<dyn Error>> {
        let mut options = Self {
            demo: std::env::args().len() == 1,
            listen: "127.0.0.1:0".to_owned(),
            public: None,
            proxy_protocol: false,
            fernet_keys: Vec::new(),
            issue: Vec::new(),
            version: ProtocolVersion::default(),
            cipher: Cipher::default(),
            valid: 24 * 3600,
            throttling: None,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            if name == "--proxy-protocol" {
                options.proxy_protocol = true;
                continue;
            }
            let value = arguments.next().ok_or(format!("{name} needs a value"))?;
            match name.as_str() {
                "--listen" => options.listen = value,
                "--public" => options.public = Some(value),
                "--fernet-key" => {
                    options
                        .fernet_keys
                        .extend(value.split(',').map(str::to_owned));
                }
                "--issue" => {
                    let (hostname, file) = value.split_once(':').ok_or("--issue HOSTNAME:FILE")?;
                    options.issue.push((hostname.to_owned(), file.to_owned()));
                }
                "--protocol-version" => options.version = value.parse::<u8>()?.try_into()?,
                "--cipher" => options.cipher = value.parse()?,
                "--valid" => options.valid = value.parse()?,
                "--throttling" => options.throttling = Some(value.parse()?),
                _ => return Err(format!("what is {name}?").into()),
            }
        }
        if options.fernet_keys.is_empty() {
            options
                .fernet_keys
                .push(FernetKeys::generate_key().to_string());
        }
        Ok(options)
    }

    /// Where to listen, and for whom.
    fn ports(&self) -> Vec<(&str, Port)> {
        let port = |role, proxy_protocol| Port {
            role,
            proxy_protocol,
        };
        match &self.public {
            None => vec![(&self.listen, port(PortRole::Any, self.proxy_protocol))],
            Some(public) => vec![
                (&self.listen, port(PortRole::Devices, false)),
                (public, port(PortRole::Callers, self.proxy_protocol)),
            ],
        }
    }
}

fn issue(
    fernet: &FernetKeys,
    options: &Options,
    hostname: &str,
    file: &str,
) -> Result<(), Box<dyn Error>> {
    let key = SessionKey::generate()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut content = TokenContent::new(hostname, key, now + options.valid);
    content.protocol_version = options.version;
    content.cipher = options.cipher;
    let issued = serde_json::json!({
        "token": fernet.issue(&content)?,
        "aes_key": *content.key.key_hex(),
        "aes_iv": *content.key.iv_hex(),
        "hostname": hostname,
        "protocol_version": u8::from(options.version),
        "cipher": options.cipher.name(),
    });
    Ok(write_secret(file, &issued.to_string())?)
}

/// Whoever can read it can take the device's place: nobody but us can, even if the file was there before.
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

/// Tells when SIGTERM or Ctrl-C has come; in the demonstration, at once.
fn stop_signal(demo: bool) -> Result<watch::Receiver<bool>, Box<dyn Error>> {
    let (stop, stopped) = watch::channel(demo);
    #[cfg(unix)]
    let mut terminate = {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate())?
    };
    tokio::spawn(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
        stop.send_replace(true);
    });
    Ok(stopped)
}
