//! `demo`: a simulated cloud, a device and a public client in one process, over the real protocols.
//!
//! Each step is verified before it is printed, so a successful run proves that everything works.
//! The device's directory is temporary.

mod steps;

use std::time::Duration;

use clap::Args;
use cloud_facade::config::{DeviceConfig, RootCertificates, SerialNumber, Store};
use cloud_facade::provision::{Client, ProvisioningKey};
use cloud_facade::remote::auth::AuthRules;
use cloud_facade::remote::{AccessRules, HttpOptions, Limits};
use cloud_facade::{Event, OnExisting, register};
use cloud_sim::{SimConfig, Simulator};
use tokio::time::timeout;

use self::steps::StepPrinter;
use crate::caller_records::CallerRecords;
use crate::device::{Backend, Device, DeviceOptions, Served};
use crate::error::{CliError, Result, chain};
use crate::options::GlobalOptions;
use crate::output::Output;
use crate::public_client::{PageResponse, PublicClient};
use crate::shutdown::Shutdown;
use crate::status_page::{Maker, StatusPage};

/// Time limit of a step. Each takes well under a second.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// Serial number of the device unless `--sn` is given.
const DEMO_SN: &str = "DEMO0001";

/// Arguments of `demo`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clesyde-cloud demo --once")]
pub(crate) struct DemoArgs {
    /// Exit after the last step; exit code 0 only if every step succeeded
    #[arg(long)]
    once: bool,
}

pub(crate) async fn run(global: &GlobalOptions, arguments: &DemoArgs, output: &Output) -> Result {
    let mut shutdown = Shutdown::install()?;
    let sn = match &global.sn {
        Some(sn) => sn.clone(),
        None => DEMO_SN.parse().map_err(|error| {
            CliError::with_cause("invalid serial number of the demonstration", &error)
        })?,
    };
    let simulator = Simulator::start(SimConfig::default())
        .await
        .map_err(|error| CliError::Failed(chain(&error)))?;
    let result = show(&simulator, sn, arguments.once, output, &mut shutdown).await;
    simulator.stop().await;
    result
}

