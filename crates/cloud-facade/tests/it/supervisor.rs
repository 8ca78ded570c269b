//! Starts and stops beside each other, and the end of an asynchronous runtime.

use cloud_facade::InitializeError;
use tokio::runtime::Handle;

use crate::platform::{TestPlatform, wait_for};

#[tokio::test]
async fn commands_take_effect_in_their_order() -> anyhow::Result<()> {
    let platform = TestPlatform::start().await?;
    let cloud = platform.device(|builder| builder).await?;
    let (first, second) = tokio::join!(cloud.initialize(), cloud.initialize());
    first?;
    assert!(
        matches!(second, Err(InitializeError::Running)),
        "{second:?}"
    );
    // It is running, so the directory is locked.
    assert!(cloud.remove_configuration().await.is_err());
    let ((), again) = tokio::join!(cloud.stop(), cloud.initialize());
    again?;
    let ((), removed) = tokio::join!(cloud.stop(), cloud.remove_configuration());
    assert!(removed?);
    assert!(cloud.initialize().await.unwrap_err().is_not_provisioned());
    platform.simulator.stop().await;
    Ok(())
}

#[tokio::test]
async fn abandoned_start_is_undone_before_next_command() -> anyhow::Result<()> {
    let platform = TestPlatform::start().await?;
    let cloud = platform.device(|builder| builder).await?;
    let mut start = Box::pin(cloud.initialize());
    assert!(futures_util::poll!(&mut start).is_pending());
    wait_for(&cloud, |status| status.running).await?;
    drop(start);
    // If it were running still, this start would be rejected.
    cloud.initialize().await?;
    cloud.stop().await;
    platform.simulator.stop().await;
    Ok(())
}

#[test]
fn device_starts_again_after_its_runtime_has_ended() -> anyhow::Result<()> {
    let theirs = tokio::runtime::Runtime::new()?;
    let platform = theirs.block_on(TestPlatform::start())?;
    let cloud = theirs.block_on(platform.device(|builder| builder))?;
    for _ in 0..2 {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            cloud.initialize().await?;
            assert!(Handle::current().metrics().num_alive_tasks() > 0);
            anyhow::Ok(())
        })?;
        assert!(cloud.status().running);
        drop(runtime);
        assert!(!cloud.status().running);
        assert!(cloud.iot().is_err());
    }
    theirs.block_on(cloud.stop());
    theirs.block_on(platform.simulator.stop());
    Ok(())
}
