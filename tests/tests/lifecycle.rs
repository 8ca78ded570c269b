//! Starting and stopping a device: in any order, at any moment, by anybody, given up half-way. Whatever is done, in the end it
//! either runs or has left nothing behind.
//!
//! The platform lives in a runtime of its own, so that the tasks of the test's runtime are those of the device and no others.

#![allow(clippy::panic, clippy::unwrap_used, reason = "these are tests")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use cloud_facade::iot::QoS;
use cloud_facade::provision::ProvisioningKey;
use cloud_facade::remote::Application;
use cloud_facade::{
    ClesydeCloud, CloudClient, DeviceSettings, Event, Hooks, InitializeError, Moment, Registered,
    STOP_DEADLINE, WeakClesydeCloud,
};
use cloud_sim::{ApiAnswer, Control, Fault, SimConfig, Simulator};
use integration_tests::device::SERIAL;
use integration_tests::wait::{until, within};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::{Builder, Handle};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{sleep, timeout};

const MOMENTS: [Moment; 7] = [
    Moment::Initialized,
    Moment::Started,
    Moment::Stopped,
    Moment::IotConnected,
    Moment::IotDisconnected,
    Moment::RemoteConnected,
    Moment::RemoteDisconnected,
];

/// A stop may take its deadline; what comes on top is for a busy machine.
const IN_TIME: Duration = STOP_DEADLINE.saturating_add(Duration::from_secs(1));

/// The platform, seen from the device's runtime.
struct Platform {
    control: Control,
    api_url: String,
    key: ProvisioningKey,
    base: tempfile::TempDir,
}

impl Platform {
    fn settings(&self) -> anyhow::Result<DeviceSettings> {
        let page = Router::new().route("/", get(|| async { "hello" }));
        Ok(
            DeviceSettings::new(SERIAL.parse()?, self.base.path(), &self.api_url)
                .with_application(Application::service(page)),
        )
    }

    /// A device that is provisioned and does not run yet.
    async fn device(&self, hooks: Hooks) -> anyhow::Result<ClesydeCloud> {
        let cloud = ClesydeCloud::new(self.settings()?.with_hooks(hooks));
        cloud.provision(&self.key).await?;
        nothing_runs().await;
        Ok(cloud)
    }

    async fn last_state(&self) -> anyhow::Result<Option<String>> {
        Ok(self.control.device(SERIAL).await?.status_history.pop())
    }

    /// The device said OFFLINE, if it ever said ONLINE.
    async fn offline(&self) {
        until("OFFLINE to be published", || async {
            let last = self.last_state().await.ok()?;
            last.is_none_or(|state| state == "OFFLINE").then_some(())
        })
        .await;
    }
}

/// Runs `test` beside a platform, in a runtime where nothing else runs.
fn beside_a_platform(
    test: impl AsyncFnOnce(&Platform) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let theirs = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let simulator = theirs.block_on(Simulator::start(SimConfig::default()))?;
    let platform = Platform {
        control: simulator.control(),
        api_url: simulator.api_url(),
        key: ProvisioningKey::new(simulator.provisioning_key())?,
        base: tempfile::tempdir()?,
    };
    let ours = Builder::new_current_thread().enable_all().build()?;
    let tested = ours.block_on(test(&platform));
    theirs.block_on(simulator.stop());
    tested
}

