//! `demo`: everything at work in one process, over the real protocols: a cloud, a device, and somebody who visits it.
//!
//! Each step is checked before it is told, so a run that ends well has shown that all of it works. Nothing is kept:
//! the device's directory is temporary.

mod narrator;

use std::time::Duration;

use clap::Args;
use cloud_facade::config::{DeviceConfig, RootCertificates, SerialNumber, Store};
use cloud_facade::provision::{Client, ProvisioningKey};
use cloud_facade::remote::{AccessRules, HttpOptions};
use cloud_facade::{Event, Existing, register};
use cloud_sim::{SimConfig, Simulator};
use tokio::time::timeout;

use self::narrator::Narrator;
use crate::cli::GlobalOptions;
use crate::commands::load_failure;
use crate::device::{Device, DeviceOptions, Served};
use crate::failure::{Failure, Outcome, chain};
use crate::output::Output;
use crate::shutdown::Shutdown;
use crate::status_page::Page;
use crate::visitor::{Visit, Visitor};

/// Each step takes well under a second; a machine that needs longer than this has a problem worth hearing of.
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// The device's name where none is given.
const DEMO_SN: &str = "DEMO0001";

/// What `demo` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clesyde-cloud demo --once")]
pub(crate) struct DemoArgs {
    /// End after the check; exit 0 only if all of it worked
    #[arg(long)]
    once: bool,
}

pub(crate) async fn run(global: &GlobalOptions, arguments: &DemoArgs, output: Output) -> Outcome {
    let mut shutdown = Shutdown::install()?;
    let sn = match &global.sn {
        Some(sn) => sn.clone(),
        None => DEMO_SN
            .parse()
            .map_err(|error| Failure::because("the demonstration's serial number", &error))?,
    };
    let simulator = Simulator::start(SimConfig::default())
        .await
        .map_err(|error| Failure::Failed(chain(&error)))?;
    let shown = show(&simulator, sn, arguments.once, output, &mut shutdown).await;
    simulator.stop().await;
    shown
}

async fn show(
    simulator: &Simulator,
    sn: SerialNumber,
    once: bool,
    output: Output,
    shutdown: &mut Shutdown,
) -> Outcome {
    let mut narrator = Narrator::new(output);
    let ready = simulator.ready();
    narrator.step(
        "cloud",
        "A Clesyde cloud runs on this machine",
        &[
            ("API", &ready.api_url),
            ("MQTT broker", &ready.mqtt),
            ("relay", &ready.relay),
            ("control", &ready.control_url),
            (
                "token file",
                &ready.control_token_file.display().to_string(),
            ),
        ],
    )?;

    let directory = tempfile::tempdir()
        .map_err(|error| Failure::because("could not make a directory", &error))?;
    let store = Store::new(directory.path());
    let client = Client::builder(&simulator.api_url())
        .build()
        .map_err(|error| Failure::Failed(chain(&error)))?;
    let key = ProvisioningKey::new(simulator.provisioning_key())
        .map_err(|error| Failure::Failed(chain(&error)))?;
    register(&store, &client, &sn, &key, Existing::Keep)
        .await
        .map_err(|error| Failure::Failed(chain(&error)))?;
    let config = store
        .load()
        .map_err(|error| load_failure(&store, &error))?
        .device;
    let first_serial = config.remote.info().serial.clone();
    let access_point = config.access_point.to_string();
    narrator.step(
        "provisioned",
        format_args!("The device {sn} is registered"),
        &[
            ("directory", &store.directory().display().to_string()),
            ("address", &config.page_url()),
            ("certificate", &first_serial),
        ],
    )?;

    let options = DeviceOptions {
        sn: sn.clone(),
        base_path: directory.path().to_owned(),
        served: Served::StatusPage,
        page: Page::new(&sn, &config, Some(config.remote.info())),
        access: AccessRules::default(),
        http_options: HttpOptions::default(),
        proxy: None,
    };
    let mut device = Device::start(options).await?;
    let toured = tokio::select! {
        toured = tour(simulator, &sn, &config, &first_serial, &mut device, &mut narrator) => toured,
        () = shutdown.requested() => Err(Failure::Failed("interrupted before all was shown".to_owned())),
    };
    let ended = match toured {
        Ok(_) if once => Ok(()),
        Ok(visitor) => tokio::select! {
            ended = stay(simulator, &visitor, &access_point, &mut device, &narrator) => ended,
            () = shutdown.requested() => Ok(()),
        },
        Err(failure) => Err(failure),
    };
    device.stop().await;
    ended
}

