//! `status`: what is provisioned, until when the certificates are valid, and how a running instance is connected.

use cloud_facade::config::{CredentialSlot, LockError, PartialDeviceConfig, Store};
use serde_json::{Value, json};

use crate::cli::GlobalOptions;
use crate::commands::cert::{Certificate, inspect};
use crate::commands::{OTHER_DEVICE_ADVICE, load_failure, other_device, process, store};
use crate::failure::{Failure, Outcome};
use crate::live;
use crate::output::Output;

/// What its help says of how it ends.
pub(crate) const EXIT_CODES: &str = "\
Exit codes: 0 the device can run, 1 a file keeps all or part of it from running, 3 not provisioned. With --json,
`can_run` says whether it is 0, and `problems` what is wrong.";

pub(crate) fn show(global: &GlobalOptions, output: Output) -> Outcome {
    let store = store(global)?;
    let (config, iot) = match readable(global, &store) {
        Ok(readable) => readable,
        Err(failure) => {
            // Programs that ask get an answer all the same.
            let (provisioned, problems) = match &failure {
                Failure::NotProvisioned(_) => (false, Vec::new()),
                other => (true, vec![other.to_string()]),
            };
            output.json(&json!({
                "provisioned": provisioned,
                "can_run": false,
                "problems": problems,
                "iot_connected": null,
                "remote_connected": null,
            }))?;
            return Err(failure);
        }
    };
    let sn = &config.serial_number;
    let remote = match &config.remote {
        Ok(_) => inspect(&store, CredentialSlot::Remote).map(|remote| remote.not_after),
        Err(damage) => Err(load_failure(&store, damage)),
    };
    let live = live::ask(&global.base_path()?);
    // One that has only just begun, that does one thing alone, or whose socket could not be made.
    let silent = match store.ensure_unlocked() {
        Err(LockError::InUse { pid, .. }) if live.is_none() => Some(pid),
        _ => None,
    };

    let state = |connected: bool| {
        if connected {
            "connected"
        } else {
            "not connected"
        }
    };
    output.text(format_args!("Serial number   {sn}"))?;
    output.text(format_args!("Thing name      {}", config.iot_thing_name))?;
    output.text(format_args!("Broker          {}", config.iot_endpoint))?;
    output.text(format_args!("Relay           {}", config.remote_endpoint))?;
    output.text(format_args!("Address         {}", config.page_url()))?;
    let until = match &remote {
        Ok(not_after) => format!("until {not_after}"),
        Err(failure) => format!("none: {failure}"),
    };
    output.text(format_args!(
        "Certificates    messaging valid until {}, remote access {until}",
        iot.not_after
    ))?;
    match &live {
        None if silent.is_some() => output.text(format_args!(
            "Instance        {} has the directory, and does not tell how it fares",
            process(silent.flatten())
        ))?,
        None => output.text("Instance        none runs on this directory")?,
        Some(live) => output.text(format_args!(
            "Instance        process {}: messaging {}, remote access {}",
            live.pid,
            state(live.iot_connected),
            state(live.remote_connected)
        ))?,
    }
    let rotations = live.as_ref().map(|live| {
        [
            ("messaging", &live.iot_rotation),
            ("remote access", &live.remote_rotation),
        ]
    });
    for (of, rotation) in rotations.into_iter().flatten() {
        if let Some(rotation) = rotation {
            output.text(format_args!("Rotation        {of}, {rotation}"))?;
        }
    }
    let problem = remote.as_ref().err().map(ToString::to_string);
    output.json(&json!({
        "provisioned": true,
        "can_run": problem.is_none(),
        "problems": problem.as_slice(),
        "sn": sn.as_str(),
        "iot_thing_name": config.iot_thing_name.as_str(),
        "iot_endpoint": config.iot_endpoint.to_string(),
        "remote_endpoint": config.remote_endpoint.to_string(),
        "access_point": config.access_point.as_str(),
        "url": config.page_url(),
        "iot_not_after": iot.not_after,
        "remote_not_after": remote.ok(),
        "iot_connected": live.as_ref().map_or(Value::Null, |live| live.iot_connected.into()),
        "remote_connected": live.as_ref().map_or(Value::Null, |live| live.remote_connected.into()),
        "iot_rotation": live.as_ref().and_then(|live| live.iot_rotation.as_deref()),
        "remote_rotation": live.as_ref().and_then(|live| live.remote_rotation.as_deref()),
        "pid": live.as_ref().map(|live| live.pid).or(silent.flatten()),
    }))?;
    match problem {
        None => Ok(()),
        Some(problem) => Err(Failure::Failed(format!(
            "remote access cannot run: {problem}\n`clesyde-cloud run` asks the platform for its certificate again"
        ))),
    }
}

/// What can be shown at all: the configuration, and the certificate for messaging.
fn readable(global: &GlobalOptions, store: &Store) -> Outcome<(PartialDeviceConfig, Certificate)> {
    if let Some(other) = other_device(global, store) {
        return Err(Failure::Failed(format!("{other}\n{OTHER_DEVICE_ADVICE}")));
    }
    let loaded = store
        .load_partial()
        .map_err(|error| load_failure(store, &error))?;
    Ok((loaded.device, inspect(store, CredentialSlot::Iot)?))
}
