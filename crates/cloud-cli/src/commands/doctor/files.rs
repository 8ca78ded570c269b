//! What is on the disk: the configuration as a whole, and the two certificates.

use cloud_facade::config::{
    CredentialSlot, LoadError, LockError, PartialDeviceConfig, Repair, Store, StoreError,
};
use time::{Duration, OffsetDateTime};

use super::report::Finding;
use crate::commands::cert;
use crate::failure::{chain, shown_directory};
use crate::moment::rfc3339;

/// The platform should have replaced a certificate long before so little is left of it.
const SOON: Duration = Duration::days(14);

pub(super) const DIRECTORY: &str =
    "look at the owner and the rights of the directory, and at the disk";

/// The platform has the pair for remote access, unless its key was made here.
const SENT_AGAIN: &str = "let `clesyde-cloud run` run, which asks the platform for it again, or restore it from a backup; if \
     neither helps, register anew with `clesyde-cloud provision --force`";

const REGISTER_ANEW: &str =
    "restore it from a backup, or register anew with `clesyde-cloud provision --force`";

/// Reads the configuration, which also puts modes right.
pub(super) fn configuration(store: &Store) -> (Finding, Option<PartialDeviceConfig>) {
    let loaded = match store.load_partial() {
        Ok(loaded) => loaded,
        Err(error) => {
            let cause = match &error {
                LoadError::NotProvisioned(directory) => {
                    format!(
                        "there is no configuration in {}",
                        shown_directory(directory)
                    )
                }
                other => chain(other),
            };
            return (Finding::bad(cause, advice(&error)), None);
        }
    };
    if let Err(error) = &loaded.device.remote {
        return (Finding::bad(chain(error), SENT_AGAIN), Some(loaded.device));
    }
    let open_to_others = |repair: &Repair| matches!(repair, Repair::Mode { .. });
    let repairs: Vec<_> = loaded.repairs.iter().map(ToString::to_string).collect();
    let finding = if repairs.is_empty()
        && loaded.is_change_pending
        && store.ensure_unlocked().is_ok()
    {
        Finding::warning(
            "a replacement of files was interrupted, and another program may read a certificate with the key of another one",
            "start `clesyde-cloud run`, which finishes it, before another program uses this directory",
        )
    } else if repairs.is_empty() {
        match not_writable(store) {
            None => Finding::Good(format!(
                "whole, and closed to other users: {:?}",
                store.directory()
            )),
            Some(error) => Finding::warning(
                format!("a new certificate could not be stored: {}", chain(&error)),
                "free some space, or make the file system writable again; a card that has become read-only is worn",
            ),
        }
    } else if loaded.repairs.iter().any(open_to_others) {
        Finding::warning(
            repairs.join("; "),
            "it is closed now; if somebody else uses this machine, he may have read the keys: register anew with \
             `clesyde-cloud provision --force`",
        )
    } else {
        Finding::warning(repairs.join("; "), "nothing, it is in order now")
    };
    (finding, Some(loaded.device))
}

/// Why nothing could be stored, found out by writing as much and removing it again. A running instance would say so itself.
fn not_writable(store: &Store) -> Option<StoreError> {
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
        LoadError::Damaged { .. } => REGISTER_ANEW,
        LoadError::Busy(_) => "ask again in a moment",
        _ => DIRECTORY,
    }
}

/// Looks at one certificate and its key, at this moment of this device's clock.
pub(super) fn certificate(store: &Store, pair: CredentialSlot, now: OffsetDateTime) -> Finding {
    let report = match store.inspect(pair) {
        Ok(report) => report,
        Err(error) => {
            let advice = match (&error, pair) {
                (LoadError::Damaged { .. }, CredentialSlot::Remote) => SENT_AGAIN,
                _ => advice(&error),
            };
            return Finding::bad(chain(&error), advice);
        }
    };
    if !report.key_matches {
        let cause = match report.key_problem {
            Some(problem) => problem.to_string(),
            None => "the private key does not belong to the certificate".to_owned(),
        };
        let advice = match pair {
            CredentialSlot::Iot => REGISTER_ANEW,
            CredentialSlot::Remote => SENT_AGAIN,
        };
        return Finding::bad(cause, advice);
    }
    let (begin, end) = (report.info.not_before, report.info.not_after);
    if now < begin {
        return Finding::bad(
            format!(
                "valid from {} on; by the clock of this device it is {}",
                rfc3339(begin),
                rfc3339(now)
            ),
            "set the clock",
        );
    }
    let (expired, soon) = match pair {
        CredentialSlot::Iot => (
            "see whether the clock is right; if it is, register anew with `clesyde-cloud provision --force`",
            "register anew in time, with `clesyde-cloud provision --force`",
        ),
        CredentialSlot::Remote => (
            "see whether the clock is right; if it is, the platform has to ask for a new certificate, or register anew \
             with `clesyde-cloud provision --force`",
            "keep `clesyde-cloud run` running, so that the platform can replace it; if it does not, tell its operator",
        ),
    };
    if now > end {
        return Finding::bad(format!("expired on {}", rfc3339(end)), expired);
    }
    if end - now < SOON {
        let days = (end - now).whole_days();
        return Finding::warning(format!("expires in {days} days, on {}", rfc3339(end)), soon);
    }
    Finding::Good(format!(
        "serial {}, until {}, the key fits",
        report.info.serial,
        rfc3339(end)
    ))
}

/// The same for the certificate that the public sees, which must have the device's public name.
pub(super) fn public_certificate(
    store: &Store,
    device: Option<&PartialDeviceConfig>,
    now: OffsetDateTime,
) -> Finding {
    let finding = certificate(store, CredentialSlot::Remote, now);
    let (Some(device), true) = (device, finding.holds()) else {
        return finding;
    };
    match &device.remote {
        Ok(remote) if !remote.info().covers(&device.access_point) => Finding::bad(
            format!(
                "it is for {}, and not for {}",
                cert::names(&remote.info().names),
                device.access_point
            ),
            REGISTER_ANEW,
        ),
        _ => finding,
    }
}
