//! `run`: connects the device and keeps it connected until SIGINT or SIGTERM.
//!
//! The facade does the work; this module selects the backend of the tunnel, prints the events,
//! notifies supervisors and shuts down.

use std::net::{IpAddr, SocketAddr};

use clap::{Args, ValueEnum};
use cloud_facade::Event;
use cloud_facade::config::Credentials;
use cloud_facade::remote::{
    AccessRules, AllowedHost, Application, HttpOptions, PassedHeader, ProxyProtocol, UnknownCallers,
};
use cloud_net::LogThrottle;
use ipnet::IpNet;
use tokio::time::{MissedTickBehavior, interval};

use crate::commands::device_store;
use crate::device::{Backend, Device, DeviceOptions};
use crate::error::{CliError, Result};
use crate::event_json::{event_json, health_json};
use crate::health::{HEARTBEAT_INTERVAL, HealthSocket, loopback};
use crate::options::{GlobalOptions, LimitOptions};
use crate::output::Output;
use crate::proxy;
use crate::shutdown::Shutdown;
use crate::status_page::StatusPage;
use crate::stdout::NonBlockingStdout;
use crate::systemd::SystemdNotifier;
use crate::value_parsers::Address;

const EXAMPLES: &str = "\
Examples:
  Serve the built-in status page
      clesyde-cloud run --sn SN0001

  Publish a web application on this device, but only to two networks
      clesyde-cloud run --sn SN0001 --forward 127.0.0.1:8080 --allow 192.0.2.0/24 --allow 2001:db8::/32

  The same for an application that has a host name of its own as well
      clesyde-cloud run --sn SN0001 --forward 127.0.0.1:8080 --host device.example.com

  Pass plain bytes to a program that reads the caller's address
      clesyde-cloud run --sn SN0001 --forward-tcp 127.0.0.1:9000 --proxy-protocol v2

  Serve health and metrics for a supervisor and Prometheus
      clesyde-cloud run --sn SN0001 --health 127.0.0.1:9100

With --json each event is a line. A reader that stops reading delays nothing: lines beyond the queue are dropped,
and a `missed` event counts them.

systemd is notified of readiness, status and liveness (Type=notify, WatchdogSec=).

CLESYDE_UNKNOWN_CALLERS, CLESYDE_HOST and CLESYDE_PASS_HEADER set the options of these names; commas separate
several values.";

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArgs {
    /// Serve the built-in status page (default)
    #[arg(long, group = "backend")]
    ui: bool,

    /// Forward HTTP and WebSocket to a local web server; TLS ends here
    ///
    /// The headers Forwarded and X-Forwarded-For name the caller, except a caller over IPv6 before
    /// version 2 of the tunnel's protocol: the server must not trust a request because it comes
    /// from this device.
    #[arg(long, group = "backend", value_name = "HOST:PORT")]
    forward: Option<Address>,

    /// Forward plain bytes to a local server; TLS ends here
    #[arg(long, group = "backend", value_name = "HOST:PORT")]
    forward_tcp: Option<Address>,

    /// Forward connections without decryption; TLS ends at the local server, with its own
    /// certificate
    #[arg(long, group = "backend", value_name = "HOST:PORT")]
    passthrough: Option<Address>,

    /// Prepend the caller's address to the bytes, as a PROXY protocol header
    #[arg(
        long,
        value_name = "VERSION",
        value_enum,
        requires = "forward_tcp",
        conflicts_with_all = ["ui", "forward", "passthrough"]
    )]
    proxy_protocol: Option<ProxyVersion>,

    /// Allow only callers with an address in this range; may be given several times
    #[arg(long, value_name = "CIDR", value_parser = parse_range)]
    allow: Vec<IpNet>,

    /// Deny callers with an address in this range, even if --allow covers them; may be given
    /// several times
    #[arg(long, value_name = "CIDR", value_parser = parse_range)]
    deny: Vec<IpNet>,

    /// Whether to allow callers with an unknown address [default: deny if a rule of --allow or
    /// --deny could concern them, else allow]
    ///
    /// Before version 2 of the tunnel's protocol this is every caller over IPv6. By default they
    /// are denied if --deny contains a range of IPv6 addresses or 0.0.0.0, or if --allow is given,
    /// unless it covers 0.0.0.0/0 and ::/0.
    #[arg(
        long,
        value_name = "DECISION",
        value_enum,
        env = "CLESYDE_UNKNOWN_CALLERS",
        hide_env_values = true
    )]
    unknown_callers: Option<UnknownCallersOption>,

    /// Accept HTTP requests for this host too, a name or an address without a port; may be given
    /// several times
    ///
    /// The status page and --forward refuse requests for other hosts than the access point with
    /// status 421.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        env = "CLESYDE_HOST",
        hide_env_values = true,
        conflicts_with_all = ["forward_tcp", "passthrough"]
    )]
    host: Vec<AllowedHost>,

    /// Forward this request header; may be given several times
    ///
    /// The status page and --forward remove headers that only a trusted proxy may set (the caller's
    /// address or name, another URL or host: CF-Connecting-IP, X-Real-IP, Remote-User,
    /// X-Original-URL and similar ones), and headers whose names contain other characters than
    /// letters, digits and hyphens. Name a header here only if a proxy in front of this device sets
    /// it: otherwise the caller does.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        env = "CLESYDE_PASS_HEADER",
        hide_env_values = true,
        conflicts_with_all = ["forward_tcp", "passthrough"]
    )]
    pass_header: Vec<PassedHeader>,

    #[command(flatten)]
    limits: LimitOptions,

    /// Serve /healthz (alive), /readyz (connected) and /metrics (for Prometheus) at this loopback
    /// address; port 0 is any free port
    #[arg(long, value_name = "ADDR", value_parser = loopback)]
    health: Option<SocketAddr>,
}

