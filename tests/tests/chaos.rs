//! Faults in random order against devices that run, are stopped and started: whatever the platform does wrong, once it has
//! stopped doing so, every device is online, its page is reached under its newest certificate, its client certificate is the
//! newest, its shadow says so, no message that was accepted is lost, and nothing has piled up: there are as many tasks as before,
//! and the process is hardly larger.
//!
//! Each seed is one run: [`DEVICES`] devices, one simulator, [`STEPS`] steps. `cargo xtask chaos` makes 500 runs with fresh
//! seeds (`CHAOS_SEEDS=500 cargo test -p integration-tests --test chaos` is the same); `CHAOS_SEED=7` makes that one again, with
//! everything that it does told. Sockets are real and so a run is not repeated exactly, but its steps are.

#![allow(clippy::panic, reason = "these are tests")]

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use cloud_facade::config::Store;
use cloud_facade::iot::{Ack, DeliveryError, QoS, Receipt};
use cloud_facade::provision::ProvisioningKey;
use cloud_facade::remote::Application;
use cloud_facade::{ClesydeCloud, DeviceSettings};
use cloud_sim::{AckPacket, CertificateAnswer, Control, Fault, SimConfig, Simulator, TokenAnswer};
use integration_tests::{device, patient_clock, public};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

/// Runs without anything being said.
const SEEDS: u64 = 6;

/// Seeds that have found something, so that it does not come back: a repeated report of an old certificate after the new one.
const FOUND: [u64; 1] = [17_954_109_650_106];

/// Devices of one run.
const DEVICES: usize = 3;

/// What happens in one run.
const STEPS: usize = 40;

/// Messages of one device; with its ONLINE and OFFLINE they must stay within the 100 that the simulator remembers.
const MESSAGES: usize = 30;

/// Runs that a core makes at a time: they wait for the system more than they compute.
const RUNS_PER_CORE: usize = 6;

/// What a process may grow by while it makes its runs, in KiB, after the first ones: less than half of what one run takes, so
/// that one that leaves its things behind is noticed in a few hundred.
const MAX_GROWTH: usize = 48 * 1024;

/// Runs after which a process has its size: each worker's heap has then been through all that there is.
const WARM_UP: usize = 4;

/// How long after the last fault all must be well. The longest delays are those of a certificate that was often refused.
const WELL_WITHIN: Duration = Duration::from_secs(2 * 3600);

struct World {
    simulator: Simulator,
    control: Control,
    devices: Vec<Device>,
    random: StdRng,
    /// For what has to do with client certificates, so that the rest of a seed stays what it was.
    random_iot: StdRng,
    log: Arc<Mutex<String>>,
    begun: Instant,
}

struct Device {
    serial: String,
    cloud: ClesydeCloud,
    base: tempfile::TempDir,
    /// The messages that were accepted, in order.
    accepted: Vec<(String, Receipt)>,
}

impl Device {
    async fn new(simulator: &Simulator, number: usize) -> anyhow::Result<Self> {
        let serial = format!("SN-{number:04}");
        let base = tempfile::tempdir()?;
        let settings = DeviceSettings::new(serial.parse()?, base.path(), simulator.api_url())
            .with_application(Application::service(device::page(Arc::default())));
        let cloud = ClesydeCloud::new(settings);
        cloud
            .provision(&ProvisioningKey::new(simulator.provisioning_key())?)
            .await?;
        Ok(Self {
            serial,
            cloud,
            base,
            accepted: Vec::new(),
        })
    }

    /// Gives the device a message to deliver, if it takes one.
    fn publish(&mut self) -> bool {
        let name = format!("M{}", self.accepted.len());
        if self.accepted.len() >= MESSAGES {
            return false;
        }
        let topic = format!("c/d/{}/status", self.serial);
        let payload = json!({ "state": name }).to_string();
        let taken = self.cloud.publish(topic, payload, QoS::AtLeastOnce, false);
        taken
            .map(|receipt| self.accepted.push((name, receipt)))
            .is_ok()
    }

