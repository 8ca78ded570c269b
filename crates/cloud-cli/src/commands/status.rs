//! `status`: prints the configuration, the validity of the certificates, and the connections of a
//! running instance.

use std::time::Duration;

use cloud_facade::config::{CredentialSlot, LockError, PartialDeviceConfig, Store};
use serde_json::{Value, json};

use crate::commands::cert::{Certificate, inspect};
use crate::commands::{SERIAL_NUMBER_ADVICE, describe_process, serial_number_mismatch, store};
use crate::control_socket::{VisitorStatus, blocking_status};
use crate::error::{CliError, Result};
use crate::options::GlobalOptions;
use crate::output::Output;
use crate::status_page::words::{bytes, count, duration};

/// The exit codes, for the help text.
pub(crate) const EXIT_CODES: &str = "\
Exit codes: 0 the device can run, 1 a file prevents all or part of it from running, 3 not provisioned. With --json,
`can_run` is true for exit code 0, and `problems` lists the causes otherwise.";

pub(crate) fn show(global: &GlobalOptions, output: &Output) -> Result {
    let store = store(global)?;
    let (config, iot) = match load(global, &store) {
        Ok(loaded) => loaded,
        Err(failure) => {
            // JSON is printed for an error too.
            let (provisioned, problems) = match &failure {
                CliError::NotProvisioned(_) => (false, Vec::new()),
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
        Err(damage) => Err(CliError::from_load(&store, damage)),
    };
    let (instance, unusable) = match blocking_status(&global.base_path()?) {
        Some(Ok(instance)) => (Some(instance), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    };
    // An instance that is starting, that runs a single command, or that could not create its
    // socket.
    let silent = match store.ensure_unlocked() {
        Err(LockError::InUse { pid, .. }) if instance.is_none() => Some(pid),
        _ => None,
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
    match &instance {
        None if silent.is_some() => output.text(format_args!(
            "Instance        {} locks the directory, and does not report its status{}",
            describe_process(silent.flatten()),
            unusable.map_or_else(String::new, |error| format!(": {error}"))
        ))?,
        None => output.text("Instance        none runs on this directory")?,
        Some(instance) => output.text(format_args!("Instance        process {}", instance.pid))?,
    }
    if let Some(instance) = &instance {
        for (name, connected, since, reason) in [
            (
                "Messaging",
                instance.iot_connected,
                &instance.iot_since,
                &instance.iot_reason,
            ),
            (
                "Remote access",
                instance.remote_connected,
                &instance.remote_since,
                &instance.remote_reason,
            ),
        ] {
            let state = state("connected", connected, since.as_deref(), reason.as_deref());
            output.text(format_args!("{name:<15} {state}"))?;
        }
        for application in &instance.applications {
            let state = match application.answers {
                None => "no caller has used it recently".to_owned(),
                Some(answers) => state(
                    "answering",
                    answers,
                    application.since.as_deref(),
                    application.reason.as_deref(),
                ),
            };
            output.text(format_args!(
                "Application     {}: {state}",
                application.address
            ))?;
        }
    }
    let visitors = instance.iter().flat_map(|instance| &instance.visitors);
    for visitor in visitors {
        output.text(format_args!("Visitor         {}", visitor_text(visitor)))?;
    }
    let rotations = instance.as_ref().map(|instance| {
        [
            ("messaging", &instance.iot_rotation),
            ("remote access", &instance.remote_rotation),
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
        "iot_connected": instance.as_ref().map_or(Value::Null, |instance| instance.iot_connected.into()),
        "remote_connected": instance.as_ref().map_or(Value::Null, |instance| instance.remote_connected.into()),
        "iot_since": instance.as_ref().and_then(|instance| instance.iot_since.as_deref()),
        "remote_since": instance.as_ref().and_then(|instance| instance.remote_since.as_deref()),
        "iot_reason": instance.as_ref().and_then(|instance| instance.iot_reason.as_deref()),
        "remote_reason": instance.as_ref().and_then(|instance| instance.remote_reason.as_deref()),
        "application": instance.as_ref().and_then(|instance| instance.application.as_ref()),
        "applications": instance.as_ref().map(|instance| &instance.applications),
        "iot_rotation": instance.as_ref().and_then(|instance| instance.iot_rotation.as_deref()),
        "remote_rotation": instance.as_ref().and_then(|instance| instance.remote_rotation.as_deref()),
        "visitors": instance.as_ref().map(|instance| &instance.visitors),
        "pid": instance.as_ref().map(|instance| instance.pid).or(silent.flatten()),
    }))?;
    match problem {
        None => Ok(()),
        Some(problem) => Err(CliError::Failed(format!(
            "remote access cannot run: {problem}\n`clesyde-cloud run` requests its certificate from the platform again"
        ))),
    }
}

/// Describes a caller that has connections open.
fn visitor_text(visitor: &VisitorStatus) -> String {
    let address = visitor.address.map(|address| address.to_string());
    format!(
        "{}: {}, {}, {} sent, for {}",
        address.as_deref().unwrap_or("unknown addresses"),
        count(visitor.connections, "connection"),
        count(visitor.requests, "request"),
        bytes(visitor.sent),
        duration(Duration::from_secs(visitor.connected_for_s)),
    )
}

/// Describes a state, since when it holds, and the reason if it is not the wanted one.
fn state(wanted: &str, holds: bool, since: Option<&str>, reason: Option<&str>) -> String {
    let since = since.map_or_else(String::new, |since| format!(" since {since}"));
    if holds {
        return format!("{wanted}{since}");
    }
    let reason = reason.unwrap_or("the first attempt has not ended yet");
    format!("not {wanted}{since}: {reason}")
}

/// Loads the configuration and the certificate for messaging, which `status` needs.
fn load(global: &GlobalOptions, store: &Store) -> Result<(PartialDeviceConfig, Certificate)> {
    if let Some(other) = serial_number_mismatch(global, store) {
        return Err(CliError::Failed(format!("{other}\n{SERIAL_NUMBER_ADVICE}")));
    }
    let loaded = store
        .load_partial()
        .map_err(|error| CliError::from_load(store, &error))?;
    Ok((loaded.device, inspect(store, CredentialSlot::Iot)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visitor_is_described_in_words() {
        let mut visitor = VisitorStatus {
            address: Some([192, 0, 2, 1].into()),
            connections: 2,
            requests: 1,
            received: 10,
            sent: 1_500_000,
            connected_for_s: 190,
        };
        let expected = "192.0.2.1: 2 connections, 1 request, 1.5 MB sent, for 3 min";
        assert_eq!(visitor_text(&visitor), expected);
        visitor.address = None;
        assert!(visitor_text(&visitor).starts_with("unknown addresses: "));
    }
}
