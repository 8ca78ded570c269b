//! For commands that do one thing with the platform: a session of their own, for as long as that takes.
//!
//! Remote access is left alone. An instance that runs on the same directory keeps it locked, so such a command is then
//! refused: two sessions of one device would throw each other out.

use std::sync::Arc;
use std::time::Duration;

use cloud_facade::iot::{Cause, SessionState};
use cloud_facade::{ClesydeCloud, DeviceSettings};
use tokio::time::timeout;

use crate::cli::GlobalOptions;
use crate::commands::{device_store, initialize_failure, load_failure};
use crate::failure::{Failure, Outcome};
use crate::proxy;
use crate::shutdown::Shutdown;

/// How long a person waits for a connection before wanting to know why there is none.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// Connects, with the settings changed by `change`, does `work`, and disconnects. `interrupted` is the outcome of a signal.
pub(crate) async fn online(
    global: &GlobalOptions,
    change: impl FnOnce(DeviceSettings) -> DeviceSettings,
    interrupted: Outcome,
    work: impl AsyncFnOnce(&ClesydeCloud) -> Outcome,
) -> Outcome {
    let mut shutdown = Shutdown::install()?;
    let store = device_store(global)?;
    let config = store
        .load_partial()
        .map_err(|error| load_failure(&store, &error))?
        .device;
    // The API is for registering alone.
    let mut settings = change(DeviceSettings::new(
        config.serial_number.clone(),
        global.base_path()?,
        "",
    ));
    if let Some(proxy) = proxy::to_broker(global, config.iot_endpoint.host.as_str())? {
        settings = settings.with_broker_proxy(proxy);
    }
    // Its keys are to be in memory only as long as they are in use.
    drop(config);
    let cloud = ClesydeCloud::new(settings);
    cloud
        .initialize()
        .await
        .map_err(|error| initialize_failure(&error))?;
    let outcome = tokio::select! {
        // A message that was refused has ended its own way, which names it.
        biased;
        outcome = async {
            connected(&cloud).await?;
            work(&cloud).await
        } => outcome,
        cause = topic_refused(&cloud) => Err(Failure::Failed(cause.to_string())),
        () = shutdown.requested() => interrupted,
    };
    cloud.stop().await;
    outcome
}

/// Waits until the broker does not permit a topic. What it was asked for does not succeed then, however often it is repeated.
async fn topic_refused(cloud: &ClesydeCloud) -> Arc<Cause> {
    let Ok(session) = cloud.iot() else {
        return std::future::pending().await;
    };
    let mut state = session.state();
    let refused = state.wait_for(|state| refusal(state).is_some()).await;
    let cause = refused.ok().and_then(|state| refusal(&state).cloned());
    match cause {
        Some(cause) => cause,
        // The session has ended, and what was done with it ends by itself.
        None => std::future::pending().await,
    }
}

fn refusal(state: &SessionState) -> Option<&Arc<Cause>> {
    match state {
        SessionState::Waiting { cause, .. } => Some(cause).filter(|cause| cause.is_topic_refusal()),
        _ => None,
    }
}

/// The outcome of a signal for commands that have something to finish.
pub(crate) fn unfinished() -> Outcome {
    Err(Failure::Failed("interrupted before it was done".to_owned()))
}

async fn connected(cloud: &ClesydeCloud) -> Outcome {
    let mut status = cloud.watch_status();
    let waited = timeout(
        CONNECT_LIMIT,
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
    Err(Failure::Failed(format!(
        "no connection to the platform within {} s{reason}",
        CONNECT_LIMIT.as_secs()
    )))
}