    /// What is not well yet.
    async fn complaint(&self, simulator: &Simulator) -> anyhow::Result<Option<String>> {
        let status = self.cloud.status();
        if !(status.running && status.iot.connected && status.remote.connected) {
            return Ok(Some(format!("{status:?}")));
        }
        let seen = simulator.control().device(&self.serial).await?;
        if !(seen.online && seen.tunnel) {
            return Ok(Some(format!("the platform says {seen:?}")));
        }
        let wanted = seen.remote_cert_serial.as_str();
        let reported = seen
            .reported
            .as_ref()
            .and_then(|all| all["remoteCertSn"].as_str());
        if reported != Some(wanted) || status.certificate_serial.as_deref() != Some(wanted) {
            return Ok(Some(format!(
                "certificate {wanted} is wanted, {reported:?} is reported, {:?} is in the status",
                status.certificate_serial
            )));
        }
        let stored = Store::new(self.base.path()).load()?.device;
        ensure!(
            stored.remote.info().serial == wanted,
            "another certificate is stored"
        );
        let wanted_iot = seen.iot_cert_serial.as_str();
        if seen.iot_cert_accepted != [wanted_iot]
            || status.iot_certificate_serial.as_deref() != Some(wanted_iot)
        {
            return Ok(Some(format!(
                "client certificate {wanted_iot} is wanted, {:?} are taken, {:?} is in the status",
                seen.iot_cert_accepted, status.iot_certificate_serial
            )));
        }
        ensure!(
            stored.iot.info().serial == wanted_iot,
            "another client certificate is stored"
        );
        let (relay, ca) = (simulator.relay_addr(), simulator.ca_pem());
        let looked = async {
            let served = public::served_serial(relay, &seen.access_point, ca).await?;
            ensure!(served == wanted, "another certificate is served");
            let page = public::fetch(relay, &seen.access_point, ca, "").await?;
            ensure!(page == "hello, 127.0.0.1", "the page says {page}");
            Ok(())
        };
        Ok(timeout(Duration::from_secs(60), looked)
            .await
            .context("the page is slow")
            .flatten()
            .err()
            .map(|error| format!("{error:#}")))
    }

    /// Every accepted message has arrived, in order, or its receipt says that it was not delivered.
    async fn nothing_lost(&mut self, control: &Control) -> anyhow::Result<()> {
        let mut acknowledged = Vec::new();
        for (name, receipt) in self.accepted.drain(..) {
            match timeout(Duration::from_secs(60), receipt)
                .await
                .with_context(|| format!("{name} has no receipt"))?
            {
                Ok(Ack::Acknowledged) => acknowledged.push(name),
                // It was stopped meanwhile, and the receipt says so.
                Err(DeliveryError::Stopped) => {}
                other => anyhow::bail!("{name}: {other:?}"),
            }
        }
        // The broker has acknowledged; the platform behind it may take a moment.
        let begun = Instant::now();
        loop {
            let history = control.device(&self.serial).await?.status_history;
            // At least once: only the first of each counts.
            let first = |at: &usize| !history[..*at].contains(&history[*at]);
            let mut arrived = (0..history.len()).filter(first).map(|at| &history[at]);
            let missing = acknowledged
                .iter()
                .find(|name| !arrived.any(|arrived| arrived == *name));
            let Some(missing) = missing else {
                return Ok(());
            };
            ensure!(
                begun.elapsed() < Duration::from_secs(60),
                "{missing} was acknowledged, and is missing or out of order in {history:?}"
            );
            sleep(Duration::from_secs(1)).await;
        }
    }
}

impl World {
    async fn new(seed: u64, log: Arc<Mutex<String>>) -> anyhow::Result<Self> {
        let simulator = Simulator::start(SimConfig::default()).await?;
        let mut devices = Vec::new();
        for number in 0..DEVICES {
            devices.push(Device::new(&simulator, number).await?);
        }
        Ok(Self {
            control: simulator.control(),
            simulator,
            devices,
            random: StdRng::seed_from_u64(seed),
            random_iot: StdRng::seed_from_u64(!seed),
            log,
            begun: Instant::now(),
        })
    }