async fn show(
    simulator: &Simulator,
    sn: SerialNumber,
    once: bool,
    output: &Output,
    shutdown: &mut Shutdown,
) -> Result {
    let mut steps = StepPrinter::new(output.clone());
    let ready = simulator.ready();
    steps.step(
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
        .map_err(|error| CliError::with_cause("could not create a directory", &error))?;
    let store = Store::new(directory.path());
    let client = Client::builder(&simulator.api_url())
        .build()
        .map_err(|error| CliError::Failed(chain(&error)))?;
    let key = ProvisioningKey::new(simulator.provisioning_key())
        .map_err(|error| CliError::Failed(chain(&error)))?;
    register(&store, &client, &sn, &key, OnExisting::Keep)
        .await
        .map_err(|error| CliError::Failed(chain(&error)))?;
    let config = store
        .load()
        .map_err(|error| CliError::from_load(&store, &error))?
        .device;
    let first_serial = config.remote.info().serial.clone();
    let access_point = config.access_point.to_string();
    steps.step(
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
        url: config.page_url(),
        served: Served {
            backend: Backend::default(),
            access: AccessRules::default(),
            auth: AuthRules::default(),
            http_options: HttpOptions::default(),
            limits: Limits::default(),
            proxy: None,
        },
        page: StatusPage::new(&sn, &config, Some(config.remote.info()), Maker::default()),
        callers: CallerRecords::default(),
        outbox: None,
        session: None,
    };
    let mut device = Device::start(options).await?;
    let demonstrated = tokio::select! {
        demonstrated = demonstrate(simulator, &sn, &config, &first_serial, &mut device, &mut steps) => demonstrated,
        () = shutdown.requested() => Err(CliError::Failed("interrupted before the last step".to_owned())),
    };
    let result = match demonstrated {
        Ok(_) if once => Ok(()),
        Ok(public_client) => tokio::select! {
            result = keep_running(simulator, &public_client, &access_point, &mut device, &steps) => result,
            () = shutdown.requested() => Ok(()),
        },
        Err(failure) => Err(failure),
    };
    device.stop().await;
    result
}

/// Runs the steps from the MQTT connection to the second certificate. Returns the last public
/// client.
async fn demonstrate(
    simulator: &Simulator,
    sn: &SerialNumber,
    config: &DeviceConfig,
    first_serial: &str,
    device: &mut Device,
    steps: &mut StepPrinter,
) -> Result<PublicClient> {
    wait_for_event(device, "to come online", |event| {
        matches!(event, Event::IotConnected).then_some(())
    })
    .await?;
    steps.step(
        "online",
        "The device is online: MQTT over TLS with its own certificate, all subscriptions granted",
        &[],
    )?;

    let url = wait_for_event(device, "to open its tunnel", |event| match event {
        Event::RemoteConnected { url } => Some(url.clone()),
        _ => None,
    })
    .await?;
    steps.step(
        "tunnel",
        "The tunnel to the relay is open",
        &[("public", &url)],
    )?;

    let roots = RootCertificates::from_pem(simulator.ca_pem())
        .map_err(|error| CliError::Failed(chain(&error)))?;
    let relay = simulator.relay_addr();
    let new_client = || PublicClient::new(config, &[relay], None, roots.root_store());
    let first_client = new_client()?;
    let before = first_client.fetch().await?;
    check(&before, sn, first_serial)?;
    steps.step(
        "page",
        "A client fetches the device's page through the tunnel; TLS ends on the device, the certificate is verified",
        &[("url", first_client.url()), ("certificate", &before.serial), ("body", &before.body)],
    )?;

    let desired = simulator
        .control()
        .rotate(sn.as_str())
        .await
        .map_err(|error| CliError::Failed(chain(&error)))?;
    let rotated = wait_for_event(
        device,
        "to install a new certificate",
        |event| match event {
            Event::RemoteCertificateRotated { serial, .. } => Some(Ok(serial.clone())),
            Event::RemoteCertificateRotationFailed { reason, .. } => Some(Err(CliError::Failed(
                format!("the new certificate was not installed: {reason}"),
            ))),
            _ => None,
        },
    )
    .await??;
    if rotated != desired || rotated == first_serial {
        return Err(CliError::Failed(format!(
            "the device installed the certificate {rotated}; the platform desired {desired} instead of {first_serial}"
        )));
    }
    steps.step(
        "rotated",
        "The platform replaces the device's certificate",
        &[("before", first_serial), ("now", &rotated)],
    )?;

    let existing = first_client.fetch().await?;
    check(&existing, sn, first_serial)?;
    let second_client = new_client()?;
    let after = second_client.fetch().await?;
    check(&after, sn, &rotated)?;
    steps.step(
        "page again",
        "The first client's connection stays open; a new client gets the new certificate",
        &[
            ("url", second_client.url()),
            ("certificate", &after.serial),
            ("body", &after.body),
        ],
    )?;
    steps.step("done", "Every step succeeded", &[])?;
    Ok(second_client)
}

/// Prints how to open the page, and runs until the caller is interrupted.
async fn keep_running(
    simulator: &Simulator,
    public_client: &PublicClient,
    access_point: &str,
    device: &mut Device,
    steps: &StepPrinter,
) -> Result {
    let relay = simulator.relay_addr();
    let command = format!(
        "curl --cacert {} --resolve {access_point}:{}:{} {}",
        simulator.ca_file().display(),
        relay.port(),
        relay.ip(),
        public_client.url(),
    );
    steps.open_page(public_client.url(), &command)?;
    while device.next().await.is_some() {}
    Ok(())
}

fn check(response: &PageResponse, sn: &SerialNumber, serial: &str) -> Result {
    if response.serial != serial {
        return Err(CliError::Failed(format!(
            "the client got the certificate {}, not {serial}",
            response.serial
        )));
    }
    if !response.status.is_success()
        || !response.body.contains(sn.as_str())
        || !response.body.contains("Remote access")
    {
        return Err(CliError::Failed(format!(
            "the client got a page that is not the device's: {:?}",
            response.body
        )));
    }
    Ok(())
}

/// Waits for the event that `matches` accepts.
async fn wait_for_event<T>(
    device: &mut Device,
    expectation: &str,
    mut matches: impl FnMut(&Event) -> Option<T>,
) -> Result<T> {
    let mut last_error = None;
    let search = async {
        while let Some(event) = device.next().await {
            if let Some(found) = matches(&event) {
                return Some(found);
            }
            if let Event::IotDisconnected { reason, .. }
            | Event::RemoteConnectFailed { reason }
            | Event::RemoteDisconnected { reason } = event
            {
                last_error = Some(reason);
            }
        }
        None
    };
    match timeout(STEP_TIMEOUT, search).await {
        Ok(Some(found)) => Ok(found),
        _ => {
            let error = last_error
                .map(|reason| format!("; the last error was: {reason}"))
                .unwrap_or_default();
            Err(CliError::Failed(format!(
                "the device had {} s {expectation}, and did not{error}",
                STEP_TIMEOUT.as_secs()
            )))
        }
    }
}
