//! A gateway: many devices in one process, each with a connection, a tunnel and an application of
//! its own.
//!
//! The platform is another process, so that what is measured here are the devices.
//! `GATEWAY_DEVICES=1000 cargo test --test gateway -- --nocapture` measures a thousand; figures are
//! in docs/architecture.md.

use std::time::Instant;

use anyhow::{Context, ensure};
use axum::Router;
use axum::routing::get;
use cloud_facade::ClesydeCloud;
use cloud_facade::provision::ProvisioningKey;
use cloud_sim::{DeviceStatus, Ready, SimConfig, Simulator};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use integration_tests::process::Process;
use integration_tests::public;
use testkit::wait::{LIMIT, eventually};
use tokio::process::Command;
use tokio::runtime::Handle;

/// Number of devices by default.
const DEVICES: usize = 50;

/// Set for the process that runs the platform.
const PLATFORM: &str = "GATEWAY_PLATFORM";

/// Things done at once where order does not matter; the machine has few cores.
const AT_ONCE: usize = 16;

/// Tasks of a running device.
const MAX_TASKS: usize = 16;

/// What a device may have in file descriptors: its directory, the lock in it, the session and the
/// tunnel.
const MAX_FILES: usize = 4;

/// Maximum memory of a device in KiB; several times the measured value.
const MAX_KIB: usize = 1024;

/// Not a test: the platform's process, which ends by being killed.
#[test]
fn platform() -> anyhow::Result<()> {
    if std::env::var_os(PLATFORM).is_none() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let simulator = Simulator::start(SimConfig::default()).await?;
        // The line has been begun by the test harness.
        println!("\n{}", serde_json::to_string(&simulator.ready())?);
        std::future::pending().await
    })
}

struct Gateway {
    ready: Ready,
    ca: String,
    devices: Vec<Device>,
}

struct Device {
    serial: String,
    cloud: ClesydeCloud,
    _base: tempfile::TempDir,
}

impl Device {
    async fn new(number: usize, ready: &Ready) -> anyhow::Result<Self> {
        let serial = format!("GW-{number:04}");
        let base = tempfile::tempdir()?;
        let name = serial.clone();
        let page = Router::new().route("/", get(move || std::future::ready(name.clone())));
        let cloud = ClesydeCloud::builder(serial.parse()?, base.path(), &ready.api_url)
            .application(page)
            .build();
        let key = ProvisioningKey::new(&ready.provisioning_key)?;
        cloud.provision(&key).await?;
        Ok(Self {
            serial,
            cloud,
            _base: base,
        })
    }

    async fn reachable(&self) -> anyhow::Result<()> {
        let mut status = self.cloud.watch_status();
        let reachable = status.wait_for(|status| status.iot.connected && status.remote.connected);
        // All of them come at once, so one may have to wait for many.
        let in_time = tokio::time::timeout(LIMIT * 3, reachable).await;
        in_time
            .with_context(|| format!("{} is not reachable: {:?}", self.serial, self.cloud))??;
        Ok(())
    }
}

impl Gateway {
    async fn new(count: usize, ready: Ready) -> anyhow::Result<Self> {
        let devices = stream::iter(0..count)
            .map(|number| Device::new(number, &ready))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        let ca = std::fs::read_to_string(&ready.ca_file)?;
        Ok(Self { ready, ca, devices })
    }

    async fn seen(&self) -> anyhow::Result<Vec<DeviceStatus>> {
        let url = format!("{}/devices", self.ready.control_url);
        // Plain HTTP; the client wants a TLS configuration all the same.
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(testkit::tls::client(&self.ca, &[]))
            .no_proxy()
            .build()?;
        let token = std::fs::read_to_string(&self.ready.control_token_file)?;
        let answer = client.get(url).bearer_auth(token.trim()).send().await?;
        Ok(serde_json::from_slice(&answer.bytes().await?)?)
    }

    /// Every page is that of its own device.
    async fn pages(&self) -> anyhow::Result<()> {
        let port = self.ready.relay.rsplit(':').next().unwrap_or_default();
        let relay = format!("127.0.0.1:{port}").parse()?;
        let look = async |seen: DeviceStatus| {
            let page = public::fetch(relay, &seen.access_point, &self.ca, "").await?;
            ensure!(page == seen.sn, "{} says {page}", seen.access_point);
            Ok(())
        };
        stream::iter(self.seen().await?)
            .map(look)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }
}

/// Memory and tasks of this process.
#[derive(Debug, Clone, Copy)]
struct Usage {
    tasks: usize,
    files: usize,
    threads: usize,
    kib: usize,
}

impl Usage {
    fn now() -> anyhow::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name));
            let number = value.and_then(|value| value.split_whitespace().next());
            number
                .and_then(|number| number.parse().ok())
                .context("no such field")
        };
        Ok(Self {
            tasks: Handle::current().metrics().num_alive_tasks(),
            files: std::fs::read_dir("/proc/self/fd")?.count(),
            threads: field("Threads:")?,
            kib: field("VmRSS:")?,
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_devices_run_in_one_process() -> anyhow::Result<()> {
    let count = std::env::var("GATEWAY_DEVICES").map_or(Ok(DEVICES), |count| count.parse())?;
    // What the platform cannot remove when it is killed.
    let files = tempfile::tempdir()?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["--exact", "platform", "--nocapture"])
        .env(PLATFORM, "1")
        .env("TMPDIR", files.path());
    let mut platform = Process::spawn("the platform", &mut command)?;
    let ready = serde_json::from_value(platform.event("ready").await?)?;

    let gateway = Gateway::new(count, ready).await?;
    eventually("the registrations to be over", || async {
        (Usage::now().ok()?.tasks == 0).then_some(())
    })
    .await;
    let before = Usage::now()?;
    let begun = Instant::now();
    for device in &gateway.devices {
        device.cloud.initialize().await?;
    }
    let started = begun.elapsed();
    for device in &gateway.devices {
        device.reachable().await?;
    }
    let reachable = begun.elapsed();
    let after = Usage::now()?;
    gateway.pages().await?;
    let tasks = (after.tasks - before.tasks).div_ceil(count);
    let files = (after.files - before.files).div_ceil(count);
    let kib = after.kib.saturating_sub(before.kib).div_ceil(count);
    println!(
        "{count} devices: started in {started:.1?}, reachable in {reachable:.1?}; each {tasks} tasks, {files} files, \
         {kib} KiB; {} threads in all",
        after.threads
    );
    ensure!(tasks <= MAX_TASKS && files <= MAX_FILES);
    // Few devices have to carry what a process takes once.
    ensure!(kib <= MAX_KIB || count < DEVICES);

    let begun = Instant::now();
    futures_util::future::join_all(gateway.devices.iter().map(|device| device.cloud.stop())).await;
    println!("stopped in {:.1?}", begun.elapsed());
    // The broker has taken every OFFLINE; the platform behind it may have to catch up with so many.
    eventually("OFFLINE of all devices", || async {
        let gone = |seen: &DeviceStatus| {
            !seen.tunnel
                && seen
                    .status_history
                    .last()
                    .is_some_and(|state| state == "OFFLINE")
        };
        gateway.seen().await.ok()?.iter().all(gone).then_some(())
    })
    .await;
    eventually("every task to have ended", || async {
        (Usage::now().ok()?.tasks == 0).then_some(())
    })
    .await;
    ensure!(Usage::now()?.files <= before.files, "files are left open");
    platform.kill().await
}