/// Versions of the PROXY protocol.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProxyVersion {
    V1,
    V2,
}

impl From<ProxyVersion> for ProxyProtocol {
    fn from(version: ProxyVersion) -> Self {
        match version {
            ProxyVersion::V1 => Self::V1,
            ProxyVersion::V2 => Self::V2,
        }
    }
}

/// The decision for callers with an unknown address.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum UnknownCallersOption {
    Allow,
    Deny,
}

impl From<UnknownCallersOption> for UnknownCallers {
    fn from(option: UnknownCallersOption) -> Self {
        match option {
            UnknownCallersOption::Allow => Self::Allow,
            UnknownCallersOption::Deny => Self::Deny,
        }
    }
}

/// Parses a range of addresses, or one address.
fn parse_range(text: &str) -> Result<IpNet, String> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| {
            "is neither an address nor a range such as 192.0.2.0/24 or 2001:db8::/32".to_owned()
        })
}

pub(crate) async fn run(global: &GlobalOptions, arguments: &RunArgs, output: Output) -> Result {
    let mut shutdown = Shutdown::install()?;
    let store = device_store(global)?;
    let config = store
        .load_partial()
        .map_err(|error| CliError::from_load(&store, &error))?
        .device;
    let sn = config.serial_number.clone();
    let certificate = config.remote.as_ref().ok().map(Credentials::info);
    let options = DeviceOptions {
        page: StatusPage::new(&sn, &config, certificate),
        sn,
        base_path: global.base_path()?,
        backend: arguments.backend(),
        access: arguments.access(),
        http_options: arguments.http_options(),
        limits: arguments.limits.limits(),
        proxy: proxy::for_broker(global, config.iot_endpoint.host.as_str())?,
    };
    // Keeps keys in memory only while they are in use.
    drop(config);
    let health = match arguments.health {
        Some(address) => Some(HealthSocket::bind(address).await?),
        None => None,
    };
    let mut device = tokio::select! {
        device = Device::start(options) => device?,
        () = shutdown.requested() => return Ok(()),
    };
    let health_state = device.health_state().clone();
    let health = health.map(|socket| socket.serve(health_state.clone()));
    let mut stdout = NonBlockingStdout::start(output)?;
    if let Some(health) = &health {
        print_health_address(health.address(), &mut stdout);
    }
    let mut systemd = SystemdNotifier::from_environment();
    systemd.ready();

    let url_log = LogThrottle::new();
    let mut heartbeat = interval(HEARTBEAT_INTERVAL);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let result = loop {
        tokio::select! {
            event = device.next() => match event {
                Some(event) => {
                    if let Some(line) = systemd_status(&event) {
                        systemd.status(&line);
                    }
                    print_event(&event, &mut stdout, &url_log);
                }
                None => break Ok(()),
            },
            result = stdout.closed() => break result,
            _ = heartbeat.tick() => {
                health_state.heartbeat();
                systemd.keep_alive();
            }
            () = shutdown.requested() => break Ok(()),
        }
    };
    systemd.stopping();
    device.stop().await;
    // A closed standard output has ended the loop.
    result?;
    while let Some(event) = device.next().await {
        print_event(&event, &mut stdout, &url_log);
        if matches!(event, Event::Stopped) {
            break;
        }
    }
    stdout.finish().await
}

