//! `run`: connects the device and keeps it connected until SIGINT or SIGTERM.
//!
//! The facade does the work; this module selects the backend of the tunnel, prints the events,
//! notifies supervisors and shuts down.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use cloud_facade::Event;
use cloud_facade::config::Credentials;
use cloud_facade::remote::{
    AccessRules, AllowedHost, Application, HttpOptions, PassedHeader, ProxyProtocol, UnknownCallers,
};
use cloud_net::LogThrottle;
use ipnet::IpNet;
use tokio::time::timeout;

use crate::access_log::{AccessLog, AccessLogOptions};
use crate::application_check::{ApplicationChanges, ApplicationState, CheckedApplication};
use crate::auth_options::{AuthOptions, ServedAs};
use crate::caller_records::CallerRecords;
use crate::commands::device_store;
use crate::device::{Backend, Device, DeviceOptions, Served};
use crate::error::{CliError, Result};
use crate::event_json::{event_json, health_json};
use crate::forward_options::{FORWARD_ONLY, ForwardArgs};
use crate::forward_target::ForwardTarget;
use crate::health::{HealthLog, HealthOptions, HealthSocket, Metrics};
use crate::heap::HeapTrimmer;
use crate::logging;
use crate::options::{GlobalOptions, LimitOptions};
use crate::outbox_options::OutboxOptions;
use crate::output::Output;
use crate::proxy;
use crate::reload::{Reader, ReloadEvent, Reloaded, Reloader};
use crate::session_options::SessionOptions;
use crate::settings::Settings;
use crate::shutdown::Shutdown;
use crate::static_files;
use crate::status_page::{MakerOptions, StatusPage, qr_code};
use crate::systemd::SystemdNotifier;
use crate::ticks::ticks;
use crate::value_parsers::{LocalApplication, range};

const EXAMPLES: &str = "\
Examples:
  Serve the built-in status page
      clesyde-cloud run --sn SN0001

  Publish a web application on this device, but only to two networks
      clesyde-cloud run --sn SN0001 --forward 127.0.0.1:8080 --allow 192.0.2.0/24 --allow 2001:db8::/32

  The same for an application that has a host name of its own as well
      clesyde-cloud run --sn SN0001 --forward 127.0.0.1:8080 --host device.example.com

  Ask callers for a password, and for a certificate too below /admin
      htpasswd -c -B users.htpasswd alice
      clesyde-cloud run --sn SN0001 --forward 127.0.0.1:8080 --auth basic=users.htpasswd --auth /admin:mtls=admins.pem

  Pass plain bytes to a program that reads the caller's address
      clesyde-cloud run --sn SN0001 --forward-tcp 127.0.0.1:9000 --proxy-protocol v2

  Forward to a local gRPC server
      clesyde-cloud run --sn SN0001 --forward h2c://127.0.0.1:50051

  Serve health and metrics for a supervisor and Prometheus
      clesyde-cloud run --sn SN0001 --health 127.0.0.1:9100

  Write a line for each request of a caller
      clesyde-cloud run --sn SN0001 --access-log json --access-log-file /var/log/clesyde/access.log

With --json each event is a line. A reader that stops reading or goes away delays and ends nothing: lines beyond the
queue are lost, and a `missed` event counts them. So are log lines.

SIGHUP reads the configuration file again. What is served and to whom, limits, proxy and the level of the log change
without cutting a connection; a file that cannot be used changes nothing. RUST_LOG sets the level of log lines if
neither -v nor -q is given.

systemd is notified of readiness, reloads, status and liveness (Type=notify-reload, WatchdogSec=). Log lines for its
journal have a priority and no time of their own.

