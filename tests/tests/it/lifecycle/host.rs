//! A host that does not wait, reads slowly, and changes its mind.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud_facade::remote::Application;
use cloud_facade::{ClesydeCloud, CloudClient, DeviceSettings, Event, Hooks, Registered};
use cloud_sim::{ApiAnswer, Fault};
use integration_tests::wait::{eventually, timeout};
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
                if let Event::PlatformMessage { payload, .. } =
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
        let cloud = ClesydeCloud::new(platform.settings()?);
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

/// A host that changes its mind.
struct Host {
    settings: DeviceSettings,
    api_url: Arc<Mutex<String>>,
    application: Arc<Mutex<Option<Application>>>,
}

impl CloudClient for Host {
    fn serial_number(&self) -> cloud_facade::config::SerialNumber {
        self.settings.serial_number()
    }

    fn base_path(&self) -> std::path::PathBuf {
        self.settings.base_path()
    }

    fn api_url(&self) -> String {
        self.api_url.lock().unwrap().clone()
    }

    fn application(&self) -> Option<Application> {
        self.application.lock().unwrap().clone()
    }
}

#[test]
fn initialize_reads_changed_settings() -> anyhow::Result<()> {
    with_platform(async |platform| {
        let (api_url, application) = (
            Arc::new(Mutex::new("http://127.0.0.1:1".to_owned())),
            Arc::default(),
        );
        let cloud = ClesydeCloud::new(Host {
            settings: platform.settings()?,
            api_url: Arc::clone(&api_url),
            application: Arc::clone(&application),
        });
        let nobody =
            tokio::time::timeout(Duration::from_secs(1), cloud.provision(&platform.key)).await;
        assert!(!matches!(nobody, Ok(Ok(_))), "{nobody:?}");
        eventually("the registration to be over", || async {
            *api_url.lock().unwrap() = platform.api_url.clone();
            cloud.provision(&platform.key).await.ok()
        })
        .await;
        cloud.initialize().await?;
        online(&cloud).await?;
        assert_eq!(cloud.status().certificate_serial, None, "nothing is served");
        cloud.stop().await;
        *application.lock().unwrap() = platform.settings()?.application();
        cloud.initialize().await?;
        reachable(&cloud).await?;
        cloud.stop().await;
        assert_no_tasks().await;
        Ok(())
    })
}
