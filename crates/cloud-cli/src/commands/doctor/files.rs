//! The files: the configuration and the two certificates.

use std::time::{Duration, SystemTime};

use cloud_facade::config::{
    CredentialSlot, LoadError, LockError, PartialDeviceConfig, Repair, Store, StoreError,
};

use super::report::CheckResult;
use crate::commands::cert;
use crate::error::{chain, redacted_directory};
use crate::time_fmt::rfc3339;

/// Seconds of a day.
const DAY: u64 = 86_400;
/// Remaining validity below which the check warns: the platform should have replaced the
/// certificate long before.
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * DAY);

pub(super) const DIRECTORY_ADVICE: &str =
    "check the owner and the permissions of the directory, and the disk";

/// The platform has this certificate and its key, unless the key was made on the device.
const RESTORE_REMOTE_CERTIFICATE: &str = "start `clesyde-cloud run`, which requests it from the platform again, or restore it from a backup; if \
     neither helps, register again with `clesyde-cloud provision --force`";

const REGISTER_AGAIN: &str =
    "restore it from a backup, or register again with `clesyde-cloud provision --force`";

/// Reads the configuration, which also corrects file modes.
pub(super) fn configuration(store: &Store) -> (CheckResult, Option<PartialDeviceConfig>) {
    let loaded = match store.load_partial() {
        Ok(loaded) => loaded,
        Err(error) => {
            let cause = match &error {
                LoadError::NotProvisioned(directory) => {
                    format!(
                        "there is no configuration in {}",
                        redacted_directory(directory)
                    )
                }
                other => chain(other),
            };
            return (CheckResult::failed(cause, advice(&error)), None);
        }
    };
    if let Err(error) = &loaded.device.remote {
        return (
            CheckResult::failed(chain(error), RESTORE_REMOTE_CERTIFICATE),
            Some(loaded.device),
        );
    }
    let open_to_others = |repair: &Repair| matches!(repair, Repair::Mode { .. });
    let repairs: Vec<_> = loaded.repairs.iter().map(ToString::to_string).collect();
    let finding = if repairs.is_empty()
        && loaded.is_change_pending
        && store.ensure_unlocked().is_ok()
    {
        CheckResult::warning(
            "a replacement of files was interrupted, and another program may read a certificate with the key of another one",
            "start `clesyde-cloud run`, which completes it, before another program uses this directory",
        )
    } else if repairs.is_empty() {
        match write_error(store) {
            None => CheckResult::Passed(format!(
                "complete, and not accessible to other users: {:?}",
                store.directory()
            )),
            Some(error) => CheckResult::warning(
                format!("a new certificate could not be stored: {}", chain(&error)),
                "free some space, or make the file system writable again; a card that has become read-only is worn out",
            ),
        }
    } else if loaded.repairs.iter().any(open_to_others) {
        CheckResult::warning(
            repairs.join("; "),
            "access is restricted now; other users of this machine may have read the keys: register again with \
             `clesyde-cloud provision --force`",
        )
    } else {
        CheckResult::warning(repairs.join("; "), "nothing, it is repaired")
    };
    (finding, Some(loaded.device))
}

/// Returns why files cannot be stored, by writing as much and removing it again. A running instance
/// logs this itself.
fn write_error(store: &Store) -> Option<StoreError> {
    match store.preflight_save() {
        Ok(()) | Err(StoreError::Lock(LockError::InUse { .. })) => None,
        Err(error) => Some(error),
    }
}

fn advice(error: &LoadError) -> &'static str {
    match error {
        LoadError::NotProvisioned(_) => {
            "register the device: clesyde-cloud provision --sn SN --api-url URL --token-file FILE"
        }
        LoadError::Damaged { .. } => REGISTER_AGAIN,
        LoadError::Busy(_) => "run `doctor` again in a moment",
        _ => DIRECTORY_ADVICE,
    }
}

/// Checks one certificate and its key against the device's clock.
pub(super) fn certificate(store: &Store, pair: CredentialSlot, now: SystemTime) -> CheckResult {
    let report = match store.inspect(pair) {
        Ok(report) => report,
        Err(error) => {
            let advice = match (&error, pair) {
                (LoadError::Damaged { .. }, CredentialSlot::Remote) => RESTORE_REMOTE_CERTIFICATE,
                _ => advice(&error),
            };
            return CheckResult::failed(chain(&error), advice);
        }
    };
    if !report.key_matches {
        let cause = match report.key_problem {
            Some(problem) => problem.to_string(),
            None => "the private key does not belong to the certificate".to_owned(),
        };
        let advice = match pair {
            CredentialSlot::Iot => REGISTER_AGAIN,
            CredentialSlot::Remote => RESTORE_REMOTE_CERTIFICATE,
        };
        return CheckResult::failed(cause, advice);
    }
    let (begin, end) = (report.info.not_before, report.info.not_after);
    if now < begin {
        return CheckResult::failed(
            format!(
                "valid from {}; the clock of this device says {}",
                rfc3339(begin),
                rfc3339(now)
            ),
            "set the clock",
        );
    }
    let (expired, soon) = match pair {
        CredentialSlot::Iot => (
            "check whether the clock is right; if it is, register again with `clesyde-cloud provision --force`",
            "register again in time, with `clesyde-cloud provision --force`",
        ),
        CredentialSlot::Remote => (
            "check whether the clock is right; if it is, the platform has to request a new certificate, or register again \
             with `clesyde-cloud provision --force`",
            "keep `clesyde-cloud run` running, so that the platform can replace it; if it does not, contact its operator",
        ),
    };
    let Ok(left) = end.duration_since(now) else {
        return CheckResult::failed(format!("expired on {}", rfc3339(end)), expired);
    };
    if left < EXPIRY_WARNING {
        let days = left.as_secs() / DAY;
        return CheckResult::warning(format!("expires in {days} days, on {}", rfc3339(end)), soon);
    }
    CheckResult::Passed(format!(
        "serial {}, until {}, the key matches",
        report.info.serial,
        rfc3339(end)
    ))
}

/// Checks the certificate for remote access, which must also cover the device's public name.
pub(super) fn public_certificate(
    store: &Store,
    device: Option<&PartialDeviceConfig>,
    now: SystemTime,
) -> CheckResult {
    let finding = certificate(store, CredentialSlot::Remote, now);
    let (Some(device), true) = (device, finding.is_usable()) else {
        return finding;
    };
    match &device.remote {
        Ok(remote) if !remote.info().covers(&device.access_point) => CheckResult::failed(
            format!(
                "it is valid for {}, not for {}",
                cert::names(&remote.info().names),
                device.access_point
            ),
            REGISTER_AGAIN,
        ),
        _ => finding,
    }
}