/// No task is left. A task that was told to end may take a moment to notice.
async fn nothing_runs() {
    let left = || Handle::current().metrics().num_alive_tasks();
    let ended = async {
        while left() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    if timeout(Duration::from_secs(2), ended).await.is_err() {
        panic!("{} tasks are left", left());
    }
}

async fn online(cloud: &ClesydeCloud) -> anyhow::Result<()> {
    let mut status = cloud.watch_status();
    within(
        "the device to be online",
        status.wait_for(|status| status.iot.connected),
    )
    .await?;
    Ok(())
}

async fn reachable(cloud: &ClesydeCloud) -> anyhow::Result<()> {
    let mut status = cloud.watch_status();
    within(
        "the device to be reachable",
        status.wait_for(|status| status.iot.connected && status.remote.connected),
    )
    .await?;
    Ok(())
}

/// Lets everything else go on for so many turns, or milliseconds once turns are too short, and then drops the future.
async fn give_up_after<T>(turns: u32, future: impl Future<Output = T>) -> Option<T> {
    let enough = async {
        for turn in 0..turns {
            if turn < 30 {
                tokio::task::yield_now().await;
            } else {
                sleep(Duration::from_millis(1)).await;
            }
        }
    };
    tokio::select! {
        biased;
        done = future => Some(done),
        () = enough => None,
    }
}

/// Hooks that take some turns, so that there are more places to be given up at.
fn dawdling() -> Hooks {
    MOMENTS.into_iter().fold(Hooks::new(), |hooks, moment| {
        hooks.on(moment, || async {
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            Ok(())
        })
    })
}

#[test]
fn a_start_that_is_given_up_anywhere_leaves_nothing_behind() -> anyhow::Result<()> {
    beside_a_platform(async |platform| {
        let cloud = platform.device(dawdling()).await?;
        let mut given_up = 0;
        for turns in 0.. {
            let started = give_up_after(turns, cloud.initialize()).await;
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
            nothing_runs().await;
            assert!(!cloud.status().running, "after {turns} turns");
        }
        assert!(given_up > 5, "given up {given_up} times only");
        reachable(&cloud).await?;
        cloud.stop().await;
        nothing_runs().await;
        platform.offline().await;
        Ok(())
    })
}

#[test]
fn a_start_whose_end_nobody_hears_is_undone() -> anyhow::Result<()> {
    beside_a_platform(async |platform| {
        let cloud = platform.device(Hooks::new()).await?;
        for _ in 0..10 {
            let mut start = Box::pin(cloud.initialize());
            assert!(futures_util::poll!(&mut start).is_pending());
            reachable(&cloud).await?;
            drop(start);
            // In the order of the calls, also after this.
            cloud.initialize().await?;
            cloud.stop().await;
            nothing_runs().await;
        }
        platform.offline().await;
        Ok(())
    })
}

#[test]
fn a_stop_that_is_given_up_anywhere_goes_on() -> anyhow::Result<()> {
    beside_a_platform(async |platform| {
        let cloud = platform.device(dawdling()).await?;
        let mut given_up = 0;
        for turns in (1..10).chain((10..60).step_by(7)) {
            cloud.initialize().await?;
            match turns % 3 {
                0 => reachable(&cloud).await?,
                1 => online(&cloud).await?,
                _ => {}
            }
            if give_up_after(turns, cloud.stop()).await.is_none() {
                given_up += 1;
            }
            within(
                "the stop to go on",
                cloud.watch_status().wait_for(|status| !status.running),
            )
            .await?;
            nothing_runs().await;
            platform.offline().await;
        }
        assert!(given_up > 5, "given up {given_up} times only");
        Ok(())
    })
}

#[test]
fn starts_and_stops_in_random_order_end_as_the_last_one_says() -> anyhow::Result<()> {
    beside_a_platform(async |platform| {
        let cloud = platform.device(dawdling()).await?;
        let seed = rand::random::<u64>();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..60 {
            let (one, other) = (cloud.clone(), cloud.clone());
            match random.random_range(0..8) {
                0 => drop(cloud.initialize().await),
                1 => cloud.stop().await,
                2 => drop(give_up_after(random.random_range(0..60), cloud.initialize()).await),
                3 => drop(give_up_after(random.random_range(0..60), cloud.stop()).await),
                4 => drop(tokio::join!(one.initialize(), other.stop())),
                5 => drop(tokio::join!(one.stop(), other.initialize())),
                6 => drop(tokio::join!(one.stop(), other.stop())),
                _ => sleep(Duration::from_millis(random.random_range(0..60))).await,
            }
        }
        within("the last stop", cloud.stop()).await;
        nothing_runs().await;
        platform.offline().await;
        cloud.initialize().await?;
        reachable(&cloud).await?;
        within("the very last stop", cloud.stop()).await;
        nothing_runs().await;
        assert_eq!(platform.last_state().await?.as_deref(), Some("OFFLINE"));
        Ok(())
    })
}

#[test]
fn calls_take_effect_in_their_order() -> anyhow::Result<()> {
    beside_a_platform(async |platform| {
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
        nothing_runs().await;
        Ok(())
    })
}

#[test]
fn who_sees_that_it_runs_can_use_it() -> anyhow::Result<()> {
    beside_a_platform(async |platform| {
        let cloud = platform.device(Hooks::new()).await?;
        for _ in 0..10 {
            let user = tokio::spawn({
                let cloud = cloud.clone();
                async move {
                    let mut status = cloud.watch_status();
                    status.wait_for(|status| status.running).await?;
                    let topic = format!("c/d/{SERIAL}/status");
                    drop(cloud.publish(topic, "{}", QoS::AtLeastOnce, false)?);
                    anyhow::Ok(())
                }
            });
            cloud.initialize().await?;
            within("the message to be taken", user).await??;
            cloud.stop().await;
        }
        nothing_runs().await;
        Ok(())
    })
}

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

#[test]
fn a_device_that_is_dropped_ends_in_good_order() -> anyhow::Result<()> {
    beside_a_platform(async |platform| {
        let stopped = Arc::new(AtomicUsize::new(0));
        let hook = {
            let stopped = Arc::clone(&stopped);
            move || {
                stopped.fetch_add(1, Ordering::Relaxed);
                std::future::ready(Ok(()))
            }
        };
        let cloud = platform
            .device(Hooks::new().on(Moment::Stopped, hook))
            .await?;
        cloud.initialize().await?;
        reachable(&cloud).await?;
        // What is in the application's hands does not keep the device alive.
        let shadow = cloud.shadow()?;
        let weak = cloud.downgrade();
        drop(cloud);
        assert!(weak.upgrade().is_none());
        nothing_runs().await;
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

#[test]
fn a_slow_reader_of_events_holds_nobody_up() -> anyhow::Result<()> {
    const MESSAGES: usize = 500;
    beside_a_platform(async |platform| {
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
                    within("the message", quick.recv()).await?
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
        within("what is left", slow.recv()).await?;
        cloud.stop().await;
        nothing_runs().await;
        Ok(())
    })
}

#[test]
fn a_registration_that_nobody_waits_for_is_finished() -> anyhow::Result<()> {
    beside_a_platform(async |platform| {
        let late = Fault::Api {
            answer: ApiAnswer::Delay { ms: 300 },
            times: 1,
        };
        platform.control.fault(late).await?;
        let cloud = ClesydeCloud::new(platform.settings()?);
        let given_up = timeout(Duration::from_millis(100), cloud.provision(&platform.key)).await;
        assert!(given_up.is_err(), "{given_up:?}");
        until("the device to be registered", || async {
            (!platform.control.devices().await.is_empty()).then_some(())
        })
        .await;
        nothing_runs().await;
        cloud.initialize().await?;
        // Also while it runs.
        assert_eq!(cloud.provision(&platform.key).await?, Registered::Already);
        cloud.stop().await;
        nothing_runs().await;
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
fn a_host_may_change_its_mind() -> anyhow::Result<()> {
    beside_a_platform(async |platform| {
        let (api_url, application) = (
            Arc::new(Mutex::new("http://127.0.0.1:1".to_owned())),
            Arc::default(),
        );
        let cloud = ClesydeCloud::new(Host {
            settings: platform.settings()?,
            api_url: Arc::clone(&api_url),
            application: Arc::clone(&application),
        });
        let nobody = timeout(Duration::from_secs(1), cloud.provision(&platform.key)).await;
        assert!(!matches!(nobody, Ok(Ok(_))), "{nobody:?}");
        until("the registration to be over", || async {
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
        nothing_runs().await;
        Ok(())
    })
}
