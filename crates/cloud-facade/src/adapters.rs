//! The joints: what one crate asks for, made of what another one offers.
//!
//! Each is a newtype around the provider that implements the consumer's trait. Nothing is decided here.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cloud_config::{Credentials, Store};
use cloud_iot::{Message, QoS, Request, RequestError, SessionHandle};
use cloud_net::{LogThrottle, warn_throttled};
use cloud_remote::{
    CertificatePem, CertificateRequest, CertificateResponse, CertificateSource, CertificateStore,
    PlatformClock, SourceError, StoreError, TokenRequest, TokenResponse, TokenSource,
};
use cloud_shadow::{BusError, BusMessage, BusSubscription, MessageBus};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::Notify;

use crate::registration::blocking;
use crate::topics::{self, Action, DeviceTopics};

/// How long the platform may take to answer (docs/protocol.md, "Remote access").
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Requests to the platform and their answers, over the session: tokens and certificates for remote access.
#[derive(Debug, Clone)]
pub(crate) struct Platform {
    pub(crate) session: SessionHandle,
    pub(crate) topics: DeviceTopics,
}

impl Platform {
    /// Publishes on `…/<action>/req` and waits for `…/<action>/res`.
    pub(crate) async fn request(
        &self,
        action: &Action,
        payload: Bytes,
        qos: QoS,
        timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        let request = Request {
            topic: self.topics.request(action),
            payload,
            qos,
            reply_topic: self.topics.answer(action),
            timeout,
        };
        Ok(self.session.request(request).await?.payload)
    }

    pub(crate) async fn ask(&self, action: &Action, payload: Bytes) -> Result<Bytes, SourceError> {
        match self
            .request(action, payload, QoS::AtMostOnce, ANSWER_LIMIT)
            .await
        {
            Err(RequestError::Timeout(_)) => Err(SourceError::TimedOut),
            answer => answer.map_err(SourceError::unavailable),
        }
    }
}

impl TokenSource for Platform {
    async fn request_token(&self, request: TokenRequest) -> Result<TokenResponse, SourceError> {
        let answer = self
            .ask(&topics::TOKEN, Bytes::copy_from_slice(&request.to_json()))
            .await?;
        Ok(TokenResponse::from_json(&answer)?)
    }
}

impl CertificateSource for Platform {
    async fn request_certificate(
        &self,
        request: CertificateRequest,
    ) -> Result<CertificateResponse, SourceError> {
        let answer = self
            .ask(&topics::CERTIFICATE, request.to_json().into())
            .await?;
        Ok(CertificateResponse::from_json(&answer)?)
    }
}

/// The directory as the keeper of the remote certificate.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) store: Store,
    /// What was loaded at the start, until it is asked for: a key must not stay in memory after its replacement.
    pub(crate) credentials: Mutex<Option<Credentials>>,
}

impl CertificateStore for Directory {
    async fn load(&self) -> Result<CertificatePem, StoreError> {
        let loaded = self.credentials.lock();
        let loaded = loaded.unwrap_or_else(PoisonError::into_inner).take();
        let credentials = match loaded {
            Some(credentials) => credentials,
            None => {
                let store = self.store.clone();
                let stored = blocking(move || store.load_partial()).await;
                stored
                    .and_then(|stored| stored.device.remote)
                    .map_err(StoreError::new)?
            }
        };
        Ok(CertificatePem::new(
            credentials.chain_pem(),
            credentials.key_pem().to_owned(),
        ))
    }

    async fn store(&self, certificate: &CertificatePem) -> Result<(), StoreError> {
        let credentials = Credentials::from_pem(certificate.chain(), certificate.key())
            .map_err(StoreError::new)?;
        let store = self.store.clone();
        blocking(move || store.replace_remote(&credentials))
            .await
            .map_err(StoreError::new)
    }
}

/// The session as the shadow's message bus.
#[derive(Debug, Clone)]
pub(crate) struct Bus {
    pub(crate) session: SessionHandle,
    /// Told when messages for the shadow were lost, so that it is fetched anew.
    pub(crate) lost: Arc<Notify>,
    /// Told the time by the answers to `get`, each of which comes right after a connection.
    pub(crate) clock: PlatformClock,
    /// Limits the warnings about messages that were lost.
    pub(crate) lost_log: Arc<LogThrottle>,
}

impl MessageBus for Bus {
    async fn publish(&self, topic: String, payload: Vec<u8>) -> Result<(), BusError> {
        // A shadow request that waits for a connection is out of date when it goes out; the shadow is fetched then anyway.
        if !self.session.state().borrow().is_online() {
            return Err(BusError::temporary("there is no connection to the broker"));
        }
        // At most once: a request has an answer of its own, and one that is repeated on the next connection could undo a later
        // one that has been carried out already.
        let message = Message::new(topic, payload).qos(QoS::AtMostOnce);
        match self.session.publish(message) {
            Ok(_receipt) => Ok(()),
            Err(error) if error.is_retryable() => Err(BusError::temporary(error)),
            Err(error) => Err(BusError::permanent(error)),
        }
    }

    async fn subscribe(&self, filter: String) -> Result<BusSubscription, BusError> {
        let messages = self.session.messages(filter).map_err(BusError::permanent)?;
        let (lost, clock) = (Arc::clone(&self.lost), self.clock.clone());
        let log = Arc::clone(&self.lost_log);
        let messages = messages.filter_map(move |message| {
            let message = match message {
                Ok(Message { topic, payload, .. }) => {
                    if topic.ends_with("/get/accepted") {
                        tell_time(&clock, &payload);
                    }
                    Some(BusMessage {
                        topic,
                        payload: payload.into(),
                    })
                }
                Err(lagged) => {
                    warn_throttled!(
                        log,
                        lagged.dropped,
                        "messages for the shadow were lost; it is fetched anew"
                    );
                    lost.notify_one();
                    None
                }
            };
            std::future::ready(message)
        });
        Ok(BusSubscription::new(messages))
    }
}

/// When the shadow service wrote this, by its own clock.
fn tell_time(clock: &PlatformClock, document: &[u8]) {
    let document = serde_json::from_slice::<Value>(document).ok();
    if let Some(unix) = document.and_then(|document| document.get("timestamp")?.as_i64()) {
        clock.set(unix);
    }
}