    fn note(&self, what: &str) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(log, "{:>9.1?} {what}", self.begun.elapsed());
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from.choose(&mut self.random)
            .unwrap_or_else(|| panic!("nothing to choose from"))
            .clone()
    }

    fn fault(&mut self, serial: &str) -> Fault {
        let sn = self.random.random_bool(0.7).then(|| serial.to_owned());
        let (ms, times) = (
            self.random.random_range(100..70_000),
            self.random.random_range(1..=2),
        );
        match self.random.random_range(0..10) {
            0 | 1 => Fault::DropMqtt { sn },
            2 => Fault::RefuseMqtt {
                seconds: self.random.random_range(1..30),
            },
            3 => Fault::FreezeMqtt {
                seconds: self.random.random_range(1..120),
            },
            4 | 5 => Fault::Withhold {
                packet: self.pick(&[
                    AckPacket::Connack,
                    AckPacket::Suback,
                    AckPacket::Puback,
                    AckPacket::Pingresp,
                ]),
                times,
            },
            6 => Fault::DropTunnel { sn },
            7 => Fault::Token {
                answer: self.pick(&[
                    TokenAnswer::Hold,
                    TokenAnswer::Late { ms },
                    TokenAnswer::Malformed,
                    TokenAnswer::Expired,
                    TokenAnswer::Foreign,
                    TokenAnswer::WrongKey,
                ]),
                times,
            },
            8 => Fault::SendToken {
                sn: serial.to_owned(),
            },
            _ => Fault::Certificate {
                answer: self.pick(&[
                    CertificateAnswer::Hold,
                    CertificateAnswer::Late { ms },
                    CertificateAnswer::Malformed,
                    CertificateAnswer::WrongKey,
                    CertificateAnswer::WrongSerial,
                ]),
                times,
            },
        }
    }

    /// Something about a client certificate, now and then.
    async fn step_iot(&mut self) -> anyhow::Result<()> {
        let number = self.random_iot.random_range(0..self.devices.len());
        let serial = self.devices[number].serial.clone();
        let what = match self.random_iot.random_range(0..12) {
            0 => {
                let rotated = self.control.rotate_iot(&serial).await?;
                format!("rotate the client certificate to {rotated}")
            }
            1 => {
                let ms = self.random_iot.random_range(100..70_000);
                let answers = [
                    CertificateAnswer::Hold,
                    CertificateAnswer::Late { ms },
                    CertificateAnswer::Malformed,
                    CertificateAnswer::WrongKey,
                    CertificateAnswer::WrongSerial,
                    CertificateAnswer::Expired,
                    CertificateAnswer::NotYetValid,
                    CertificateAnswer::Refused,
                ];
                let fault = Fault::IotCertificate {
                    answer: answers[self.random_iot.random_range(0..answers.len())].clone(),
                    times: self.random_iot.random_range(1..=2),
                };
                let told = format!("{fault:?}");
                self.control.fault(fault).await?;
                told
            }
            _ => return Ok(()),
        };
        self.note(&format!("{serial}: {what}"));
        Ok(())
    }

    async fn step(&mut self) -> anyhow::Result<()> {
        let number = self.random.random_range(0..self.devices.len());
        let device = &mut self.devices[number];
        let (serial, cloud) = (device.serial.clone(), device.cloud.clone());
        let what = match self.random.random_range(0..24) {
            0 | 20.. => format!("rotate to {}", self.control.rotate(&serial).await?),
            1 => {
                let brightness = self.random.random_range(0..100);
                let state = json!({ "brightness": brightness });
                let state = state.as_object().cloned().unwrap_or_default();
                self.control.set_desired(&serial, state).await?;
                "set desired".to_owned()
            }
            2 => {
                self.control.broadcast(b"to all".to_vec()).await?;
                "broadcast".to_owned()
            }
            3..=7 => {
                let count = self.random.random_range(1..6);
                let device = &mut self.devices[number];
                let taken = (0..count).filter(|_| device.publish()).count();
                format!("publish {taken}")
            }
            8 => {
                cloud.stop().await;
                // Some stay stopped for a while.
                let again = self.random.random_bool(0.7);
                let started = again && cloud.initialize().await.is_ok();
                format!("stop; started again: {started}")
            }
            9 => format!("started: {}", cloud.initialize().await.is_ok()),
            10 => {
                let ms = self.random.random_range(0..200);
                let limit = Duration::from_millis(ms);
                let given_up = tokio::join!(
                    timeout(limit, cloud.stop()),
                    timeout(limit, cloud.initialize())
                );
                let started = cloud.initialize().await.is_ok();
                format!("stop and start within {limit:?}: {given_up:?}; started: {started}")
            }
            _ => {
                let fault = self.fault(&serial);
                let told = format!("{fault:?}");
                self.control.fault(fault).await?;
                told
            }
        };
        self.note(&format!("{serial}: {what}"));
        // Often at once, sometimes long enough for a keep-alive to run out.
        let pause = self.random.random_range(0.0..1.0_f64).powi(6) * 120.0;
        sleep(Duration::from_secs_f64(pause)).await;
        Ok(())
    }

    async fn run(mut self) -> anyhow::Result<()> {
        for device in &self.devices {
            device.cloud.initialize().await?;
        }
        self.well().await?;
        // What the HTTP clients of this test leave behind ends soon.
        sleep(Duration::from_secs(120)).await;
        let tasks = Handle::current().metrics().num_alive_tasks();
        for _ in 0..STEPS {
            self.step_iot().await?;
            self.step().await?;
        }
        self.note("all faults end");
        self.control.fault(Fault::Clear).await?;
        for device in &self.devices {
            // Those that run already say so.
            let _ = device.cloud.initialize().await;
        }
        self.well().await?;
        tasks_at_most(tasks).await?;
        self.note("all is well");
        for device in &mut self.devices {
            device
                .nothing_lost(&self.control)
                .await
                .with_context(|| device.serial.clone())?;
        }
        for device in &self.devices {
            device.cloud.stop().await;
            let seen = self.control.device(&device.serial).await?;
            let last = seen.status_history.last().map(String::as_str);
            ensure!(last == Some("OFFLINE"), "the last state is {last:?}");
        }
        let Self {
            simulator, devices, ..
        } = self;
        simulator.stop().await;
        drop(devices);
        tasks_at_most(0).await
    }

    /// Waits until there is nothing to complain about.
    async fn well(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        for device in &self.devices {
            while let Some(complaint) = device.complaint(&self.simulator).await? {
                ensure!(
                    begun.elapsed() < WELL_WITHIN,
                    "{}: {complaint}",
                    device.serial
                );
                sleep(Duration::from_secs(1)).await;
            }
        }
        Ok(())
    }
}

