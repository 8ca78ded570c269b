//! Starting and stopping a device: in any order, at any point, concurrently, and cancelled. In the
//! end the device either runs or has no task left.
//!
//! The platform has its own runtime, so that the tasks of the test's runtime are those of
//! the device and no others.

mod hooks;
mod host;
mod platform;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cloud_facade::iot::Message;
use cloud_facade::{HookPoint, Hooks, InitializeError};
use integration_tests::device::SERIAL;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use testkit::wait::timeout;
use tokio::time::sleep;

use self::platform::{assert_no_tasks, cancel_after, online, reachable, slow_hooks, with_platform};

#[test]
fn start_cancelled_at_any_await_leaves_nothing_running() -> anyhow::Result<()> {
    with_platform(async |platform| {
        let cloud = platform.device(slow_hooks()).await?;
        let mut given_up = 0;
        for turns in 0.. {
            let started = cancel_after(turns, cloud.initialize()).await;
            if let Some(started) = started {
                started?;
                break;
            }
            given_up += 1;
            if turns % 2 == 0 {
                // The next start does not find the remains of this one in its way.
                cloud.initialize().await?;
                cloud.stop().await;
            }
            assert_no_tasks().await;
            assert!(!cloud.status().running, "after {turns} turns");
        }
        assert!(given_up > 5, "given up {given_up} times only");
        reachable(&cloud).await?;
        cloud.stop().await;
        assert_no_tasks().await;
        platform.offline().await;
        Ok(())
    })
}

#[test]
fn abandoned_start_is_undone() -> anyhow::Result<()> {
    with_platform(async |platform| {
        let cloud = platform.device(Hooks::new()).await?;
        for _ in 0..10 {
            let mut start = Box::pin(cloud.initialize());
            assert!(futures_util::poll!(&mut start).is_pending());
            reachable(&cloud).await?;
            drop(start);
            // In the order of the calls, also after this.
            cloud.initialize().await?;
            cloud.stop().await;
            assert_no_tasks().await;
        }
        platform.offline().await;
        Ok(())
    })
}

#[test]
fn stop_cancelled_at_any_await_continues() -> anyhow::Result<()> {
    with_platform(async |platform| {
        let cloud = platform.device(slow_hooks()).await?;
        let mut given_up = 0;
        for turns in (1..10).chain((10..60).step_by(7)) {
            cloud.initialize().await?;
            match turns % 3 {
                0 => reachable(&cloud).await?,
                1 => online(&cloud).await?,
                _ => {}
            }
            if cancel_after(turns, cloud.stop()).await.is_none() {
                given_up += 1;
            }
            timeout(
                "the stop to go on",
                cloud.watch_status().wait_for(|status| !status.running),
            )
            .await?;
            assert_no_tasks().await;
            platform.offline().await;
        }
        assert!(given_up > 5, "given up {given_up} times only");
        Ok(())
    })
}

#[test]
fn random_starts_and_stops_end_in_last_requested_state() -> anyhow::Result<()> {
    with_platform(async |platform| {
        let cloud = platform.device(slow_hooks()).await?;
        let seed = rand::random::<u64>();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..60 {
            let (one, other) = (cloud.clone(), cloud.clone());
            match random.random_range(0..8) {
                0 => drop(cloud.initialize().await),
                1 => cloud.stop().await,
                2 => drop(cancel_after(random.random_range(0..60), cloud.initialize()).await),
                3 => drop(cancel_after(random.random_range(0..60), cloud.stop()).await),
                4 => drop(tokio::join!(one.initialize(), other.stop())),
                5 => drop(tokio::join!(one.stop(), other.initialize())),
                6 => drop(tokio::join!(one.stop(), other.stop())),
                _ => sleep(Duration::from_millis(random.random_range(0..60))).await,
            }
        }
        timeout("the last stop", cloud.stop()).await;
        assert_no_tasks().await;
        platform.offline().await;
        cloud.initialize().await?;
        reachable(&cloud).await?;
        timeout("the very last stop", cloud.stop()).await;
        assert_no_tasks().await;
        assert_eq!(platform.last_state().await?.as_deref(), Some("OFFLINE"));
        Ok(())
    })
}

#[test]
fn calls_take_effect_in_order() -> anyhow::Result<()> {
    with_platform(async |platform| {
        let cloud = platform.device(Hooks::new()).await?;
        let (first, second) = tokio::join!(cloud.initialize(), cloud.initialize());
        first?;
        assert!(matches!(second, Err(InitializeError::Running)));
        let ((), again) = tokio::join!(cloud.stop(), cloud.initialize());
        again?;
        assert!(cloud.status().running);
        cloud.stop().await;
        let (started, ()) = tokio::join!(cloud.initialize(), cloud.stop());
        assert!(
            matches!(started, Err(InitializeError::Stopped)),
            "{started:?}"
        );
        assert!(!cloud.status().running);
        assert_no_tasks().await;
        Ok(())
    })
}

#[test]
fn running_status_implies_usable_handles() -> anyhow::Result<()> {
    with_platform(async |platform| {
        let cloud = platform.device(Hooks::new()).await?;
        for _ in 0..10 {
            let user = tokio::spawn({
                let cloud = cloud.clone();
                async move {
                    let mut status = cloud.watch_status();
                    status.wait_for(|status| status.running).await?;
                    let topic = format!("c/d/{SERIAL}/status");
                    drop(cloud.publish(Message::new(topic, "{}"))?);
                    anyhow::Ok(())
                }
            });
            cloud.initialize().await?;
            timeout("the message to be taken", user).await??;
            cloud.stop().await;
        }
        assert_no_tasks().await;
        Ok(())
    })
}

#[test]
fn dropped_device_stops_gracefully() -> anyhow::Result<()> {
    with_platform(async |platform| {
        let stopped = Arc::new(AtomicUsize::new(0));
        let hook = {
            let stopped = Arc::clone(&stopped);
            move |_| {
                stopped.fetch_add(1, Ordering::Relaxed);
                std::future::ready(Ok(()))
            }
        };
        let cloud = platform
            .device(Hooks::new().on(HookPoint::Stopped, hook))
            .await?;
        cloud.initialize().await?;
        reachable(&cloud).await?;
        // A handle that the application holds does not keep the device running.
        let shadow = cloud.shadow()?;
        let weak = cloud.downgrade();
        drop(cloud);
        assert!(weak.upgrade().is_none());
        assert_no_tasks().await;
        assert!(shadow.get().await.is_err());
        assert_eq!(stopped.load(Ordering::Relaxed), 1);
        let history = platform.control.device(SERIAL).await?.status_history;
        assert_eq!(history, ["ONLINE", "OFFLINE"]);

        let cloud = platform.device(Hooks::new()).await?;
        cloud.initialize().await?;
        cloud.stop().await;
        Ok(())
    })
}
