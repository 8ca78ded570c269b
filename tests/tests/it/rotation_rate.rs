//! A platform that keeps naming other certificates costs a device few of them, and the newest is in
//! use in the end.

use std::time::Duration;

use cloud_facade::Event;
use cloud_facade::config::Store;
use cloud_facade::remote::RotationStatus;
use cloud_sim::{CertificateAnswer, Fault};
use integration_tests::device::{SERIAL, TestDevice};
use integration_tests::virtual_time;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::TryRecvError;

/// Longer than the longest time between two rotations.
const HOUR: Duration = Duration::from_secs(3_600);

/// Certificates that are named in a flood, and the time between two of them. It is no divisor of
/// the rate limit's times, so that each one is answered before the next one is named.
const FLOOD: usize = 400;
const BETWEEN: Duration = Duration::from_millis(700);

#[derive(Debug, Clone, Copy)]
enum Certificate {
    Remote,
    Iot,
}

use Certificate::{Iot, Remote};

impl Certificate {
    async fn rotate(self, pair: &TestDevice) -> anyhow::Result<String> {
        let control = pair.simulator.control();
        Ok(match self {
            Remote => control.rotate(SERIAL).await?,
            Iot => control.rotate_iot(SERIAL).await?,
        })
    }

    fn stored(self, pair: &TestDevice) -> anyhow::Result<String> {
        let device = Store::new(pair.base.path()).load()?.device;
        Ok(match self {
            Remote => device.remote.info().serial.clone(),
            Iot => device.iot.info().serial.clone(),
        })
    }

    fn fault(self, answer: CertificateAnswer, times: u32) -> Fault {
        match self {
            Remote => Fault::Certificate { answer, times },
            Iot => Fault::IotCertificate { answer, times },
        }
    }

    /// Waits until the newest is reported, which is after it is stored and used.
    async fn settled(self, pair: &TestDevice, newest: &str) -> anyhow::Result<()> {
        let key = match self {
            Remote => "remoteCertSn",
            Iot => "iotCertSn",
        };
        let settled = async {
            loop {
                let reported = pair.seen().await?.reported.unwrap_or_default();
                if reported[key] == newest {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::time::timeout(HOUR, settled).await??;
        assert_eq!(self.stored(pair)?, newest);
        Ok(())
    }
}

/// What came of the rotations of one certificate, by the events so far.
#[derive(Debug)]
struct Seen {
    certificate: Certificate,
    events: broadcast::Receiver<Event>,
    stored: Vec<String>,
    failed: usize,
}

impl Seen {
    fn of(certificate: Certificate, pair: &TestDevice) -> Self {
        Self {
            certificate,
            events: pair.cloud.events(),
            stored: Vec::new(),
            failed: 0,
        }
    }

    fn read(&mut self) {
        loop {
            match (self.certificate, self.events.try_recv()) {
                (Remote, Ok(Event::RemoteCertificateRotated { serial, .. }))
                | (Iot, Ok(Event::IotCertificateRotated { serial, .. })) => {
                    self.stored.push(serial)
                }
                (Remote, Ok(Event::RemoteCertificateRotationFailed { .. }))
                | (Iot, Ok(Event::IotCertificateRotationFailed { .. })) => self.failed += 1,
                (_, Ok(_)) => {}
                (_, Err(TryRecvError::Empty)) => return,
                (_, Err(error)) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn burst_of_20_stores_few_and_ends_with_newest() -> anyhow::Result<()> {
    virtual_time::run(async {
        let pair = TestDevice::running().await?;
        for certificate in [Remote, Iot] {
            let mut seen = Seen::of(certificate, &pair);
            let before = pair.seen().await?.status_history.len();
            let mut newest = String::new();
            for _ in 0..20 {
                newest = certificate.rotate(&pair).await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let named = tokio::time::Instant::now();
            certificate.settled(&pair, &newest).await?;
            let took = named.elapsed();
            seen.read();
            println!(
                "{certificate:?}: {} stored, newest after {took:?}",
                seen.stored.len()
            );
            assert!(seen.stored.len() <= 3, "{certificate:?}: {seen:?}");
            assert_eq!(seen.stored.last(), Some(&newest), "{certificate:?}");
            assert!(took < Duration::from_secs(60), "{certificate:?}: {took:?}");
            let history = pair.seen().await?.status_history.len() - before;
            assert!(
                history <= 6,
                "{certificate:?}: {history} times ONLINE or OFFLINE"
            );
        }
        pair.stop().await;
        Ok(())
    })?
}

#[test]
fn flood_of_deltas_is_slowed_down() -> anyhow::Result<()> {
    virtual_time::run(async {
        let pair = TestDevice::running().await?;
        for certificate in [Remote, Iot] {
            let mut seen = Seen::of(certificate, &pair);
            let mut newest = String::new();
            for _ in 0..FLOOD {
                newest = certificate.rotate(&pair).await?;
                tokio::time::sleep(BETWEEN).await;
                seen.read();
            }
            println!("{certificate:?}: {} of {FLOOD} stored", seen.stored.len());
            assert!(
                (2..=8).contains(&seen.stored.len()),
                "{certificate:?}: {seen:?}"
            );
            let status = pair.cloud.status();
            let rotation = match certificate {
                Remote => status.certificate_rotation,
                Iot => status.iot_certificate_rotation,
            };
            assert!(rotation.is_rate_limited(), "{certificate:?}: {rotation:?}");
            certificate.settled(&pair, &newest).await?;
            seen.read();
            assert_eq!(seen.stored.last(), Some(&newest), "{certificate:?}");
            let status = pair.cloud.status();
            assert!(status.iot.connected);
            assert_eq!(status.certificate_rotation, RotationStatus::Idle);
            assert_eq!(status.iot_certificate_rotation, RotationStatus::Idle);
        }
        pair.stop().await;
        Ok(())
    })?
}

#[test]
fn unusable_responses_to_flood_are_requested_rarely() -> anyhow::Result<()> {
    virtual_time::run(async {
        let pair = TestDevice::running().await?;
        let control = pair.simulator.control();
        for certificate in [Remote, Iot] {
            let old = certificate.stored(&pair)?;
            let mut seen = Seen::of(certificate, &pair);
            control
                .fault(certificate.fault(CertificateAnswer::WrongKey, 10_000))
                .await?;
            for _ in 0..FLOOD {
                certificate.rotate(&pair).await?;
                tokio::time::sleep(BETWEEN).await;
                seen.read();
            }
            println!("{certificate:?}: {} of {FLOOD} failed", seen.failed);
            assert!((2..=8).contains(&seen.failed), "{certificate:?}: {seen:?}");
            assert!(seen.stored.is_empty(), "{certificate:?}: {seen:?}");
            assert_eq!(certificate.stored(&pair)?, old);
            control.fault(Fault::Clear).await?;
        }
        pair.stop().await;
        Ok(())
    })?
}