/// Waits until no more than so many tasks are left.
async fn tasks_at_most(limit: usize) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let tasks = Handle::current().metrics().num_alive_tasks();
        if tasks <= limit {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(600),
            "{tasks} tasks are left, where there were {limit} before"
        );
        sleep(Duration::from_secs(1)).await;
    }
}

/// One run; what went wrong, if anything did, with all that was done before.
fn run(seed: u64) -> Result<String, String> {
    let log = Arc::new(Mutex::new(String::new()));
    let told = |log: &Mutex<String>| {
        log.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .to_owned()
    };
    let whole = async { World::new(seed, Arc::clone(&log)).await?.run().await };
    match patient_clock::run(whole) {
        Ok(Ok(())) => Ok(told(&log)),
        Ok(Err(error)) => Err(format!("{}\nCHAOS_SEED={seed}: {error:#}", told(&log))),
        Err(error) => Err(error.to_string()),
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn after_the_faults_have_ended_all_is_well() {
    if let Some(seed) = number("CHAOS_SEED") {
        match run(seed) {
            Ok(log) => println!("{log}"),
            Err(error) => panic!("{error}"),
        }
        return;
    }
    // Fixed by default, so that nobody's work fails by bad luck; fresh ones where many are asked for.
    let seeds: Vec<u64> = match number("CHAOS_SEEDS") {
        None => FOUND.into_iter().chain(0..SEEDS).collect(),
        Some(count) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let first = now.unwrap_or_default().as_secs() * 10_000;
            (first..first + count).collect()
        }
    };
    let workers = std::thread::available_parallelism().map_or(2, usize::from) * RUNS_PER_CORE;
    let count = seeds.len();
    let next = Mutex::new(seeds.into_iter());
    let failures = Mutex::new(Vec::new());
    // What the process takes after each run.
    let sizes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(seed) = seed else { return };
                    if let Err(error) = run(seed) {
                        eprintln!("{error}");
                        failures
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(seed);
                    }
                    let mut sizes = sizes.lock().unwrap_or_else(PoisonError::into_inner);
                    let size = resident_kib();
                    sizes.push(size);
                    if sizes.len() % 50 == 0 {
                        println!("{} of {count} runs made, {size} KiB", sizes.len());
                    }
                }
            });
        }
    });
    let failures = failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    assert!(failures.is_empty(), "seeds that failed: {failures:?}");
    let sizes = sizes.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let (Some(begin), Some(end)) = (sizes.get(workers * WARM_UP), sizes.last()) {
        println!("{begin} KiB after the first runs, {end} KiB after the last");
        assert!(*end <= begin + MAX_GROWTH, "memory piles up");
    }
}

/// What this process takes.
fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let size = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = size.and_then(|size| size.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