Each option is a variable CLESYDE_… and a key of the configuration file as well; see `config template`. Commas separate
several values of a variable.";

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArgs {
    /// Serve the built-in status page (default)
    #[arg(long, group = "backend", conflicts_with_all = FORWARD_ONLY)]
    ui: bool,

    /// Forward HTTP and WebSocket to a local web server; TLS ends here
    ///
    /// The server takes HTTP/1.1 without TLS; http://HOST:PORT and unix:/PATH name it too. While it
    /// does not answer, the log, `status`, `doctor`, /readyz and /metrics say so.
    ///
    /// The headers Forwarded and X-Forwarded-For name the caller, except a caller over IPv6 before
    /// version 2 of the tunnel's protocol: the server must not trust a request because it comes
    /// from this device.
    ///
    /// The server takes HTTP/1.1 without TLS at HOST:PORT or unix:PATH, HTTP/2 without TLS (gRPC)
    /// at h2c://HOST:PORT, and either with TLS at https://HOST:PORT.
    #[arg(long, group = "backend", value_name = "HOST:PORT")]
    forward: Option<ForwardTarget>,

    #[command(flatten)]
    forward_options: ForwardArgs,

    /// Serve the files of this directory
    ///
    /// index.html stands for a directory; others are not listed. Symbolic links are followed.
    #[arg(
        long = "static",
        group = "backend",
        value_name = "DIR",
        conflicts_with_all = FORWARD_ONLY
    )]
    static_dir: Option<PathBuf>,

    /// Forward plain bytes to a local server; TLS ends here
    #[arg(
        long,
        group = "backend",
        value_name = "HOST:PORT",
        conflicts_with_all = FORWARD_ONLY
    )]
    forward_tcp: Option<LocalApplication>,

    /// Forward connections without decryption; TLS ends at the local server, with its own
    /// certificate
    #[arg(
        long,
        group = "backend",
        value_name = "HOST:PORT",
        conflicts_with_all = FORWARD_ONLY
    )]
    passthrough: Option<LocalApplication>,

    /// Prepend the caller's address to the bytes, as a PROXY protocol header
    #[arg(
        long,
        value_name = "VERSION",
        value_enum,
        conflicts_with_all = ["ui", "forward", "passthrough", "static_dir"]
    )]
    proxy_protocol: Option<ProxyVersion>,

    /// Offer this protocol by ALPN, such as h2 for --forward-tcp to a gRPC server; may be given
    /// several times
    #[arg(
        long,
        value_name = "PROTOCOL",
        value_delimiter = ',',
        value_parser = NonEmptyStringValueParser::new(),
        conflicts_with_all = ["ui", "forward", "passthrough", "static_dir"]
    )]
    alpn: Vec<String>,

    /// Allow only callers with an address in this range; may be given several times
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = range)]
    allow: Vec<IpNet>,

    /// Deny callers with an address in this range, even if --allow covers them; may be given
    /// several times
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = range)]
    deny: Vec<IpNet>,

    /// Whether to allow callers with an unknown address [default: deny if a rule of --allow or
    /// --deny could concern them, else allow]
    ///
    /// Before version 2 of the tunnel's protocol this is every caller over IPv6. By default they
    /// are denied if --deny contains a range of IPv6 addresses or 0.0.0.0, or if --allow is given,
    /// unless it covers 0.0.0.0/0 and ::/0.
    #[arg(long, value_name = "DECISION", value_enum)]
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
        conflicts_with_all = ["forward_tcp", "passthrough"]
    )]
    pass_header: Vec<PassedHeader>,

    #[command(flatten)]
    auth: AuthOptions,

    #[command(flatten)]
    maker: MakerOptions,

    #[command(flatten)]
    limits: LimitOptions,

    #[command(flatten)]
    outbox: OutboxOptions,

    #[command(flatten)]
    session: SessionOptions,

    #[command(flatten)]
    health: HealthOptions,

    #[command(flatten)]
    access_log: AccessLogOptions,
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

pub(crate) async fn run(
    global: &GlobalOptions,
    arguments: &RunArgs,
    settings: &Settings,
    read: Reader,
    output: &Output,
) -> Result {
    let mut shutdown = Shutdown::install()?;
    let mut reloader = Reloader::install(settings, read)?;
    let served = served(global, arguments, settings)?;
    let health = arguments.health.address()?;
    let store = device_store(global)?;
    let config = store
        .load_partial()
        .map_err(|error| CliError::from_load(&store, &error))?
        .device;
    let sn = config.serial_number.clone();
    let certificate = config.remote.as_ref().ok().map(Credentials::info);
    let health = match health {
        Some(address) => Some((HealthSocket::bind(address).await?, Metrics::install())),
        None => None,
    };
    let access_log = arguments.access_log.open()?;
    let options = DeviceOptions {
        page: StatusPage::new(&sn, &config, certificate, arguments.maker.maker()?),
        sn,
        base_path: global.base_path()?,
        url: config.page_url(),
        outbox: Some(arguments.outbox.clone()),
        session: Some(arguments.session.clone()),
        callers: CallerRecords {
            counters: health.as_ref().map(|(_, metrics)| metrics.requests()),
            access_log: access_log.clone(),
        },
        served,
    };
    // Keeps keys in memory only while they are in use.
    drop(config);
    let mut device = tokio::select! {
        device = Device::start(options) => device?,
        () = shutdown.requested() => return Ok(()),
    };
    let mut systemd = SystemdNotifier::from_environment()?;
    let health_state = device.health_state().clone();
    let outlets = vec![
        ("log", logging::lost_lines()),
        ("output", output.lost_lines()),
        ("systemd", systemd.lost_lines()),
        (
            "access_log",
            access_log.as_ref().and_then(AccessLog::lost_lines),
        ),
    ];
    let health = health.map(|(socket, metrics)| {
        socket.serve(health_state.clone(), metrics, outlets, device.local_page())
    });
    let mut printer = EventPrinter::new(output.clone(), io::stdout().is_terminal());
    if let Some(health) = &health {
        printer.health_address(health.address());
    }
    systemd.ready();

    let mut heap = HeapTrimmer::new();
    let mut heartbeat = ticks(systemd.heartbeat_interval());
    let mut health_log = HealthLog::new(arguments.health.log_interval());
    let mut applications = ApplicationChanges::new(device.application_states());
    let mut output_closed = false;
    loop {
        tokio::select! {
            event = device.next() => match event {
                Some(event) => {
                    if let Some(line) = systemd_status(&event, device.application_problem()) {
                        systemd.status(line);
                    }
                    printer.event(&event, device.application_problem());
                }
                None => break,
            },
            state = applications.next() => printer.application(&state),
            () = output.closed(), if !output_closed => {
                output_closed = true;
                tracing::warn!("the reader of standard output has closed it; nothing more is printed there");
            }
            _ = heartbeat.tick() => {
                health_state.heartbeat();
                systemd.keep_alive();
                heap.heartbeat();
            }
            () = health_log.due() => health_state.log(),
            event = reloader.next() => match event {
                ReloadEvent::Started => systemd.reloading(),
                ReloadEvent::Ended(read) => {
                    reload(read, &mut device, &mut reloader);
                    systemd.ready();
                }
            },
            () = shutdown.requested() => break,
        }
    }
    systemd.stopping();
    device.stop().await;
    while let Some(event) = device.next().await {
        printer.event(&event, None);
        if matches!(event, Event::Stopped) {
            break;
        }
    }
    // The socket may be full, and the disk slow.
    let access_log = async {
        if let Some(access_log) = &access_log {
            access_log.flush().await;
        }
    };
    let flush = async { tokio::join!(systemd.flush(), access_log) };
    let _ = timeout(FLUSH_TIMEOUT, flush).await;
    Ok(())
}

