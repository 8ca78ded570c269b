//! `doctor`: checks every step from the disk to the public page, and reports for each failure its
//! cause and what to do.
//!
//! Each step has a time limit; a step that depends on a failed one is skipped, so that the cause is
//! visible. `doctor` changes only what every command repairs itself: file modes, and the remains of
//! a power cut. It tests whether a new certificate could be stored with a file that it removes
//! again.

mod bad_request;
mod bundle;
mod connection;
mod files;
mod network;
mod public_page;
mod report;
mod steps;

use std::io;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use axum::http::Method;
use clap::Args;
use cloud_facade::config::{CredentialSlot, PartialDeviceConfig, Store};
use cloud_facade::iot::Proxy;
use cloud_facade::iot::tls;
use tokio::time::timeout;

use self::bundle::BundleOptions;
use self::connection::DeviceProbe;
pub(crate) use self::connection::check_instance;
use self::public_page::PublicPage;
use self::report::{CheckResult, Report};
use self::steps::{
    API, API_NAME, BROKER_NAME, CLIENT_CERTIFICATE, CLOCK, FILES, IOT_CERTIFICATE, MQTT, MQTT_443,
    PAGE, PAGE_NAME, RELAY_NAME, REMOTE_CERTIFICATE, SUBSCRIPTIONS, TOKEN, TUNNEL,
};
use crate::api::ApiArgs;
use crate::commands::{SERIAL_NUMBER_ADVICE, serial_number_mismatch, store};
use crate::control_socket::running_instance;
use crate::error::{CliError, Result, chain};
use crate::options::GlobalOptions;
use crate::output::Output;
use crate::proxy;
use crate::public_client;
use crate::settings::Settings;
use crate::settings::definition::Definition;
use crate::shutdown::Shutdown;

const MQTT_PORT: u16 = 8883;

/// Time limit for the API's response.
const API_TIMEOUT: Duration = Duration::from_secs(15);

/// Time limit for the steps of a running instance, and the page.
const INSTANCE_TIMEOUT: Duration = Duration::from_secs(60);

const INSTANCE_ADVICE: &str = "restart the running instance, then run `doctor` again";

const DETAILS: &str = "\
If no instance runs on the directory, the device is started for the duration of the checks: the platform sees it come
online and go offline again. If one runs, its status is queried and it is not disturbed.

Steps: files, certificate.iot, certificate.remote, name.api, name.broker, name.relay, name.page, api, clock, mqtt,
mqtt.443, client_certificate, subscriptions, token, tunnel, page. Each is ok, warning, failure or skipped; with
--json, each is a line with step, status, detail, cause and advice. The checks take at most three minutes.

Exit codes: 0 nothing failed, 1 something failed, 3 not provisioned

Examples:
  clesyde-cloud doctor --api-url https://api.example.com
  clesyde-cloud doctor --bundle device.tar.gz --health 127.0.0.1:9100";

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = DETAILS)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    api: ApiArgs,

    #[command(flatten)]
    bundle: BundleOptions,
}

pub(crate) async fn run(
    global: &GlobalOptions,
    arguments: &DoctorArgs,
    settings: &Settings,
    definition: &Definition,
    output: &Output,
) -> Result {
    let mut report = Report::new(output.clone());
    let checked = check(global, arguments, &mut report).await;
    arguments
        .bundle
        .write(global, settings, definition, report.lines(), output)
        .await?;
    checked
}

