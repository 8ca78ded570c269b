//! The device for commands that perform one operation with the platform: the running instance, or
//! a session of the command's own.
//!
//! Two sessions of one device would disconnect each other, so an instance that has no control
//! socket makes the command fail: it locks the directory. The command's own session starts no
//! remote access, and serves the endpoints of the control socket in this process.

use std::sync::Arc;
use std::time::Duration;

use cloud_facade::ClesydeCloud;
use cloud_facade::iot::{Cause, SessionState};
use tokio::time::timeout;

use crate::commands::device_store;
use crate::control_socket::{ControlClient, Instance, router, running_instance};
use crate::error::{CliError, Result};
use crate::options::GlobalOptions;
use crate::proxy;
use crate::shutdown::Shutdown;

/// Time limit for the connection, after which the command reports why there is none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs `work` with a running instance, or connects for it and disconnects. Returns `on_interrupt`
/// after a signal.
pub(crate) async fn with_device(
    global: &GlobalOptions,
    on_interrupt: Result,
    work: impl AsyncFnOnce(&ControlClient) -> Result,
) -> Result {
    let mut shutdown = Shutdown::install()?;
    let store = device_store(global)?;
    let config = store
        .load_partial()
        .map_err(|error| CliError::from_load(&store, &error))?
        .device;
    if let Some(instance) = running_instance(&global.base_path()?) {
        return tokio::select! {
            result = work(&instance) => result,
            () = shutdown.requested() => on_interrupt,
        };
    }
    // Only registration uses the API.
    let mut settings = ClesydeCloud::builder(config.serial_number.clone(), global.base_path()?, "");
    if let Some(proxy) = proxy::for_cloud(global)? {
        settings = settings.proxy(proxy);
    }
    // Keeps keys in memory only while they are in use.
    drop(config);
    let cloud = settings.build();
    cloud
        .initialize()
        .await
        .map_err(|error| CliError::from_initialize(&error))?;
    let result = tokio::select! {
        // The error of a refused message is preferred: it names the message.
        biased;
        result = async {
            wait_connected(&cloud).await?;
            let instance = Instance::of_command(cloud.clone());
            work(&ControlClient::InProcess(router(instance))).await
        } => result,
        cause = refused(&cloud) => Err(CliError::Failed(cause.to_string())),
        () = shutdown.requested() => on_interrupt,
    };
    cloud.stop().await;
    result
}

/// Waits until the broker refuses the device or one of its topics, which retries cannot fix.
async fn refused(cloud: &ClesydeCloud) -> Arc<Cause> {
    let Ok(session) = cloud.iot() else {
        return std::future::pending().await;
    };
    let mut state = session.state();
    let refused = state.wait_for(|state| refusal(state).is_some()).await;
    let cause = refused.ok().and_then(|state| refusal(&state).cloned());
    match cause {
        Some(cause) => cause,
        // The session has ended, so its operations end too.
        None => std::future::pending().await,
    }
}

fn refusal(state: &SessionState) -> Option<&Arc<Cause>> {
    match state {
        SessionState::Waiting { cause, .. } => {
            Some(cause).filter(|cause| cause.is_topic_refusal() || cause.is_device_refusal())
        }
        _ => None,
    }
}

/// The result after a signal for commands with a single operation.
pub(crate) fn interrupted() -> Result {
    Err(CliError::Failed(
        "interrupted before the command completed".to_owned(),
    ))
}

async fn wait_connected(cloud: &ClesydeCloud) -> Result {
    let mut status = cloud.watch_status();
    let waited = timeout(
        CONNECT_TIMEOUT,
        status.wait_for(|status| status.iot.connected),
    )
    .await;
    if let Ok(Ok(_)) = waited {
        return Ok(());
    }
    let reason = cloud
        .status()
        .iot
        .reason
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    Err(CliError::Failed(format!(
        "no connection to the platform within {} s{reason}",
        CONNECT_TIMEOUT.as_secs()
    )))
}