/// Returns what callers reach, and how.
pub(crate) fn served(
    global: &GlobalOptions,
    arguments: &RunArgs,
    settings: &Settings,
) -> Result<Served> {
    Ok(Served {
        backend: arguments.backend(settings)?,
        access: arguments.access(),
        auth: arguments.auth.read(arguments.served_as())?,
        http_options: arguments.http_options(settings),
        limits: arguments.limits.limits(),
        proxy: proxy::for_cloud(global)?,
    })
}

/// Applies settings that were read again, or says why they cannot be used.
fn reload(read: Result<Box<Reloaded>, String>, device: &mut Device, reloader: &mut Reloader) {
    let applied = read.and_then(|reloaded| {
        let Reloaded {
            served,
            log_level,
            settings,
        } = *reloaded;
        device.serve(served).map_err(|error| error.to_string())?;
        logging::set_level(log_level);
        reloader.accept(settings);
        Ok(())
    });
    if let Err(reason) = applied {
        tracing::warn!(
            reason,
            "the settings are not reloaded, and the present ones stay"
        );
    }
}

/// Time limit for the last notification and the last lines of the access log.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(100);

/// The status line for the most important events.
fn systemd_status(event: &Event, problem: Option<String>) -> Option<String> {
    Some(match event {
        Event::IotConnected => "online".to_owned(),
        Event::IotDisconnected { reason, .. } => format!("not connected to the broker: {reason}"),
        Event::RemoteConnected { url } => reachable(url, problem),
        Event::RemoteConnectFailed { reason } | Event::RemoteDisconnected { reason } => {
            format!("not reachable: {reason}")
        }
        _ => return None,
    })
}

fn reachable(url: &str, problem: Option<String>) -> String {
    match problem {
        None => format!("reachable at {url}"),
        Some(problem) => format!("reachable at {url}, but {problem}"),
    }
}

/// Prints the public URL as text, and each event as JSON. A closed output is ignored.
struct EventPrinter {
    output: Output,
    /// The relay can cause the line with the URL, so it is throttled.
    url_log: LogThrottle,
    is_terminal: bool,
    /// The URL whose code is on the terminal: every reconnection would repeat it.
    shown_url: String,
}

impl EventPrinter {
    fn new(output: Output, is_terminal: bool) -> Self {
        Self {
            output,
            url_log: LogThrottle::new(),
            is_terminal,
            shown_url: String::new(),
        }
    }

    fn health_address(&self, address: SocketAddr) {
        let line =
            format_args!("health endpoints at http://{address}/healthz, /readyz and /metrics");
        let _ = self.output.result(&health_json(address), line);
    }

    fn event(&mut self, event: &Event, problem: Option<String>) {
        if let Event::RemoteConnected { url } = event
            && self.url_log.allow().is_some()
        {
            let _ = self.output.text(reachable(url, problem));
            if self.is_terminal && self.shown_url != *url {
                self.show_code(url);
                self.shown_url.clone_from(url);
            }
        }
        let _ = self.output.json(&event_json(event));
    }