fn print_health_address(address: SocketAddr, stdout: &mut NonBlockingStdout) {
    stdout.text(format_args!(
        "health endpoints at http://{address}/healthz, /readyz and /metrics"
    ));
    stdout.json(&health_json(address));
}

/// The status line for the most important events.
fn systemd_status(event: &Event) -> Option<String> {
    Some(match event {
        Event::IotConnected => "online".to_owned(),
        Event::IotDisconnected { reason, .. } => format!("not connected to the broker: {reason}"),
        Event::RemoteConnected { url } => format!("reachable at {url}"),
        Event::RemoteDisconnected { reason } => format!("not reachable: {reason}"),
        _ => return None,
    })
}

/// Prints the public URL as text, and each event as JSON. The relay can cause the URL line, so it
/// is throttled.
fn print_event(event: &Event, stdout: &mut NonBlockingStdout, url_log: &LogThrottle) {
    if let Event::RemoteConnected { url } = event
        && url_log.allow().is_some()
    {
        stdout.text(format_args!("reachable at {url}"));
    }
    if let Some(line) = event_json(event) {
        stdout.json(&line);
    }
}

impl RunArgs {
    fn access(&self) -> AccessRules {
        let rules = AccessRules::new(self.allow.iter().copied(), self.deny.iter().copied());
        match self.unknown_callers {
            Some(option) => rules.with_unknown_callers(option.into()),
            None => rules,
        }
    }

    fn http_options(&self) -> HttpOptions {
        let options = self
            .host
            .iter()
            .cloned()
            .fold(HttpOptions::new(), HttpOptions::allow_host);
        self.pass_header
            .iter()
            .cloned()
            .fold(options, HttpOptions::pass_header)
    }

    fn backend(&self) -> Backend {
        if let Some(address) = &self.forward {
            address.warn_if_unresolvable("--forward");
            Backend::Application(Application::forward(address.upstream()))
        } else if let Some(address) = &self.forward_tcp {
            address.warn_if_unresolvable("--forward-tcp");
            let version = self.proxy_protocol.map(ProxyProtocol::from);
            Backend::Application(Application::forward_tcp(address.upstream(), version))
        } else if let Some(address) = &self.passthrough {
            address.warn_if_unresolvable("--passthrough");
            Backend::Application(Application::passthrough(address.upstream()))
        } else {
            Backend::StatusPage
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn url_line_is_throttled_and_json_events_are_not() {
        for (json, expected) in [(false, 5), (true, 100)] {
            let sink = Sink::default();
            let mut stdout =
                NonBlockingStdout::with_writer(Output::new(json), sink.clone()).unwrap();
            let url_log = LogThrottle::new();
            for _ in 0..100 {
                let event = Event::RemoteConnected {
                    url: "https://a/".to_owned(),
                };
                print_event(&event, &mut stdout, &url_log);
            }
            stdout.finish().await.unwrap();
            let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.lines().count(), expected, "{text}");
        }
    }
}
