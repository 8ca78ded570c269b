//! `run`: connects the device and keeps it connected until SIGINT or SIGTERM.
//!
//! The facade does the work; here are what the tunnel serves, the events as lines, what supervisors ask, and the orderly end.

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

use crate::cli::GlobalOptions;
use crate::commands::{device_store, load_failure};
use crate::device::{Device, DeviceOptions, Served};
use crate::event_line::{event_line, health_line};
use crate::failure::Outcome;
use crate::health::{HealthSocket, PULSE, loopback};
use crate::output::Output;
use crate::proxy;
use crate::shutdown::Shutdown;
use crate::status_page::Page;
use crate::supervisor::Supervisor;
use crate::telling::Telling;
use crate::values::Address;

const EXAMPLES: &str = "\
Examples:
  Serve the built-in status page
      clesyde-cloud run --sn SN0001

  Let the public reach a web application on this device, but only from two networks
      clesyde-cloud run --sn SN0001 --forward 127.0.0.1:8080 --allow 192.0.2.0/24 --allow 2001:db8::/32

  The same for an application that is reached by a name of its own as well
      clesyde-cloud run --sn SN0001 --forward 127.0.0.1:8080 --host device.example.com

  Hand plain bytes to a program that wants to know the caller's address
      clesyde-cloud run --sn SN0001 --forward-tcp 127.0.0.1:9000 --proxy-protocol v2

  Tell a supervisor and Prometheus how it fares
      clesyde-cloud run --sn SN0001 --health 127.0.0.1:9100

With --json each event is a line. A reader that stops reading holds up nothing: lines that find no room are left out,
and `missed` tells how many.

systemd is told when it runs, how it fares and that it is alive (Type=notify, WatchdogSec=).

CLESYDE_UNKNOWN_CALLERS, CLESYDE_HOST and CLESYDE_PASS_HEADER stand for the options of these names; several values are
separated by commas.";

/// What `run` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArgs {
    /// Serve the built-in status page (this is the default)
    #[arg(long, group = "served")]
    ui: bool,

    /// Pass HTTP and WebSocket on to a local web server; TLS ends here
    ///
    /// Headers (Forwarded, X-Forwarded-For) name the caller, but not one over IPv6 before version 2 of the tunnel's protocol:
    /// let the server trust no request for coming from this device.
    #[arg(long, group = "served", value_name = "HOST:PORT")]
    forward: Option<Address>,

    /// Pass plain bytes on to a local server; TLS ends here
    #[arg(long, group = "served", value_name = "HOST:PORT")]
    forward_tcp: Option<Address>,

    /// Pass connections on as they are; TLS ends at the local server, with a certificate of its own
    #[arg(long, group = "served", value_name = "HOST:PORT")]
    passthrough: Option<Address>,

    /// Put the caller's address in front of the bytes, as the PROXY protocol says
    #[arg(
        long,
        value_name = "VERSION",
        value_enum,
        requires = "forward_tcp",
        conflicts_with_all = ["ui", "forward", "passthrough"]
    )]
    proxy_protocol: Option<ProxyVersion>,

    /// Let in only callers with an address in this range; may be given several times
    #[arg(long, value_name = "CIDR", value_parser = range)]
    allow: Vec<IpNet>,

    /// Keep out callers with an address in this range, even if --allow lets them in; may be given several times
    #[arg(long, value_name = "CIDR", value_parser = range)]
    deny: Vec<IpNet>,

    /// Whether to let in callers whose address is unknown [default: deny where a rule of --allow or --deny could concern
    /// them, else allow]
    ///
    /// Before version 2 of the tunnel's protocol that is every caller over IPv6. By default they are kept out if --deny has a
    /// range of IPv6 addresses or 0.0.0.0, or if --allow is given, unless it covers 0.0.0.0/0 and ::/0.
    #[arg(
        long,
        value_name = "DECISION",
        value_enum,
        env = "CLESYDE_UNKNOWN_CALLERS",
        hide_env_values = true
    )]
    unknown_callers: Option<UnknownCallersOption>,

    /// Answer HTTP requests for this host too, a name or an address without a port; may be given several times
    ///
    /// Requests for another host than the access point are refused with status 421, for the status page and --forward.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        env = "CLESYDE_HOST",
        hide_env_values = true,
        conflicts_with_all = ["forward_tcp", "passthrough"]
    )]
    host: Vec<AllowedHost>,

    /// Pass this request header on; may be given several times
    ///
    /// Headers that only a trusted proxy may set (the caller's address or name, another URL or host: CF-Connecting-IP,
    /// X-Real-IP, Remote-User, X-Original-URL and their like) are removed from requests to the status page and --forward, and
    /// so are those with a name that has other characters than letters, digits and hyphens. Name one here only if something in
    /// front of this device sets it: otherwise the caller does.
    #[arg(
        long,
        value_name = "NAME",
        value_delimiter = ',',
        env = "CLESYDE_PASS_HEADER",
        hide_env_values = true,
        conflicts_with_all = ["forward_tcp", "passthrough"]
    )]
    pass_header: Vec<PassedHeader>,

    /// Answer /healthz (alive), /readyz (connected) and /metrics (for Prometheus) at this loopback address; port 0 is
    /// any free one
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

