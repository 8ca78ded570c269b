//! A platform in a runtime of its own, and a device beside it in one where nothing else runs.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use cloud_facade::provision::ProvisioningKey;
use cloud_facade::{ClesydeCloud, CloudBuilder, HookPoint, Hooks, STOP_DEADLINE};
use cloud_sim::{Control, SimConfig, Simulator};
use integration_tests::device::SERIAL;
use testkit::wait::{eventually, timeout};
use tokio::runtime::{Builder, Handle};
use tokio::time::sleep;

pub(crate) const HOOK_POINTS: [HookPoint; 7] = [
    HookPoint::Initialized,
    HookPoint::Started,
    HookPoint::Stopped,
    HookPoint::IotConnected,
    HookPoint::IotDisconnected,
    HookPoint::RemoteConnected,
    HookPoint::RemoteDisconnected,
];

/// A stop may take its deadline; what comes on top is for a busy machine.
pub(crate) const IN_TIME: Duration = STOP_DEADLINE.saturating_add(Duration::from_secs(1));

/// The platform, seen from the device's runtime.
pub(crate) struct Platform {
    pub(crate) control: Control,
    pub(crate) api_url: String,
    pub(crate) key: ProvisioningKey,
    pub(crate) base: tempfile::TempDir,
}

impl Platform {
    pub(crate) fn settings(&self) -> anyhow::Result<CloudBuilder> {
        let page = Router::new().route("/", get(|| async { "hello" }));
        Ok(
            ClesydeCloud::builder(SERIAL.parse()?, self.base.path(), &self.api_url)
                .application(page),
        )
    }

    /// A device that is provisioned and does not run yet.
    pub(crate) async fn device(&self, hooks: Hooks) -> anyhow::Result<ClesydeCloud> {
        let cloud = self.settings()?.hooks(hooks).build();
        cloud.provision(&self.key).await?;
        assert_no_tasks().await;
        Ok(cloud)
    }

    pub(crate) async fn last_state(&self) -> anyhow::Result<Option<String>> {
        Ok(self.control.device(SERIAL).await?.status_history.pop())
    }

    /// The device said OFFLINE, if it ever said ONLINE.
    pub(crate) async fn offline(&self) {
        eventually("OFFLINE to be published", || async {
            let last = self.last_state().await.ok()?;
            last.is_none_or(|state| state == "OFFLINE").then_some(())
        })
        .await;
    }
}

/// Runs `test` beside a platform, in a runtime where nothing else runs.
pub(crate) fn with_platform(
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

/// No task is left. A cancelled task may run to its next await point.
pub(crate) async fn assert_no_tasks() {
    let left = || Handle::current().metrics().num_alive_tasks();
    let ended = async {
        while left() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(2), ended)
        .await
        .is_err()
    {
        panic!("{} tasks are left", left());
    }
}

pub(crate) async fn online(cloud: &ClesydeCloud) -> anyhow::Result<()> {
    let mut status = cloud.watch_status();
    timeout(
        "the device to be online",
        status.wait_for(|status| status.iot.connected),
    )
    .await?;
    Ok(())
}

pub(crate) async fn reachable(cloud: &ClesydeCloud) -> anyhow::Result<()> {
    let mut status = cloud.watch_status();
    timeout(
        "the device to be reachable",
        status.wait_for(|status| status.iot.connected && status.remote.connected),
    )
    .await?;
    Ok(())
}

/// Lets everything else go on for so many turns, or milliseconds once turns are too short, and then
/// drops the future.
pub(crate) async fn cancel_after<T>(turns: u32, future: impl Future<Output = T>) -> Option<T> {
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
pub(crate) fn slow_hooks() -> Hooks {
    HOOK_POINTS.into_iter().fold(Hooks::new(), |hooks, point| {
        hooks.on(point, |_| async {
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            Ok(())
        })
    })
}
