//! Hooks that stop the device, start it again, fail, panic, and hang.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use cloud_facade::{ClesydeCloud, Event, Hooks, InitializeError, Moment, WeakClesydeCloud};
use cloud_sim::Fault;
use integration_tests::wait::{until, within};
use tokio::time::timeout;

use crate::platform::{IN_TIME, MOMENTS, Platform, beside_a_platform, nothing_runs, reachable};

/// Hooks that need the device that they belong to.
#[derive(Clone, Default)]
struct Own(Arc<OnceLock<WeakClesydeCloud>>);

impl Own {
    fn set(&self, cloud: &ClesydeCloud) {
        drop(self.0.set(cloud.downgrade()));
    }

    fn get(&self) -> Option<ClesydeCloud> {
        self.0.get().and_then(WeakClesydeCloud::upgrade)
    }
}

/// Makes each moment of a connection come.
async fn live(platform: &Platform, cloud: &ClesydeCloud) -> anyhow::Result<()> {
    for fault in [Fault::DropTunnel { sn: None }, Fault::DropMqtt { sn: None }] {
        if timeout(Duration::from_secs(2), reachable(cloud))
            .await
            .is_ok()
        {
            platform.control.fault(fault).await?;
        }
    }
    Ok(())
}

#[test]
fn a_hook_may_stop_the_device_at_any_moment() -> anyhow::Result<()> {
    for moment in MOMENTS {
        beside_a_platform(async |platform| {
            let (own, calls) = (Own::default(), Arc::new(AtomicUsize::new(0)));
            let hook = {
                let (own, calls) = (own.clone(), Arc::clone(&calls));
                move || {
                    let (own, calls) = (own.clone(), Arc::clone(&calls));
                    async move {
                        calls.fetch_add(1, Ordering::Relaxed);
                        if let Some(cloud) = own.get() {
                            cloud.stop().await;
                        }
                        Ok(())
                    }
                }
            };
            let cloud = platform.device(Hooks::new().on(moment, hook)).await?;
            own.set(&cloud);
            let mut events = cloud.events();
            match (moment, cloud.initialize().await) {
                (Moment::Initialized | Moment::Started, Err(InitializeError::Stopped)) => {}
                (_, started) => started?,
            }
            match moment {
                Moment::Stopped => cloud.stop().await,
                Moment::IotDisconnected | Moment::RemoteDisconnected => {
                    reachable(&cloud).await?;
                    live(platform, &cloud).await?;
                }
                _ => {}
            }
            let stopped = async {
                while !matches!(events.recv().await?, Event::Stopped) {}
                anyhow::Ok(())
            };
            within("the stop", stopped).await?;
            nothing_runs().await;
            assert!(calls.load(Ordering::Relaxed) > 0, "{moment:?}");
            assert!(!cloud.status().running);
            platform.offline().await;
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn hooks_that_fail_or_panic_harm_nobody() -> anyhow::Result<()> {
    beside_a_platform(async |platform| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let hooks = MOMENTS.into_iter().fold(Hooks::new(), |hooks, moment| {
            let seen = Arc::clone(&seen);
            hooks
                .on(moment, || async { Err("on purpose".into()) })
                .on(moment, || async { panic!("on purpose") })
                .on(moment, move || {
                    let seen = Arc::clone(&seen);
                    async move {
                        seen.lock().unwrap().push(moment);
                        Ok(())
                    }
                })
        });
        let cloud = platform.device(hooks).await?;
        cloud.initialize().await?;
        reachable(&cloud).await?;
        live(platform, &cloud).await?;
        until("the tunnel to be noticed as lost", || async {
            let seen = seen.lock().unwrap();
            seen.contains(&Moment::RemoteDisconnected).then_some(())
        })
        .await;
        cloud.stop().await;
        nothing_runs().await;
        let seen = seen.lock().unwrap();
        for moment in MOMENTS {
            assert!(seen.contains(&moment), "{moment:?} in {seen:?}");
        }
        assert_eq!(seen.last(), Some(&Moment::Stopped));
        Ok(())
    })
}

#[test]
fn a_hook_that_hangs_does_not_hold_a_stop_up() -> anyhow::Result<()> {
    for moment in MOMENTS {
        beside_a_platform(async |platform| {
            let reached = Arc::new(AtomicUsize::new(0));
            let hook = {
                let reached = Arc::clone(&reached);
                move || {
                    reached.fetch_add(1, Ordering::Relaxed);
                    std::future::pending()
                }
            };
            let cloud = platform.device(Hooks::new().on(moment, hook)).await?;
            let start = tokio::spawn({
                let cloud = cloud.clone();
                async move { cloud.initialize().await }
            });
            let hung = || async { (reached.load(Ordering::Relaxed) > 0).then_some(()) };
            match moment {
                Moment::Initialized
                | Moment::Started
                | Moment::IotConnected
                | Moment::RemoteConnected => until("the hook to hang", hung).await,
                _ => reachable(&cloud).await?,
            }
            let begun = Instant::now();
            cloud.stop().await;
            assert!(
                begun.elapsed() < IN_TIME,
                "{moment:?}: {:?}",
                begun.elapsed()
            );
            within("the start to end", start).await?.ok();
            until("the hook to have been called", hung).await;
            nothing_runs().await;
            platform.offline().await;
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_hook_may_start_the_device_again() -> anyhow::Result<()> {
    beside_a_platform(async |platform| {
        let (own, again) = (Own::default(), Arc::new(AtomicUsize::new(0)));
        let hook = {
            let (own, again) = (own.clone(), Arc::clone(&again));
            move || {
                let (own, again) = (own.clone(), Arc::clone(&again));
                async move {
                    if again.fetch_add(1, Ordering::Relaxed) == 0
                        && let Some(cloud) = own.get()
                    {
                        cloud.initialize().await?;
                    }
                    Ok(())
                }
            }
        };
        let cloud = platform
            .device(Hooks::new().on(Moment::Stopped, hook))
            .await?;
        own.set(&cloud);
        cloud.initialize().await?;
        cloud.stop().await;
        assert!(cloud.status().running, "the hook has started it again");
        reachable(&cloud).await?;
        cloud.stop().await;
        nothing_runs().await;
        assert!(!cloud.status().running);
        Ok(())
    })
}
