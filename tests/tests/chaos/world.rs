//! The devices and their platform: the steps of a run and the check at its end.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use cloud_sim::{AckPacket, CertificateAnswer, Control, Fault, SimConfig, Simulator, TokenAnswer};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

use crate::device::Device;

/// Devices of one run.
const DEVICES: usize = 3;

/// Steps of one run.
const STEPS: usize = 40;

/// Time limit for the recovery after the last fault. The longest delays are those of a
/// certificate that was often refused.
const WELL_WITHIN: Duration = Duration::from_secs(2 * 3600);

pub(crate) struct World {
    simulator: Simulator,
    control: Control,
    devices: Vec<Device>,
    random: StdRng,
    /// For what has to do with client certificates, so that the rest of a seed stays what it was.
    random_iot: StdRng,
    log: Arc<Mutex<String>>,
    begun: Instant,
}

impl World {
    pub(crate) async fn new(seed: u64, log: Arc<Mutex<String>>) -> anyhow::Result<Self> {
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

    /// A step for a client certificate, in some of the rounds.
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
                let description = format!("{fault:?}");
                self.control.fault(fault).await?;
                description
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
                let description = format!("{fault:?}");
                self.control.fault(fault).await?;
                description
            }
        };
        self.note(&format!("{serial}: {what}"));
        // Often at once, sometimes long enough for a keep-alive to run out.
        let pause = self.random.random_range(0.0..1.0_f64).powi(6) * 120.0;
        sleep(Duration::from_secs_f64(pause)).await;
        Ok(())
    }

    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
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

    /// Waits until every device is in its expected state.
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
