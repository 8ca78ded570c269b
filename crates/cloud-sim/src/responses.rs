//! What the platform hears from devices, and what it answers: tokens and certificates
//! (docs/protocol.md, "Remote access").
//!
//! The platform is a subscriber like any other, so it hears wills as well. Requests that cannot be
//! read are not answered, as on the real platform; a log line says why.

use std::sync::Arc;
use std::time::Duration;

use cloud_net::{info_throttled, warn_throttled};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::broker::PlatformSession;
use crate::device::DeviceLogs;
use crate::faults::{CertificateAnswer, Service, TokenAnswer};
use crate::lock;
use crate::platform::Platform;

/// What the platform listens to: the devices' states, their requests, and what they report.
pub(crate) const PLATFORM_FILTERS: [&str; 3] = [
    "c/d/+/status",
    "c/d/+/+/req",
    "$aws/things/+/shadow/name/config/update/accepted",
];

/// Answers that are being held back at a time.
const MAX_LATE: usize = 256;

/// How long ago the time of an expired token was over.
const EXPIRED_SINCE: Duration = Duration::from_secs(3600);

#[derive(Deserialize)]
struct TokenRequest {
    #[serde(rename = "aesKey")]
    key: String,
    #[serde(rename = "aesIv")]
    iv: String,
}

/// An answer to publish, and how late.
struct Reply {
    topic: String,
    payload: String,
    after: Duration,
}

