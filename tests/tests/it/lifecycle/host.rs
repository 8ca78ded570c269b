//! A host that does not wait, reads slowly, and reverses its calls.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud_facade::{ClesydeCloud, CloudBuilder, Event, Hooks, Host, Registered};
use cloud_sim::{ApiAnswer, Fault};
use integration_tests::device::SERIAL;
use testkit::wait::{eventually, timeout};
use tokio::sync::broadcast::error::RecvError;

use super::platform::{assert_no_tasks, online, reachable, with_platform};

#[test]
fn slow_event_reader_delays_nothing() -> anyhow::Result<()> {
    const MESSAGES: usize = 500;
    with_platform(async |platform| {
        let cloud = platform.device(Hooks::new()).await?;
        let mut slow = cloud.events();
        cloud.initialize().await?;
        reachable(&cloud).await?;
        let mut quick = cloud.events();
        for number in 0..MESSAGES {
            let payload = number.to_string().into_bytes();
            platform.control.broadcast(payload).await?;
            loop {
                if let Event::PlatformMessageReceived { payload, .. } =
                    timeout("the message", quick.recv()).await?
                {
                    assert_eq!(payload, number.to_string());
                    break;
                }
            }
        }
        let missed = match slow.recv().await {
            Err(RecvError::Lagged(missed)) => missed,
            event => panic!("{event:?}"),
        };
        assert!(missed > MESSAGES as u64 - 100, "{missed}");
        timeout("what is left", slow.recv()).await?;
        cloud.stop().await;
        assert_no_tasks().await;
        Ok(())
    })
}

#[test]
fn abandoned_registration_completes() -> anyhow::Result<()> {
    with_platform(async |platform| {
        let late = Fault::Api {
            answer: ApiAnswer::Delay { ms: 300 },
            times: 1,
        };
        platform.control.fault(late).await?;
        let cloud = platform.settings()?.build();
        let given_up =
            tokio::time::timeout(Duration::from_millis(100), cloud.provision(&platform.key)).await;
        assert!(given_up.is_err(), "{given_up:?}");
        eventually("the device to be registered", || async {
            (!platform.control.devices().await.is_empty()).then_some(())
        })
        .await;
        assert_no_tasks().await;
        cloud.initialize().await?;
        // Also while it runs.
        assert_eq!(
            cloud.provision(&platform.key).await?,
            Registered::AlreadyProvisioned
        );
        cloud.stop().await;
        assert_no_tasks().await;
        Ok(())
    })
}

/// A host whose settings change.
struct ChangingHost(Arc<Mutex<CloudBuilder>>);

impl Host for ChangingHost {
    fn settings(&self) -> CloudBuilder {
        self.0.lock().unwrap().clone()
    }
}

#[test]
fn initialize_reads_changed_settings() -> anyhow::Result<()> {
    with_platform(async |platform| {
        let device = |api_url: &str| {
            let serial_number = SERIAL.parse()?;
            anyhow::Ok(ClesydeCloud::builder(
                serial_number,
                platform.base.path(),
                api_url,
            ))
        };
        let settings = Arc::new(Mutex::new(device("http://127.0.0.1:1")?));
        let cloud = ClesydeCloud::new(ChangingHost(Arc::clone(&settings)));
        let nobody =
            tokio::time::timeout(Duration::from_secs(1), cloud.provision(&platform.key)).await;
        assert!(!matches!(nobody, Ok(Ok(_))), "{nobody:?}");
        *settings.lock().unwrap() = device(&platform.api_url)?;
        eventually("the registration to be over", || async {
            cloud.provision(&platform.key).await.ok()
        })
        .await;
        cloud.initialize().await?;
        online(&cloud).await?;
        assert_eq!(cloud.status().certificate_serial, None, "nothing is served");
        cloud.stop().await;
        *settings.lock().unwrap() = platform.settings()?;
        cloud.initialize().await?;
        reachable(&cloud).await?;
        cloud.stop().await;
        assert_no_tasks().await;
        Ok(())
    })
}
