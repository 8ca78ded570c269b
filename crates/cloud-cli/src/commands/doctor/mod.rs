//! `doctor`: looks at the whole path from the disk to the public, and says of each step whether it is in order, and if not,
//! why and what to do.
//!
//! Each step has a time limit; one that builds on another which failed is skipped, so that the cause stands out. Nothing is
//! changed but what every command puts right by itself: modes, and the remains of a power cut. Whether a new certificate could be
//! stored is tried with a file that is removed again.

mod cloud;
mod files;
mod page;
mod report;
mod way;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use cloud_facade::config::{CredentialSlot, PartialDeviceConfig, Store};
use cloud_facade::iot::tls;
use time::OffsetDateTime;

use self::cloud::Patient;
use self::page::Public;
use self::report::{Finding, Report};
use crate::api::ApiArgs;
use crate::cli::GlobalOptions;
use crate::commands::{OTHER_DEVICE_ADVICE, other_device, store};
use crate::failure::{Failure, Outcome, chain};
use crate::live;
use crate::output::Output;
use crate::proxy;
use crate::shutdown::Shutdown;
use crate::visitor;

const FILES: &str = "files";
const IOT_CERTIFICATE: &str = "certificate.iot";
const REMOTE_CERTIFICATE: &str = "certificate.remote";
const API_NAME: &str = "name.api";
const BROKER_NAME: &str = "name.broker";
const RELAY_NAME: &str = "name.relay";
const PAGE_NAME: &str = "name.page";
const API: &str = "api";
const CLOCK: &str = "clock";
const MQTT: &str = "mqtt";
const MQTT_443: &str = "mqtt.443";
const PAGE: &str = "page";

const MQTT_PORT: u16 = 8883;

/// For the API's answer.
const API_LIMIT: Duration = Duration::from_secs(15);

const DETAILS: &str = "\
Where no instance runs on the directory, the device is started for as long as this takes: the platform sees it come
online and go offline again. Where one runs, it is asked how it fares, and is not disturbed.

Steps: files, certificate.iot, certificate.remote, name.api, name.broker, name.relay, name.page, api, clock, mqtt,
mqtt.443, client_certificate, subscriptions, token, tunnel, page. Each is ok, warning, failure or skipped; with
--json, each is a line with step, status, detail, cause and advice. It takes three minutes at the very most.

Exit codes: 0 nothing failed, 1 something failed, 3 not provisioned

Example:
  clesyde-cloud doctor --api-url https://api.example.com";

/// What `doctor` takes.
#[derive(Debug, Args)]
#[command(after_help = DETAILS)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    api: ApiArgs,
}

pub(crate) async fn run(global: &GlobalOptions, arguments: &DoctorArgs, output: Output) -> Outcome {
    let store = store(global)?;
    let roots = visitor::roots(arguments.api.roots()?.as_deref())?;
    let mut shutdown = Shutdown::install()?;
    let mut report = Report::new(output);
    let interrupted = || Failure::Failed("interrupted before all was looked at".to_owned());

    let on_disk = disk(global, &store, &mut report)?;
    let found = tokio::select! {
        found = way(global, arguments, on_disk.as_ref(), &mut report) => found?,
        () = shutdown.requested() => return Err(interrupted()),
    };
    let (Some(device), Some(found)) = (on_disk, found) else {
        if !store.is_provisioned().unwrap_or(true) {
            return Err(Failure::NotProvisioned(store.directory().to_owned()));
        }
        return report.end();
    };

    let public = Public {
        store: &store,
        device: &device,
        addresses: &found.page,
        roots,
    };
    if let Some(live) = live::ask(&global.base_path()?) {
        let open = cloud::ask(&live, &mut report)?;
        tokio::select! {
            finding = public.visit(open, None) => {
                report.tell(PAGE, &finding?)?;
            }
            () = shutdown.requested() => return Err(interrupted()),
        }
        return report.end();
    }
    if !found.broker_answers {
        let skipped = Finding::after(MQTT);
        skip(&mut report, &skipped)?;
        return report.end();
    }
    let sn = device.serial_number.clone();
    let proxy = proxy::to_broker(global, device.iot_endpoint.host.as_str())?;
    let patient = match Patient::start(sn, global.base_path()?, proxy).await {
        Ok(patient) => patient,
        Err(finding) => {
            report.tell(cloud::CLIENT_CERTIFICATE, &finding)?;
            let skipped = Finding::after(cloud::CLIENT_CERTIFICATE);
            for step in [cloud::SUBSCRIPTIONS, cloud::TOKEN, cloud::TUNNEL, PAGE] {
                report.tell(step, &skipped)?;
            }
            return report.end();
        }
    };
    let examined = tokio::select! {
        examined = async {
            let open = patient.examine(&mut report).await?;
            let finding = public.visit(open, Some(&patient.mark)).await?;
            report.tell(PAGE, &finding)
        } => examined,
        () = shutdown.requested() => Err(interrupted()),
    };
    patient.stop().await;
    examined?;
    report.end()
}

