//! A certificate that is no longer desired is no longer requested.

use std::time::Duration;

use cloud_facade::iot::Proxy;
use cloud_facade::{ClesydeCloud, Event};
use cloud_sim::{CertificateAnswer, Fault};
use integration_tests::device::{SERIAL, TestDevice};
use integration_tests::virtual_time;
use serde_json::{Map, Value, json};
use testkit::wait::timeout;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// More than enough for the next attempt, which would bring the certificate.
const LONG: Duration = Duration::from_secs(600);

fn desired(key: &str, serial: Value) -> Map<String, Value> {
    [(key.to_owned(), serial)].into_iter().collect()
}

#[test]
fn withdrawn_desired_certificate_is_not_requested() -> anyhow::Result<()> {
    virtual_time::run(async {
        let pair = TestDevice::running().await?;
        let control = pair.simulator.control();
        let first = pair.seen().await?;
        for (key, back) in [
            ("remoteCertSn", json!(first.remote_cert_serial)),
            ("remoteCertSn", json!(null)),
            ("remoteCertSn", json!("no number")),
            ("iotCertSn", json!(first.iot_cert_serial)),
            ("iotCertSn", json!(null)),
        ] {
            let mut events = pair.cloud.events();
            let (answer, times) = (CertificateAnswer::WrongSerial, 1);
            if key == "iotCertSn" {
                control
                    .fault(Fault::IotCertificate { answer, times })
                    .await?;
                control.rotate_iot(SERIAL).await?;
            } else {
                control.fault(Fault::Certificate { answer, times }).await?;
                control.rotate(SERIAL).await?;
            }
            let failed = async {
                loop {
                    if let Event::RemoteCertificateRotationFailed { .. }
                    | Event::IotCertificateRotationFailed { .. } = events.recv().await?
                    {
                        return anyhow::Ok(());
                    }
                }
            };
            timeout("the failure", failed).await?;
            control
                .set_desired(SERIAL, desired(key, back.clone()))
                .await?;
            tokio::time::sleep(LONG).await;
            while let Ok(event) = events.try_recv() {
                assert!(
                    !matches!(
                        event,
                        Event::RemoteCertificateRotated { .. }
                            | Event::RemoteCertificateRotationFailed { .. }
                            | Event::IotCertificateRotated { .. }
                            | Event::IotCertificateRotationFailed { .. }
                    ),
                    "{key} {back}: {event:?}"
                );
            }
        }
        // The next desired certificate is requested.
        let serial = control.rotate(SERIAL).await?;
        pair.seen_when("a new certificate to be reported", |seen| {
            let reported = seen.reported.as_ref();
            reported.is_some_and(|reported| reported["remoteCertSn"] == serial.as_str())
        })
        .await;
        pair.stop().await;
        Ok(())
    })?
}

/// An HTTP proxy that leads to the broker, and delays the clients that a test names.
struct Gate {
    url: String,
    open: watch::Sender<bool>,
    /// How many have come.
    arrived: watch::Receiver<usize>,
    _tasks: JoinSet<()>,
}

impl Gate {
    async fn open() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (open, opened) = watch::channel(true);
        let (arrivals, arrived) = watch::channel(0);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut callers = JoinSet::new();
            while let Ok((caller, _)) = listener.accept().await {
                arrivals.send_modify(|arrived| *arrived += 1);
                let opened = opened.clone();
                callers.spawn(async move { pass(caller, opened).await });
            }
        });
        Ok(Self {
            url,
            open,
            arrived,
            _tasks: tasks,
        })
    }
}

async fn pass(mut caller: TcpStream, mut opened: watch::Receiver<bool>) -> anyhow::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        anyhow::ensure!(caller.read_buf(&mut head).await? > 0);
    }
    opened.wait_for(|open| *open).await?;
    let head = String::from_utf8(head)?;
    let target = head.split(' ').nth(1).unwrap_or_default();
    let mut broker = TcpStream::connect(target).await?;
    // What the system holds back for a moment, it holds back for many seconds of this clock.
    caller.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    caller.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    copy_bidirectional(&mut caller, &mut broker).await?;
    Ok(())
}

/// The new certificate is being tried when the desired state no longer names it. It is taken into
/// use, and that is all: nobody has asked for the old one.
#[test]
fn withdrawing_desired_during_install_keeps_new_certificate() -> anyhow::Result<()> {
    virtual_time::run(async {
        let mut pair = TestDevice::provisioned().await?;
        let gate = Gate::open().await?;
        let (base, api) = (pair.base.path(), pair.simulator.api_url());
        pair.cloud = ClesydeCloud::builder(SERIAL.parse()?, base, api)
            .proxy(Proxy::new(&gate.url)?)
            .build();
        pair.cloud.initialize().await?;
        timeout(
            "the device to be online",
            pair.cloud
                .watch_status()
                .wait_for(|status| status.iot.connected),
        )
        .await?;
        let control = pair.simulator.control();
        let mut events = pair.cloud.events();
        let mut arrived = gate.arrived.clone();
        let before = *arrived.borrow_and_update();

        gate.open.send_replace(false);
        let second = control.rotate_iot(SERIAL).await?;
        let proof = arrived.wait_for(|arrived| *arrived > before);
        timeout("the second connection", proof).await?;
        let mut delta = pair.cloud.shadow()?.delta();
        control
            .set_desired(SERIAL, desired("iotCertSn", json!(null)))
            .await?;
        let heard = delta.wait_for(|delta| delta.is_empty());
        timeout("the desired state to change", heard).await?;
        gate.open.send_replace(true);

        pair.seen_when("the new certificate to be reported", |seen| {
            let reported = seen.reported.as_ref();
            reported.is_some_and(|reported| reported["iotCertSn"] == second.as_str())
        })
        .await;
        tokio::time::sleep(LONG).await;
        let mut rotated = Vec::new();
        while let Ok(event) = events.try_recv() {
            match event {
                Event::IotCertificateRotated { serial, .. } => rotated.push(serial),
                Event::IotCertificateRotationFailed { serial, reason } => {
                    panic!("{serial}: {reason}")
                }
                _ => {}
            }
        }
        assert_eq!(rotated, [second]);
        pair.stop().await;
        Ok(())
    })?
}