impl Platform {
    /// Listens to the devices until `shutdown`.
    pub(crate) async fn run(
        self: Arc<Self>,
        mut session: PlatformSession,
        shutdown: CancellationToken,
    ) {
        let mut late = JoinSet::new();
        loop {
            let message = tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = late.join_next() => continue,
                message = session.next() => message,
            };
            let Some((topic, payload)) = message else {
                break;
            };
            let Some(reply) = self.hear(&topic, &payload) else {
                continue;
            };
            if reply.after.is_zero() {
                self.broker().publish(&reply.topic, reply.payload).await;
            } else if late.len() < MAX_LATE {
                let broker = Arc::clone(self.broker());
                late.spawn(async move {
                    tokio::time::sleep(reply.after).await;
                    broker.publish(&reply.topic, reply.payload).await;
                });
            }
        }
        late.shutdown().await;
    }

    /// Takes note of what a device says, and finds the answer if it asks for something.
    fn hear(&self, topic: &str, payload: &[u8]) -> Option<Reply> {
        if let Some((thing, _)) = topic
            .strip_prefix("$aws/things/")
            .and_then(|rest| rest.split_once('/'))
        {
            if let Ok(update) = serde_json::from_slice::<Value>(payload) {
                self.note_reported(thing, &update["state"]["reported"]);
            }
            return None;
        }
        let mut levels = topic.strip_prefix("c/d/")?.split('/');
        let sn = levels.next()?;
        match (levels.next()?, levels.next()) {
            ("status", None) => {
                self.note_status(sn, payload);
                None
            }
            ("remotetoken", Some("req")) => self.answer_token(sn, payload),
            ("remotecr", Some("req")) => self.answer_certificate(sn, Service::Remote, payload),
            ("iotcr", Some("req")) => self.answer_certificate(sn, Service::Iot, payload),
            (action, _) => {
                info_throttled!(
                    self.logs(sn).unknown_action,
                    sn,
                    action,
                    "a device asks for something that this platform does not know"
                );
                None
            }
        }
    }

    fn logs(&self, sn: &str) -> Arc<DeviceLogs> {
        match lock(&self.devices).get(sn) {
            Some(device) => Arc::clone(&device.logs),
            None => Arc::clone(&self.logs.unknown_device),
        }
    }

    fn note_status(&self, sn: &str, payload: &[u8]) {
        let parsed = serde_json::from_slice::<Value>(payload).ok();
        let Some(state) = parsed
            .as_ref()
            .and_then(|status| status.get("state")?.as_str())
        else {
            warn_throttled!(
                self.logs(sn).malformed,
                sn,
                "a device sent a status that cannot be read"
            );
            return;
        };
        info_throttled!(self.logs(sn).state, sn, state, "a device reports its state");
        if let Some(device) = lock(&self.devices).get_mut(sn) {
            device.record_status(state);
        }
    }

    fn answer_token(&self, sn: &str, payload: &[u8]) -> Option<Reply> {
        let Ok(request) = serde_json::from_slice::<TokenRequest>(payload) else {
            warn_throttled!(
                self.logs(sn).malformed,
                sn,
                "a token request cannot be read; not answering"
            );
            return None;
        };
        let wrong = self.faults().next_token();
        if let Some(answer) = &wrong {
            info_throttled!(
                self.logs(sn).wrong_answer,
                sn,
                ?answer,
                "answering a token request wrongly"
            );
        }
        self.token_reply(sn, &request.key, &request.iv, wrong)
    }

    /// A token answer made for keys that the device does not have, unasked for.
    pub(crate) async fn send_unasked_token(&self, sn: &str) -> bool {
        let Some(reply) = self.token_reply(sn, "", "", Some(TokenAnswer::WrongKey)) else {
            return false;
        };
        self.broker().publish(&reply.topic, reply.payload).await;
        true
    }

    fn token_reply(
        &self,
        sn: &str,
        key: &str,
        iv: &str,
        wrong: Option<TokenAnswer>,
    ) -> Option<Reply> {
        let topic = format!("c/d/{sn}/remotetoken/res");
        let mut after = Duration::ZERO;
        let now = OffsetDateTime::now_utc();
        let mut valid = unix_seconds(now + self.settings.token_valid);
        match &wrong {
            Some(TokenAnswer::Hold) => return None,
            Some(TokenAnswer::Malformed) => {
                return Some(Reply {
                    topic,
                    payload: "{\"valid\": soon".to_owned(),
                    after,
                });
            }
            Some(TokenAnswer::Late { ms }) => after = Duration::from_millis(*ms),
            Some(TokenAnswer::Expired) => valid = unix_seconds(now - EXPIRED_SINCE),
            Some(TokenAnswer::Foreign | TokenAnswer::WrongKey) | None => {}
        }
        let mut devices = lock(&self.devices);
        let device = devices.get_mut(sn)?;
        let host = &device.access_point;
        let issued = match &wrong {
            Some(TokenAnswer::Foreign) => self.settings.tokens.issue_foreign(host, key, iv, valid),
            Some(TokenAnswer::WrongKey) => {
                self.relay()
                    .issue_with_other_key(&self.settings.tokens, host, valid)
            }
            _ => self
                .relay()
                .issue(&self.settings.tokens, host, key, iv, valid),
        };
        let token = match issued {
            Ok(token) => token,
            Err(error) => {
                warn_throttled!(device.logs.malformed, sn, %error, "cannot make a token; not answering");
                return None;
            }
        };
        if matches!(wrong, None | Some(TokenAnswer::Late { .. })) {
            device.tokens_issued += 1;
        }
        Some(Reply {
            topic,
            payload: self.settings.tokens.answer(valid, &token).to_string(),
            after,
        })
    }

    fn answer_certificate(&self, sn: &str, service: Service, payload: &[u8]) -> Option<Reply> {
        let request = serde_json::from_slice::<Value>(payload).unwrap_or_default();
        let Some(serial) = request[service.key()].as_str() else {
            warn_throttled!(
                self.logs(sn).malformed,
                sn,
                "a certificate request cannot be read; not answering"
            );
            return None;
        };
        let wrong = self.faults().next_certificate(service);
        if let Some(answer) = &wrong {
            info_throttled!(
                self.logs(sn).wrong_answer,
                sn,
                ?answer,
                "answering a certificate request wrongly"
            );
        }
        let (issued, name) = {
            let mut devices = lock(&self.devices);
            let device = devices.get_mut(sn)?;
            if service == Service::Iot {
                let refused = wrong == Some(CertificateAnswer::Refused);
                device.refuse_iot(refused.then(|| serial.to_owned()));
            }
            let name = match service {
                Service::Iot => device.thing.clone(),
                Service::Remote => device.access_point.clone(),
            };
            (device.certificates(service).find(serial).cloned(), name)
        };
        let Some(mut issued) = issued else {
            warn_throttled!(
                self.logs(sn).unknown_certificate,
                sn,
                serial,
                "a device asks for a certificate that was never made for it"
            );
            return None;
        };
        let another = || match service {
            Service::Iot => self.authority.issue_device(&name, None).ok(),
            Service::Remote => self.authority.issue_remote(&name, None).ok(),
        };
        let action = match service {
            Service::Iot => "iotcr",
            Service::Remote => "remotecr",
        };
        let topic = format!("c/d/{sn}/{action}/res");
        let mut after = Duration::ZERO;
        match wrong {
            None | Some(CertificateAnswer::Refused) => {}
            Some(CertificateAnswer::Hold) => return None,
            Some(CertificateAnswer::Late { ms }) => after = Duration::from_millis(ms),
            Some(CertificateAnswer::Malformed) => {
                return Some(Reply {
                    topic,
                    payload: "{\"cert\": -----BEGIN".to_owned(),
                    after,
                });
            }
            Some(CertificateAnswer::WrongKey) => issued.key_pem = another()?.key_pem,
            Some(CertificateAnswer::WrongSerial) => issued = another()?,
            Some(untimely @ (CertificateAnswer::Expired | CertificateAnswer::NotYetValid)) => {
                let over = untimely == CertificateAnswer::Expired;
                issued = self
                    .authority
                    .issue_untimely(service, &name, &issued, over)
                    .ok()?;
            }
        }
        // Null for the first certificate of a device that made its own key; each later one comes
        // with a key.
        let key = issued.key_pem.as_ref().map(|key| key.as_str());
        let payload = json!({ "cert": issued.chain_pem, "pkey": key }).to_string();
        Some(Reply {
            topic,
            payload,
            after,
        })
    }
}

fn unix_seconds(time: OffsetDateTime) -> u64 {
    u64::try_from(time.unix_timestamp()).unwrap_or_default()
}
