//! Reports in the shadow which certificates are in use.

use std::time::Duration;

use cloud_iot::Session;
use cloud_net::{LogThrottle, warn_throttled};
use cloud_shadow::{Document, ShadowClient};
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::topics::{CERTIFICATE_KEY, IOT_CERTIFICATE_KEY};

/// Delay before a failed report is retried on the same connection.
const REPORT_RETRY_DELAY: Duration = Duration::from_secs(60);

/// The serial numbers to report; `None` for a certificate that is not reported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ReportedCertificates {
    pub(super) remote: Option<String>,
    pub(super) iot: Option<String>,
}

impl ReportedCertificates {
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

/// The sender of new serial numbers to the reporter.
pub(super) type ReportSender = watch::Sender<ReportedCertificates>;

/// Keeps the reported certificates of the shadow current: writes them after each connection and
/// rotation if they differ, and after a delay if another client has changed them.
pub(super) async fn report_certificates(
    shadow: ShadowClient,
    session: Session,
    mut certificates: watch::Receiver<ReportedCertificates>,
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
            warn_throttled!(log, %error, "could not report the certificates' serial numbers; retrying later");
            failed = true;
        }
        let retry = async {
            let differs = |document: &Option<Document>| {
                document.as_ref().is_some_and(|it| {
                    let mut current = current.iter();
                    current.any(|(key, serial)| it.reported.get(key) != Some(serial))
                })
            };
            if !failed && document.wait_for(differs).await.is_err() {
                // The shadow's task has ended, so this task is about to be cancelled.
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(REPORT_RETRY_DELAY).await;
        };
        tokio::select! {
            () = retry => {}
            changed = certificates.changed() => if changed.is_err() { return },
            // The report is repeated on the next connection.
            lost = state.wait_for(|state| !state.is_online()) => if lost.is_err() { return },
        }
    }
}