async fn check(global: &GlobalOptions, arguments: &DoctorArgs, report: &mut Report) -> Result {
    let store = store(global)?;
    let roots = public_client::roots(arguments.api.roots()?.as_deref())?;
    let mut shutdown = Shutdown::install()?;
    let interrupted = || CliError::Failed("interrupted before all steps were checked".to_owned());

    let proxy = proxy::for_cloud(global)?;
    let device = check_files(global, &store, report)?;
    let network = tokio::select! {
        network = check_network(
            global,
            arguments,
            device.as_ref(),
            proxy.as_ref(),
            report,
        ) => network?,
        () = shutdown.requested() => return Err(interrupted()),
    };
    let (Some(device), Some(network)) = (device, network) else {
        if !store.is_provisioned().unwrap_or(true) {
            return Err(CliError::NotProvisioned(store.directory().to_owned()));
        }
        return report.finish();
    };

    let base_path = global.base_path()?;
    let instance = running_instance(&base_path);
    let public = PublicPage {
        instance: instance.as_ref(),
        store: &store,
        device: &device,
        addresses: network.page.as_ref(),
        proxy: proxy.as_ref(),
        roots,
    };
    if let Some(instance) = &instance {
        let checked = async {
            let answer = instance.call(Method::GET, "doctor", None).await;
            let open = match answer {
                Ok(answer) => connection::record_instance(&answer, report)?,
                Err(error) => {
                    let finding = CheckResult::failed(error.message, INSTANCE_ADVICE);
                    report.record(CLIENT_CERTIFICATE, &finding)?;
                    let skipped = CheckResult::requires(CLIENT_CERTIFICATE);
                    for step in [SUBSCRIPTIONS, TOKEN, TUNNEL] {
                        report.record(step, &skipped)?;
                    }
                    false
                }
            };
            let finding = public.check(open, None).await?;
            report.record(PAGE, &finding)
        };
        tokio::select! {
            checked = timeout(INSTANCE_TIMEOUT, checked) => {
                checked.map_err(|_| CliError::Failed("the running instance does not answer".to_owned()))??;
            }
            () = shutdown.requested() => return Err(interrupted()),
        }
        return report.finish();
    }
    if !network.broker_answers {
        let skipped = CheckResult::requires(MQTT);
        skip_device_steps(report, &skipped)?;
        return report.finish();
    }
    let sn = device.serial_number.clone();
    let probe = match DeviceProbe::start(sn, base_path.clone(), proxy.clone()).await {
        Ok(probe) => probe,
        Err(finding) => {
            report.record(CLIENT_CERTIFICATE, &finding)?;
            let skipped = CheckResult::requires(CLIENT_CERTIFICATE);
            for step in [SUBSCRIPTIONS, TOKEN, TUNNEL, PAGE] {
                report.record(step, &skipped)?;
            }
            return report.finish();
        }
    };
    let checked = tokio::select! {
        checked = async {
            let open = probe.check(report).await?;
            let finding = public.check(open, Some(&probe.marker)).await?;
            report.record(PAGE, &finding)
        } => checked,
        () = shutdown.requested() => Err(interrupted()),
    };
    probe.stop().await;
    checked?;
    report.finish()
}

/// Checks files and certificates.
fn check_files(
    global: &GlobalOptions,
    store: &Store,
    report: &mut Report,
) -> Result<Option<PartialDeviceConfig>> {
    let (finding, device) = match serial_number_mismatch(global, store) {
        Some(other) => (CheckResult::failed(other, SERIAL_NUMBER_ADVICE), None),
        None => files::configuration(store),
    };
    report.record(FILES, &finding)?;
    if device.is_none() && !store.is_provisioned().unwrap_or(true) {
        report.record(IOT_CERTIFICATE, &CheckResult::requires(FILES))?;
        report.record(REMOTE_CERTIFICATE, &CheckResult::requires(FILES))?;
        return Ok(None);
    }
    let now = SystemTime::now();
    let iot = files::certificate(store, CredentialSlot::Iot, now);
    report.record(IOT_CERTIFICATE, &iot)?;
    let remote = files::public_certificate(store, device.as_ref(), now);
    report.record(REMOTE_CERTIFICATE, &remote)?;
    Ok(device)
}

/// Results of the network steps that later steps use.
struct NetworkResult {
    /// Addresses of the public name, unless a proxy resolves it.
    page: Option<io::Result<Vec<IpAddr>>>,
    broker_answers: bool,
}