    /// Shows how to open the page: on this machine, and on a phone.
    fn show_code(&self, url: &str) {
        let _ = self
            .output
            .text(format_args!("open it here: xdg-open {url}\nor on a phone:"));
        for line in qr_code::terminal_lines(url) {
            let _ = self.output.escaped_text(line);
        }
    }

    /// The log reports the state to people.
    fn application(&self, state: &ApplicationState) {
        let _ = self.output.json(&state.json());
    }
}

impl RunArgs {
    fn served_as(&self) -> ServedAs {
        match (&self.forward_tcp, &self.passthrough) {
            (Some(_), _) => ServedAs::PlainTcp,
            (_, Some(_)) => ServedAs::Passthrough,
            _ => ServedAs::Http,
        }
    }

    fn access(&self) -> AccessRules {
        let rules = AccessRules::new(self.allow.iter().copied(), self.deny.iter().copied());
        match self.unknown_callers {
            Some(option) => rules.unknown_callers(option.into()),
            None => rules,
        }
    }

    fn http_options(&self, settings: &Settings) -> HttpOptions {
        let of_routes = settings.routes.iter();
        let of_routes = of_routes.filter_map(|route| route.arguments.allowed_host());
        let options = self
            .host
            .iter()
            .cloned()
            .chain(of_routes)
            .fold(HttpOptions::new(), HttpOptions::allow_host);
        self.pass_header
            .iter()
            .cloned()
            .fold(options, HttpOptions::pass_header)
    }

    /// Returns what callers reach: the way to serve, and the routes of the file.
    fn backend(&self, settings: &Settings) -> Result<Backend> {
        let local = |target: &LocalApplication, option| {
            target.warn_if_unresolvable(option);
            let upstream = target.upstream();
            let checked = CheckedApplication {
                upstream: upstream.clone(),
                is_http: false,
            };
            (upstream, Some(checked))
        };
        let (application, checked) = if let Some(target) = &self.forward {
            let (application, checked) = self.forward_options.application(target, "--forward")?;
            (Some(application), Some(checked))
        } else if let Some(directory) = &self.static_dir {
            (Some(static_files::application(directory, "")?), None)
        } else if let Some(target) = &self.forward_tcp {
            let (upstream, checked) = local(target, "--forward-tcp");
            let version = self.proxy_protocol.map(ProxyProtocol::from);
            let application = Application::forward_tcp(upstream, version);
            (Some(application.alpn(self.alpn.iter().cloned())), checked)
        } else if let Some(target) = &self.passthrough {
            let (upstream, checked) = local(target, "--passthrough");
            (Some(Application::passthrough(upstream)), checked)
        } else {
            (None, None)
        };
        let mut backend = Backend {
            application,
            routes: Vec::new(),
            checked: checked.into_iter().collect(),
        };
        for route in &settings.routes {
            let (application, checked) = route.arguments.application()?;
            backend.add_route(route.arguments.requests(), application, checked);
        }
        Ok(backend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::tests::Recorder;

    #[tokio::test]
    async fn url_line_is_throttled_and_json_events_are_not() {
        for (json, expected) in [(false, 5), (true, 100)] {
            let (recorder, output) = Recorder::output(json);
            let mut printer = EventPrinter::new(output.clone(), false);
            for _ in 0..100 {
                let event = Event::RemoteConnected {
                    url: "https://a/".to_owned(),
                };
                printer.event(&event, None);
            }
            output.flush().await.unwrap();
            let text = recorder.text();
            assert_eq!(text.lines().count(), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn code_is_shown_on_terminal_once_for_each_url() {
        for (json, is_terminal, expected) in [(false, true, 2), (false, false, 0), (true, true, 0)]
        {
            let (recorder, output) = Recorder::output(json);
            let mut printer = EventPrinter::new(output.clone(), is_terminal);
            for url in ["https://a/", "https://a/", "https://b/"] {
                let url = url.to_owned();
                printer.event(&Event::RemoteConnected { url }, None);
            }
            output.flush().await.unwrap();
            let text = recorder.text();
            let count = text.matches("xdg-open https://").count();
            assert_eq!(count, expected, "{text}");
            assert_eq!(text.contains('\u{2584}'), expected > 0, "{text}");
        }
    }

    #[test]
    fn url_line_names_application_that_does_not_answer() {
        assert_eq!(reachable("https://a/", None), "reachable at https://a/");
        let problem = "the application at 127.0.0.1:1 does not answer: refused".to_owned();
        assert_eq!(
            reachable("https://a/", Some(problem)),
            "reachable at https://a/, but the application at 127.0.0.1:1 does not answer: refused"
        );
    }
}