/// Everything from coming online to the second certificate. Returns who has seen it all.
async fn tour(
    simulator: &Simulator,
    sn: &SerialNumber,
    config: &DeviceConfig,
    first_serial: &str,
    device: &mut Device,
    narrator: &mut Narrator,
) -> Outcome<Visitor> {
    until(device, "to come online", |event| {
        matches!(event, Event::IotConnected).then_some(())
    })
    .await?;
    narrator.step(
        "online",
        "It is online: MQTT over TLS with its own certificate, all subscriptions granted",
        &[],
    )?;

    let url = until(device, "to open its tunnel", |event| match event {
        Event::RemoteConnected { url } => Some(url.clone()),
        _ => None,
    })
    .await?;
    narrator.step(
        "tunnel",
        "Its tunnel to the relay is open",
        &[("public", &url)],
    )?;

    let roots = RootCertificates::from_pem(simulator.ca_pem())
        .map_err(|error| Failure::Failed(chain(&error)))?;
    let relay = simulator.relay_addr();
    let visitor = || Visitor::new(config, &[relay], roots.root_store());
    let early = visitor()?;
    let before = early.fetch().await?;
    check(&before, sn, first_serial)?;
    narrator.step(
        "page",
        "A visitor fetches its page through the tunnel; TLS ends on the device, the certificate is verified",
        &[("url", early.url()), ("certificate", &before.serial), ("body", &before.body)],
    )?;

    let wanted = simulator
        .control()
        .rotate(sn.as_str())
        .await
        .map_err(|error| Failure::Failed(chain(&error)))?;
    let rotated = until(
        device,
        "to take over a new certificate",
        |event| match event {
            Event::RemoteCertificate { serial, .. } => Some(Ok(serial.clone())),
            Event::RemoteCertificateFailed { reason, .. } => Some(Err(Failure::Failed(format!(
                "the new certificate was not taken over: {reason}"
            )))),
            _ => None,
        },
    )
    .await??;
    if rotated != wanted || rotated == first_serial {
        return Err(Failure::Failed(format!(
            "the device took over the certificate {rotated}, where the platform wanted {wanted} in place of {first_serial}"
        )));
    }
    narrator.step(
        "rotated",
        "The platform replaces its certificate",
        &[("before", first_serial), ("now", &rotated)],
    )?;

    let kept = early.fetch().await?;
    check(&kept, sn, first_serial)?;
    let late = visitor()?;
    let after = late.fetch().await?;
    check(&after, sn, &rotated)?;
    narrator.step(
        "page again",
        "The first visitor's connection lives on; a new visitor is shown the new certificate",
        &[
            ("url", late.url()),
            ("certificate", &after.serial),
            ("body", &after.body),
        ],
    )?;
    narrator.step("done", "All of it worked", &[])?;
    Ok(late)
}

/// Says how to reach the page, and goes on until the caller is interrupted.
async fn stay(
    simulator: &Simulator,
    visitor: &Visitor,
    access_point: &str,
    device: &mut Device,
    narrator: &Narrator,
) -> Outcome {
    let relay = simulator.relay_addr();
    let command = format!(
        "curl --cacert {} --resolve {access_point}:{}:{} {}",
        simulator.ca_file().display(),
        relay.port(),
        relay.ip(),
        visitor.url(),
    );
    narrator.invite(visitor.url(), &command)?;
    while device.next().await.is_some() {}
    Ok(())
}

fn check(visit: &Visit, sn: &SerialNumber, serial: &str) -> Outcome {
    if visit.serial != serial {
        return Err(Failure::Failed(format!(
            "the visitor was shown the certificate {}, not {serial}",
            visit.serial
        )));
    }
    if !visit.status.is_success()
        || !visit.body.contains(sn.as_str())
        || !visit.body.contains("Remote access")
    {
        return Err(Failure::Failed(format!(
            "what the visitor got is not the device's page: {:?}",
            visit.body
        )));
    }
    Ok(())
}

/// Waits for an event.
async fn until<T>(
    device: &mut Device,
    what: &str,
    mut wanted: impl FnMut(&Event) -> Option<T>,
) -> Outcome<T> {
    let mut last_trouble = None;
    let search = async {
        while let Some(event) = device.next().await {
            if let Some(found) = wanted(&event) {
                return Some(found);
            }
            if let Event::IotDisconnected { reason, .. } | Event::RemoteDisconnected { reason } =
                event
            {
                last_trouble = Some(reason);
            }
        }
        None
    };
    match timeout(STEP_LIMIT, search).await {
        Ok(Some(found)) => Ok(found),
        _ => {
            let trouble = last_trouble
                .map(|reason| format!("; the last trouble was: {reason}"))
                .unwrap_or_default();
            Err(Failure::Failed(format!(
                "the device was given {} s {what}, and did not{trouble}",
                STEP_LIMIT.as_secs()
            )))
        }
    }
}
