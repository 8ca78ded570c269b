//! Tells the platform, by way of the shadow, which certificates are in use.
//!
//! Protocol: docs/protocol.md, "Remote access" (certificate rotation) and "IoT messaging" (client certificate).

use std::time::Duration;

use cloud_iot::SessionHandle;
use cloud_net::{LogThrottle, warn_throttled};
use cloud_shadow::{Document, ShadowClient};
use serde_json::{Map, Value};
use tokio::sync::watch;

use super::CERTIFICATE_KEY;
use crate::broker_certificate::{IOT_CERTIFICATE_KEY, Keeper};

/// How long after a report that failed on a standing connection the next one is tried.
const REPORT_AGAIN: Duration = Duration::from_secs(60);

/// The serial numbers to be reported; none of what there is nothing to say about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Certificates {
    pub(super) remote: Option<String>,
    pub(super) iot: Option<String>,
}

impl Certificates {
    fn state(&self) -> Map<String, Value> {
        [
            (CERTIFICATE_KEY, &self.remote),
            (IOT_CERTIFICATE_KEY, &self.iot),
        ]
        .into_iter()
        .filter_map(|(key, serial)| Some((key.to_owned(), serial.clone()?.into())))
        .collect()
    }
}

/// Where they go.
pub(super) type Report = watch::Sender<Certificates>;

pub(super) fn report_iot(report: &Report, keeper: &Option<Keeper>) {
    let iot = keeper.as_ref().and_then(Keeper::reportable);
    report.send_if_modified(|report| {
        let news = iot.is_some() && report.iot != iot;
        if news {
            report.iot = iot;
        }
        news
    });
}

/// Keeps the shadow's reported certificates true: after each connection and each rotation they are written if they differ, and
/// some time after somebody else has made them differ.
pub(super) async fn report_certificates(
    shadow: ShadowClient,
    session: SessionHandle,
    mut certificates: watch::Receiver<Certificates>,
) {
    let mut state = session.state();
    drop(session);
    let mut document = shadow.document();
    let log = LogThrottle::new();
    loop {
        if state.wait_for(|state| state.is_online()).await.is_err() {
            return;
        }
        let current = certificates.borrow_and_update().state();
        let mut failed = false;
        if !current.is_empty()
            && let Err(error) = shadow.report(current.clone()).await
        {
            warn_throttled!(log, %error, "the certificates' serial numbers could not be reported; tried again later");
            failed = true;
        }
        let again = async {
            let differs = |document: &Option<Document>| {
                document.as_ref().is_some_and(|it| {
                    let mut current = current.iter();
                    current.any(|(key, serial)| it.reported.get(key) != Some(serial))
                })
            };
            if !failed && document.wait_for(differs).await.is_err() {
                // The shadow's task has ended, and so will this one.
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(REPORT_AGAIN).await;
        };
        tokio::select! {
            () = again => {}
            changed = certificates.changed() => if changed.is_err() { return },
            // The next connection, not this one.
            lost = state.wait_for(|state| !state.is_online()) => if lost.is_err() { return },
        }
    }
}