/// Checks names, API, clock and the broker's ports. `None` without a configuration.
async fn check_network(
    global: &GlobalOptions,
    arguments: &DoctorArgs,
    device: Option<&PartialDeviceConfig>,
    proxy: Option<&Proxy>,
    report: &mut Report,
) -> Result<Option<NetworkResult>> {
    let api = match &global.api_url {
        Some(url) => name(url.host(), proxy),
        None => Name::Unknown(CheckResult::Skipped(
            "no --api-url is given; only registration needs it".to_owned(),
        )),
    };
    let of_device = |host: fn(&PartialDeviceConfig) -> &str| match device {
        Some(device) => name(host(device), proxy),
        None => Name::Unknown(CheckResult::requires(FILES)),
    };
    let broker = of_device(|device| device.iot_endpoint.host.as_str());
    let relay = of_device(|device| device.remote_endpoint.host.as_str());
    let page = of_device(|device| device.access_point.as_str());
    let (api_addresses, broker_addresses, relay_addresses, page_addresses) = tokio::join!(
        api.resolve(),
        broker.resolve(),
        relay.resolve(),
        page.resolve()
    );
    let api_is_resolved = report.record(API_NAME, &api.check(api_addresses.as_ref()))?;
    for (step, host, addresses) in [
        (BROKER_NAME, &broker, &broker_addresses),
        (RELAY_NAME, &relay, &relay_addresses),
        (PAGE_NAME, &page, &page_addresses),
    ] {
        report.record(step, &host.check(addresses.as_ref()))?;
    }

    let (api, clock) = match &global.api_url {
        Some(_) if matches!(api, Name::Direct(_)) && !api_is_resolved => {
            (CheckResult::requires(API_NAME), CheckResult::requires(API))
        }
        Some(url) => {
            let api = &arguments.api;
            let client = api.build(api.builder(global, url)?.attempt_timeout(API_TIMEOUT))?;
            network::api(&client).await
        }
        None => {
            let because = CheckResult::Skipped("no --api-url is given".to_owned());
            (because.clone(), because)
        }
    };
    report.record(API, &api)?;
    report.record(CLOCK, &clock)?;

    let Some(device) = device else {
        for step in [MQTT, MQTT_443] {
            report.record(step, &CheckResult::requires(FILES))?;
        }
        skip_device_steps(report, &CheckResult::requires(FILES))?;
        return Ok(None);
    };
    let (main, other) = match broker_addresses {
        None => {
            let because = CheckResult::Skipped(
                "the connection uses a proxy; the session shows it".to_owned(),
            );
            (because.clone(), because)
        }
        Some(Ok(addresses)) if !addresses.is_empty() => ports(device, &addresses).await,
        _ => (
            CheckResult::requires(BROKER_NAME),
            CheckResult::requires(BROKER_NAME),
        ),
    };
    let main_answers = report.record(MQTT, &main)?;
    let other_answers = report.record(MQTT_443, &other)?;
    Ok(Some(NetworkResult {
        page: page_addresses,
        broker_answers: matches!(broker, Name::Proxied(_)) || main_answers || other_answers,
    }))
}

/// A server's name: who resolves it.
enum Name<'a> {
    Direct(&'a str),
    /// The proxy at this address.
    Proxied(String),
    Unknown(CheckResult),
}

fn name<'a>(host: &'a str, proxy: Option<&Proxy>) -> Name<'a> {
    match proxy.and_then(|proxy| proxy.address_for(host)) {
        Some(address) => Name::Proxied(address),
        None => Name::Direct(host),
    }
}

impl Name<'_> {
    async fn resolve(&self) -> Option<io::Result<Vec<IpAddr>>> {
        match self {
            Self::Direct(host) => Some(network::resolve(host).await),
            _ => None,
        }
    }

    fn check(&self, addresses: Option<&io::Result<Vec<IpAddr>>>) -> CheckResult {
        match (self, addresses) {
            (Self::Direct(host), Some(addresses)) => network::name(host, addresses),
            (Self::Proxied(proxy), _) => {
                CheckResult::Skipped(format!("the proxy {proxy} resolves it"))
            }
            (Self::Unknown(because), _) => because.clone(),
            (Self::Direct(_), None) => CheckResult::requires(FILES),
        }
    }
}

async fn ports(device: &PartialDeviceConfig, addresses: &[IpAddr]) -> (CheckResult, CheckResult) {
    let tls = tls::client_config(
        device.iot_roots.certificates().iter().cloned(),
        device.iot.chain().to_vec(),
        device.iot.key(),
    );
    let endpoint = &device.iot_endpoint;
    match tls {
        Ok(tls) => {
            let port = endpoint.port_or(MQTT_PORT);
            network::broker(endpoint.host.as_str(), addresses, port, &tls).await
        }
        Err(error) => (
            CheckResult::failed(
                chain(&error),
                "register again with `clesyde-cloud provision --force`",
            ),
            CheckResult::requires(MQTT),
        ),
    }
}

/// Skips the steps that need the device's own session.
fn skip_device_steps(report: &mut Report, finding: &CheckResult) -> Result {
    for step in [CLIENT_CERTIFICATE, SUBSCRIPTIONS, TOKEN, TUNNEL, PAGE] {
        report.record(step, finding)?;
    }
    Ok(())
}