/// What happens to callers whose address is unknown.
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

/// A range of addresses, or one address.
fn range(text: &str) -> Result<IpNet, String> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "is no address and no range such as 192.0.2.0/24 or 2001:db8::/32".to_owned())
}

pub(crate) async fn run(global: &GlobalOptions, arguments: &RunArgs, output: Output) -> Outcome {
    let mut shutdown = Shutdown::install()?;
    let store = device_store(global)?;
    let config = store
        .load_partial()
        .map_err(|error| load_failure(&store, &error))?
        .device;
    let sn = config.serial_number.clone();
    let certificate = config.remote.as_ref().ok().map(Credentials::info);
    let options = DeviceOptions {
        page: Page::new(&sn, &config, certificate),
        sn,
        base_path: global.base_path()?,
        served: arguments.served(),
        access: arguments.access(),
        http_options: arguments.http_options(),
        proxy: proxy::to_broker(global, config.iot_endpoint.host.as_str())?,
    };
    // Its keys are to be in memory only as long as they are in use.
    drop(config);
    let health = match arguments.health {
        Some(address) => Some(HealthSocket::bind(address).await?),
        None => None,
    };
    let mut device = tokio::select! {
        device = Device::start(options) => device?,
        () = shutdown.requested() => return Ok(()),
    };
    let vitals = device.vitals().clone();
    let health = health.map(|socket| socket.serve(vitals.clone()));
    let mut telling = Telling::start(output)?;
    if let Some(health) = &health {
        tell_health(health.address(), &mut telling);
    }
    let mut supervisor = Supervisor::from_environment();
    supervisor.ready();

    let reachable_lines = LogThrottle::new();
    let mut pulse = interval(PULSE);
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let told = loop {
        tokio::select! {
            event = device.next() => match event {
                Some(event) => {
                    if let Some(line) = status_line(&event) {
                        supervisor.status(&line);
                    }
                    tell(&event, &mut telling, &reachable_lines);
                }
                None => break Ok(()),
            },
            told = telling.ended() => break told,
            _ = pulse.tick() => {
                vitals.beat();
                supervisor.alive();
            }
            () = shutdown.requested() => break Ok(()),
        }
    };
    supervisor.stopping();
    device.stop().await;
    // Whoever read the lines has gone, and that ended it.
    told?;
    while let Some(event) = device.next().await {
        tell(&event, &mut telling, &reachable_lines);
        if matches!(event, Event::Stopped) {
            break;
        }
    }
    telling.finish().await
}

fn tell_health(address: SocketAddr, telling: &mut Telling) {
    telling.text(format_args!(
        "tells how it fares at http://{address}/healthz, /readyz and /metrics"
    ));
    telling.json(&health_line(address));
}

/// What an operator wants to see of an instance first.
fn status_line(event: &Event) -> Option<String> {
    Some(match event {
        Event::IotConnected => "online".to_owned(),
        Event::IotDisconnected { reason, .. } => format!("not connected to the broker: {reason}"),
        Event::RemoteConnected { url } => format!("reachable at {url}"),
        Event::RemoteDisconnected { reason } => format!("not reachable: {reason}"),
        _ => return None,
    })
}

/// Prints the address for people, and each event as JSON. The relay can cause the address line, so it is paced.
fn tell(event: &Event, telling: &mut Telling, reachable_lines: &LogThrottle) {
    if let Event::RemoteConnected { url } = event
        && reachable_lines.allow().is_some()
    {
        telling.text(format_args!("reachable at {url}"));
    }
    if let Some(line) = event_line(event) {
        telling.json(&line);
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

    fn served(&self) -> Served {
        if let Some(address) = &self.forward {
            address.warn_if_unknown("--forward");
            Served::Other(Application::forward(address.upstream()))
        } else if let Some(address) = &self.forward_tcp {
            address.warn_if_unknown("--forward-tcp");
            let version = self.proxy_protocol.map(ProxyProtocol::from);
            Served::Other(Application::forward_tcp(address.upstream(), version))
        } else if let Some(address) = &self.passthrough {
            address.warn_if_unknown("--passthrough");
            Served::Other(Application::passthrough(address.upstream()))
        } else {
            Served::StatusPage
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
    async fn address_line_is_paced_and_json_events_are_not() {
        for (json, expected) in [(false, 5), (true, 100)] {
            let sink = Sink::default();
            let mut telling = Telling::over(Output::new(json), sink.clone()).unwrap();
            let reachable_lines = LogThrottle::new();
            for _ in 0..100 {
                let event = Event::RemoteConnected {
                    url: "https://a/".to_owned(),
                };
                tell(&event, &mut telling, &reachable_lines);
            }
            telling.finish().await.unwrap();
            let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.lines().count(), expected, "{text}");
        }
    }
}
