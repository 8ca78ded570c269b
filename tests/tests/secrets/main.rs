//! Invariant 1: nothing that is logged at any level, by us or by what we build on, and nothing that
//! a host can print, contains a secret; over a device's whole life, with everything going wrong
//! that can.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "this is a test throughout"
)]

mod capture;
mod secret;
mod wire;

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use cloud_facade::config::{DeviceConfig, RootCertificates, Store};
use cloud_facade::iot::{Message, QoS};
use cloud_facade::provision::{Client, ProvisioningKey};
use cloud_facade::{ClesydeCloud, Event, OnExisting, register};
use cloud_sim::{
    ApiAnswer, CertificateAnswer, Control, Fault, Service, SimConfig, Simulator, TokenAnswer,
};
use flate2::read::GzDecoder;
use integration_tests::public;
use testkit::pki::Authority;
use testkit::wait::timeout;
use tokio::sync::broadcast;

use capture::Capture;
use secret::Secrets;
use wire::{Sides, Tap};

const SERIAL: &str = "SN-0001";

/// Modules that must log something: an empty capture would prove nothing.
const HEARD: [&str; 9] = [
    "cloud_facade",
    "cloud_iot",
    "cloud_provision",
    "cloud_remote",
    "cloud_shadow",
    "h2",
    "hyper_util",
    "rustls",
    "snitun",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_and_output_contain_no_secret() -> anyhow::Result<()> {
    let capture = Capture::install()?;
    let simulator = Simulator::start(SimConfig::default()).await?;
    let base = tempfile::tempdir()?;
    let store = Store::new(base.path());
    let api: std::net::SocketAddr = simulator
        .api_url()
        .trim_start_matches("http://")
        .trim_end_matches('/')
        .parse()?;
    let api = Tap::start(api, None).await?;
    let api_url = format!("http://{}", api.address);
    let page = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
    let settings = ClesydeCloud::builder(SERIAL.parse()?, base.path(), &api_url).application(page);
    capture.show(&settings);
    let cloud = settings.build();
    let watcher = tokio::spawn(watch(cloud.events(), capture.clone()));

    let key_text = simulator.provisioning_key().to_owned();
    let key = ProvisioningKey::new(&key_text)?;
    capture.show(&key);
    provision_badly(&cloud, &simulator, &key, &capture).await?;
    capture.show(&cloud.provision(&key).await?);
    let client = Client::builder(&api_url).build()?;
    capture.show(&client);
    let again = register(&store, &client, &SERIAL.parse()?, &key, OnExisting::Replace).await;
    capture.show_error(&again.err().context("the key was good twice")?);

    let given = store.load()?.device;
    capture.show(&given);
    distrust(&cloud, &store, &given, &capture).await?;

    // The real broker behind a tap.
    let tap_authority = Authority::new("tap");
    let sides = Sides::new(
        &tap_authority.server(&["localhost"]),
        &given.iot,
        simulator.ca_pem(),
    )?;
    let broker = Tap::start(simulator.mqtt_addr(), Some(sides)).await?;
    let mut recorded = given.clone();
    recorded.iot_endpoint = format!("localhost:{}", broker.address.port()).parse()?;
    recorded.iot_roots = RootCertificates::from_pem(&tap_authority.pem())?;
    store.save(&recorded)?;
    bad_tokens(&cloud, &simulator.control()).await?;
    live(&cloud, &simulator, &capture).await?;
    let rotated = store.load()?.device;
    assert_ne!(rotated.remote.info().serial, given.remote.info().serial);

    // A wrong key for remote access is reported, and the right one is sent again.
    let directory = base.path().join(".clesydecloud");
    std::fs::write(directory.join("remote_key.pem"), given.remote.key_pem())?;
    capture.show_error(&store.load().err().context("a wrong key was taken")?);
    cloud.initialize().await?;
    capture.show(&cloud.status());
    reachable(&cloud).await?;
    cloud.stop().await;
    assert_eq!(store.load()?.device, rotated);
    bundle(base.path(), &capture).await?;
    std::fs::write(directory.join("iot_key.pem"), given.remote.key_pem())?;
    capture.show_error(
        &cloud
            .initialize()
            .await
            .err()
            .context("a wrong key was taken")?,
    );
    capture.show_error(
        &cloud
            .publish(Message::new("c/d/x/status", "{}").qos(QoS::AtMostOnce))
            .err()
            .context("it is stopped")?,
    );
    capture.show(&cloud);
    simulator.stop().await;
    drop(cloud);
    timeout("the events to end", watcher).await?;

    let mut secrets = Secrets::default();
    secrets.add_text("the provisioning key", &key_text);
    for line in api.recorded().iter().chain(&broker.recorded()) {
        secrets.add_recorded(line);
    }
    check(
        &capture,
        &secrets,
        &[
            given.iot.key_pem(),
            given.remote.key_pem(),
            rotated.remote.key_pem(),
        ],
    );
    Ok(())
}

/// Everything that the platform may answer but the right thing.
async fn provision_badly(
    cloud: &ClesydeCloud,
    simulator: &Simulator,
    key: &ProvisioningKey,
    capture: &Capture,
) -> anyhow::Result<()> {
    let refused = cloud
        .provision(&ProvisioningKey::new("wrong-but-not-to-be-shown-either")?)
        .await;
    capture.show_error(&refused.err().context("a wrong key was good")?);
    for answer in [
        ApiAnswer::BrokenJson,
        ApiAnswer::CutJson,
        ApiAnswer::CutBody,
        ApiAnswer::Error {
            message: "not today".to_owned(),
        },
        ApiAnswer::MissingKey {
            key: "remote.access_point".to_owned(),
        },
        ApiAnswer::MismatchedKey {
            service: Service::Iot,
        },
        ApiAnswer::MismatchedKey {
            service: Service::Remote,
        },
    ] {
        let what = format!("{answer:?}");
        simulator
            .control()
            .fault(Fault::Api { answer, times: 1 })
            .await?;
        let error = cloud
            .provision(key)
            .await
            .err()
            .with_context(|| format!("taken: {what}"))?;
        capture.show_error(&error);
    }
    Ok(())
}

/// A broker with a certificate of an unknown authority.
async fn distrust(
    cloud: &ClesydeCloud,
    store: &Store,
    given: &DeviceConfig,
    capture: &Capture,
) -> anyhow::Result<()> {
    let mut distrusting = given.clone();
    distrusting.iot_roots = RootCertificates::from_pem(&Authority::new("another authority").pem())?;
    store.save(&distrusting)?;
    let mut events = cloud.events();
    cloud.initialize().await?;
    wait_for(&mut events, "the refusal", |event| {
        matches!(event, Event::IotDisconnected { .. })
    })
    .await?;
    capture.show(&cloud.status());
    cloud.stop().await;
    Ok(())
}

/// Tokens that the relay refuses. The device tries each again after a while, which need not be
/// waited for.
async fn bad_tokens(cloud: &ClesydeCloud, control: &Control) -> anyhow::Result<()> {
    for answer in [
        TokenAnswer::Foreign,
        TokenAnswer::WrongKey,
        TokenAnswer::Expired,
    ] {
        control.fault(Fault::Token { answer, times: 1 }).await?;
        let mut events = cloud.events();
        cloud.initialize().await?;
        wait_for(&mut events, "the refusal", |event| {
            matches!(event, Event::RemoteConnectFailed { .. })
        })
        .await?;
        cloud.stop().await;
    }
    Ok(())
}

/// From the first connection to the last, with bad certificates, bad visitors and bad lines.
async fn live(
    cloud: &ClesydeCloud,
    simulator: &Simulator,
    capture: &Capture,
) -> anyhow::Result<()> {
    let control = simulator.control();
    control
        .fault(Fault::Token {
            answer: TokenAnswer::Malformed,
            times: 1,
        })
        .await?;
    cloud.initialize().await?;
    reachable(cloud).await?;
    capture.show(cloud);
    capture.show(&cloud.shadow()?.get().await?);
    let (relay, host) = (
        simulator.relay_addr(),
        control.device(SERIAL).await?.access_point,
    );
    assert_eq!(
        public::fetch(relay, &host, simulator.ca_pem(), "").await?,
        "hello"
    );
    let distrusting = public::connect(relay, &host, &Authority::new("unknown").pem()).await;
    assert!(distrusting.is_err());

    rotate(cloud, &control).await?;
    control
        .fault(Fault::SendToken {
            sn: SERIAL.to_owned(),
        })
        .await?;
    control
        .action(SERIAL, "remotecr", b"{\"pkey\": \"-----BEGIN\"}".to_vec())
        .await?;
    let unanswered = cloud
        .request(&"nothing".parse()?, "{}", Duration::from_millis(50))
        .await;
    capture.show_error(&unanswered.err().context("an answer out of nowhere")?);

    let mut status = cloud.watch_status();
    control.fault(Fault::DropMqtt { sn: None }).await?;
    timeout(
        "the loss of the broker",
        status.wait_for(|status| !status.iot.connected),
    )
    .await?;
    capture.show(&cloud.status());
    timeout(
        "the broker again",
        status.wait_for(|status| status.iot.connected),
    )
    .await?;
    control.fault(Fault::DropTunnel { sn: None }).await?;
    timeout(
        "the loss of the tunnel",
        status.wait_for(|status| !status.remote.connected),
    )
    .await?;
    capture.show(&cloud.status());
    cloud.stop().await;
    Ok(())
}

/// Three rotations that must fail, and one that must not.
async fn rotate(cloud: &ClesydeCloud, control: &Control) -> anyhow::Result<()> {
    let mut events = cloud.events();
    for answer in [
        CertificateAnswer::Malformed,
        CertificateAnswer::WrongKey,
        CertificateAnswer::WrongSerial,
    ] {
        control
            .fault(Fault::Certificate { answer, times: 1 })
            .await?;
        control.rotate(SERIAL).await?;
        wait_for(&mut events, "the failure", |event| {
            matches!(event, Event::RemoteCertificateRotationFailed { .. })
        })
        .await?;
    }
    let last = control.rotate(SERIAL).await?;
    let taken = |event: &Event| matches!(event, Event::RemoteCertificateRotated { serial, .. } if *serial == last);
    wait_for(&mut events, "the new certificate", taken).await
}

async fn reachable(cloud: &ClesydeCloud) -> anyhow::Result<()> {
    let mut status = cloud.watch_status();
    timeout(
        "the device to be reachable",
        status.wait_for(|status| status.iot.connected && status.remote.connected),
    )
    .await?;
    Ok(())
}

async fn wait_for(
    events: &mut broadcast::Receiver<Event>,
    what: &str,
    fits: impl Fn(&Event) -> bool,
) -> anyhow::Result<()> {
    timeout(what, async {
        while !fits(&events.recv().await?) {}
        Ok(())
    })
    .await
}

/// Shows all events to the capture, until the device is gone.
async fn watch(mut events: broadcast::Receiver<Event>, capture: Capture) {
    loop {
        match events.recv().await {
            Ok(event) => capture.show(&event),
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// What `doctor` packs for support, with the results of a session of its own.
async fn bundle(base: &Path, capture: &Capture) -> anyhow::Result<()> {
    let file = base.join("bundle.tar.gz");
    let mut arguments = vec!["clesyde-cloud", "doctor", "--json", "--base-path"]
        .into_iter()
        .map(OsString::from)
        .collect::<Vec<_>>();
    arguments.extend([base.into(), "--bundle".into(), file.clone().into()]);
    tokio::task::spawn_blocking(move || cloud_cli::run(arguments)).await?;
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(&file)?));
    let mut files = 0;
    for entry in archive.entries()? {
        let mut text = String::new();
        entry?.read_to_string(&mut text)?;
        text.lines().for_each(|line| capture.show(&line));
        files += 1;
    }
    assert!(files >= 7, "{files} files");
    Ok(())
}

/// Checks first that the capture finds known secrets, and then that it contains none.
fn check(capture: &Capture, secrets: &Secrets, stored: &[&str]) {
    assert!(
        stored.iter().all(|pem| secrets.knows_key(pem)),
        "the keys on the disk came over the lines"
    );
    assert!(
        secrets.tokens >= 3 && secrets.aes >= 8 && secrets.keys > stored.len(),
        "{secrets:?}"
    );
    let lines = capture.lines();
    for name in HEARD {
        assert!(
            lines
                .iter()
                .any(|line| line.target.split("::").next() == Some(name)),
            "{name} says nothing"
        );
    }
    let found: Vec<String> = lines
        .iter()
        .filter_map(|line| {
            Some(format!(
                "{} shows {}: {}",
                line.target,
                secrets.found_in(line)?,
                line.text
            ))
        })
        .collect();
    assert!(
        found.is_empty(),
        "{} of {} lines:\n{}",
        found.len(),
        lines.len(),
        found.join("\n")
    );
}
