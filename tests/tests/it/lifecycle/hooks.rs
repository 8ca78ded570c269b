//! Hooks that stop the device, start it again, fail, panic, and hang.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cloud_facade::{ClesydeCloud, Event, HookPoint, Hooks, InitializeError, WeakClesydeCloud};
use cloud_sim::Fault;
use testkit::wait::{eventually, timeout};

use super::platform::{HOOK_POINTS, IN_TIME, Platform, assert_no_tasks, reachable, with_platform};

/// Makes each point of a connection come.
async fn live(platform: &Platform, cloud: &ClesydeCloud) -> anyhow::Result<()> {
    for fault in [Fault::DropTunnel { sn: None }, Fault::DropMqtt { sn: None }] {
        if tokio::time::timeout(Duration::from_secs(2), reachable(cloud))
            .await
            .is_ok()
        {
            platform.control.fault(fault).await?;
        }
    }
    Ok(())
}

#[test]
fn hook_may_stop_device_at_any_point() -> anyhow::Result<()> {
    for point in HOOK_POINTS {
        with_platform(async |platform| {
            let calls = Arc::new(AtomicUsize::new(0));
            let hook = {
                let calls = Arc::clone(&calls);
                move |cloud: WeakClesydeCloud| {
                    let calls = Arc::clone(&calls);
                    async move {
                        calls.fetch_add(1, Ordering::Relaxed);
                        if let Some(cloud) = cloud.upgrade() {
                            cloud.stop().await;
                        }
                        Ok(())
                    }
                }
            };
            let cloud = platform.device(Hooks::new().on(point, hook)).await?;
            let mut events = cloud.events();
            match (point, cloud.initialize().await) {
                (HookPoint::Initialized | HookPoint::Started, Err(InitializeError::Stopped)) => {}
                (_, started) => started?,
            }
            match point {
                HookPoint::Stopped => cloud.stop().await,
                HookPoint::IotDisconnected | HookPoint::RemoteDisconnected => {
                    reachable(&cloud).await?;
                    live(platform, &cloud).await?;
                }
                _ => {}
            }
            let stopped = async {
                while !matches!(events.recv().await?, Event::Stopped) {}
                anyhow::Ok(())
            };
            timeout("the stop", stopped).await?;
            assert_no_tasks().await;
            assert!(calls.load(Ordering::Relaxed) > 0, "{point:?}");
            assert!(!cloud.status().running);
            platform.offline().await;
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn failing_or_panicking_hooks_are_isolated() -> anyhow::Result<()> {
    with_platform(async |platform| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let hooks = HOOK_POINTS.into_iter().fold(Hooks::new(), |hooks, point| {
            let seen = Arc::clone(&seen);
            hooks
                .on(point, |_| async { Err("on purpose".into()) })
                .on(point, |_| async { panic!("on purpose") })
                .on(point, move |_| {
                    let seen = Arc::clone(&seen);
                    async move {
                        seen.lock().unwrap().push(point);
                        Ok(())
                    }
                })
        });
        let cloud = platform.device(hooks).await?;
        cloud.initialize().await?;
        reachable(&cloud).await?;
        live(platform, &cloud).await?;
        eventually("the tunnel to be noticed as lost", || async {
            let seen = seen.lock().unwrap();
            seen.contains(&HookPoint::RemoteDisconnected).then_some(())
        })
        .await;
        cloud.stop().await;
        assert_no_tasks().await;
        let seen = seen.lock().unwrap();
        for point in HOOK_POINTS {
            assert!(seen.contains(&point), "{point:?} in {seen:?}");
        }
        assert_eq!(seen.last(), Some(&HookPoint::Stopped));
        Ok(())
    })
}

#[test]
fn hanging_hook_does_not_delay_stop() -> anyhow::Result<()> {
    for point in HOOK_POINTS {
        with_platform(async |platform| {
            let reached = Arc::new(AtomicUsize::new(0));
            let hook = {
                let reached = Arc::clone(&reached);
                move |_| {
                    reached.fetch_add(1, Ordering::Relaxed);
                    std::future::pending()
                }
            };
            let cloud = platform.device(Hooks::new().on(point, hook)).await?;
            let start = tokio::spawn({
                let cloud = cloud.clone();
                async move { cloud.initialize().await }
            });
            let hung = || async { (reached.load(Ordering::Relaxed) > 0).then_some(()) };
            match point {
                HookPoint::Initialized
                | HookPoint::Started
                | HookPoint::IotConnected
                | HookPoint::RemoteConnected => eventually("the hook to hang", hung).await,
                _ => reachable(&cloud).await?,
            }
            let begun = Instant::now();
            cloud.stop().await;
            assert!(
                begun.elapsed() < IN_TIME,
                "{point:?}: {:?}",
                begun.elapsed()
            );
            timeout("the start to end", start).await?.ok();
            eventually("the hook to have been called", hung).await;
            assert_no_tasks().await;
            platform.offline().await;
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn hook_may_restart_device() -> anyhow::Result<()> {
    with_platform(async |platform| {
        let again = Arc::new(AtomicUsize::new(0));
        let hook = {
            let again = Arc::clone(&again);
            move |cloud: WeakClesydeCloud| {
                let again = Arc::clone(&again);
                async move {
                    if again.fetch_add(1, Ordering::Relaxed) == 0
                        && let Some(cloud) = cloud.upgrade()
                    {
                        cloud.initialize().await?;
                    }
                    Ok(())
                }
            }
        };
        let cloud = platform
            .device(Hooks::new().on(HookPoint::Stopped, hook))
            .await?;
        cloud.initialize().await?;
        cloud.stop().await;
        assert!(cloud.status().running, "the hook has started it again");
        reachable(&cloud).await?;
        cloud.stop().await;
        assert_no_tasks().await;
        assert!(!cloud.status().running);
        Ok(())
    })
}