/// Files and certificates.
fn disk(
    global: &GlobalOptions,
    store: &Store,
    report: &mut Report,
) -> Outcome<Option<PartialDeviceConfig>> {
    let (finding, device) = match other_device(global, store) {
        Some(other) => (Finding::bad(other, OTHER_DEVICE_ADVICE), None),
        None => files::configuration(store),
    };
    report.tell(FILES, &finding)?;
    if device.is_none() && !store.is_provisioned().unwrap_or(true) {
        report.tell(IOT_CERTIFICATE, &Finding::after(FILES))?;
        report.tell(REMOTE_CERTIFICATE, &Finding::after(FILES))?;
        return Ok(None);
    }
    let now = OffsetDateTime::now_utc();
    let iot = files::certificate(store, CredentialSlot::Iot, now);
    report.tell(IOT_CERTIFICATE, &iot)?;
    let remote = files::public_certificate(store, device.as_ref(), now);
    report.tell(REMOTE_CERTIFICATE, &remote)?;
    Ok(device)
}

/// What the way there has come to.
struct Found {
    /// Where the public's name leads.
    page: io::Result<Vec<IpAddr>>,
    broker_answers: bool,
}

/// Names, API, clock and the broker's ports. `None` without a configuration to go by.
async fn way(
    global: &GlobalOptions,
    arguments: &DoctorArgs,
    device: Option<&PartialDeviceConfig>,
    report: &mut Report,
) -> Outcome<Option<Found>> {
    let api_host = match &global.api_url {
        Some(_) if proxy::finds_names(global) => Err("a proxy finds it"),
        Some(url) => Ok(url.host()),
        None => Err("no --api-url is given; it is for registering alone"),
    };
    let host = |host: fn(&PartialDeviceConfig) -> &str| device.map(host);
    let broker = host(|device| device.iot_endpoint.host.as_str());
    let proxied = match broker {
        Some(host) => proxy::to_broker(global, host)?.is_some(),
        None => false,
    };
    let broker = broker.filter(|_| !proxied);
    let relay = host(|device| device.remote_endpoint.host.as_str());
    let page = host(|device| device.access_point.as_str());
    let (api_found, broker_found, relay_found, page_found) = tokio::join!(
        found(api_host.ok()),
        found(broker),
        found(relay),
        found(page)
    );
    let api_name = match (api_host, &api_found) {
        (Ok(host), Some(found)) => way::name(host, found),
        (because, _) => Finding::Skipped(because.err().unwrap_or_default().to_owned()),
    };
    let api_is_found = report.tell(API_NAME, &api_name)?;
    for (step, host, found) in [
        (BROKER_NAME, broker, &broker_found),
        (RELAY_NAME, relay, &relay_found),
        (PAGE_NAME, page, &page_found),
    ] {
        let finding = match (host, found) {
            (Some(host), Some(found)) => way::name(host, found),
            _ if proxied => Finding::Skipped("a proxy finds it".to_owned()),
            _ => Finding::after(FILES),
        };
        report.tell(step, &finding)?;
    }

    let (api, clock) = match &global.api_url {
        Some(_) if api_host.is_ok() && !api_is_found => {
            (Finding::after(API_NAME), Finding::after(API))
        }
        Some(url) => {
            let api = &arguments.api;
            let client = api.build(api.builder(global, url)?.attempt_timeout(API_LIMIT))?;
            way::api(&client).await
        }
        None => {
            let because = Finding::Skipped("no --api-url is given".to_owned());
            (because.clone(), because)
        }
    };
    report.tell(API, &api)?;
    report.tell(CLOCK, &clock)?;

    let (Some(device), Some(page)) = (device, page_found) else {
        for step in [MQTT, MQTT_443] {
            report.tell(step, &Finding::after(FILES))?;
        }
        skip(report, &Finding::after(FILES))?;
        return Ok(None);
    };
    let (main, other) = match broker_found {
        _ if proxied => {
            let because = Finding::Skipped("a proxy leads there; the session shows it".to_owned());
            (because.clone(), because)
        }
        Some(Ok(addresses)) if !addresses.is_empty() => ports(device, &addresses).await,
        _ => (Finding::after(BROKER_NAME), Finding::after(BROKER_NAME)),
    };
    let main_answers = report.tell(MQTT, &main)?;
    let other_answers = report.tell(MQTT_443, &other)?;
    Ok(Some(Found {
        page,
        broker_answers: proxied || main_answers || other_answers,
    }))
}

async fn found(host: Option<&str>) -> Option<io::Result<Vec<IpAddr>>> {
    Some(way::resolve(host?).await)
}

async fn ports(device: &PartialDeviceConfig, addresses: &[IpAddr]) -> (Finding, Finding) {
    let tls = tls::client_config(
        device.iot_roots.certificates().iter().cloned(),
        device.iot.chain().to_vec(),
        device.iot.key(),
    );
    let endpoint = &device.iot_endpoint;
    match tls {
        Ok(tls) => {
            let port = endpoint.port_or(MQTT_PORT);
            way::broker(endpoint.host.as_str(), addresses, port, &tls).await
        }
        Err(error) => (
            Finding::bad(
                chain(&error),
                "register anew with `clesyde-cloud provision --force`",
            ),
            Finding::after(MQTT),
        ),
    }
}

/// The steps that take the device itself.
fn skip(report: &mut Report, finding: &Finding) -> Outcome {
    for step in [
        cloud::CLIENT_CERTIFICATE,
        cloud::SUBSCRIPTIONS,
        cloud::TOKEN,
        cloud::TUNNEL,
        PAGE,
    ] {
        report.tell(step, finding)?;
    }
    Ok(())
}
