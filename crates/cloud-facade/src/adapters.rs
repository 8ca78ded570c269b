//! Adapters: each is a newtype around a provider that implements a consumer's trait, without logic
//! of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cloud_config::{Credentials, Store};
use cloud_iot::{Message, QoS, Request, RequestError, Session};
use cloud_net::{LogThrottle, warn_throttled};
use cloud_remote::{
    CertificatePem, CertificateRequest, CertificateResponse, CertificateSource, CertificateStore,
    PlatformClock, SourceError, StoreError, TokenRequest, TokenResponse, TokenSource,
};
use cloud_shadow::{BusError, BusMessage, BusSubscription, MessageBus};
use futures_util::StreamExt;
use tokio::sync::Notify;

use crate::tasks::spawn_blocking;
use crate::topics::{self, Action, DeviceTopics};

/// Time limit for the platform's response (docs/protocol.md, "Remote access").
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// The part of the session that requests need.
#[cfg_attr(test, mockall::automock)]
pub(crate) trait RequestSession: Send + Sync + 'static {
    /// See [`Session::request`].
    fn request(
        &self,
        request: Request,
    ) -> impl Future<Output = Result<Message, RequestError>> + Send;
}

impl RequestSession for Session {
    async fn request(&self, request: Request) -> Result<Message, RequestError> {
        Self::request(self, request).await
    }
}

/// Sends requests to the platform over the session: for tokens, certificates and the host.
#[derive(Debug, Clone)]
pub(crate) struct PlatformClient<S = Session> {
    pub(crate) session: S,
    pub(crate) topics: DeviceTopics,
}

impl<S: RequestSession> PlatformClient<S> {
    /// Publishes to `…/<action>/req` and waits for `…/<action>/res`.
    pub(crate) async fn request(
        &self,
        action: &Action,
        payload: Bytes,
        qos: QoS,
        timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        let topics = &self.topics;
        let request = Request::new(topics.request(action), payload, topics.answer(action))
            .qos(qos)
            .timeout(timeout);
        Ok(self.session.request(request).await?.payload)
    }

    pub(crate) async fn request_bytes(
        &self,
        action: &Action,
        payload: Bytes,
    ) -> Result<Bytes, SourceError> {
        match self
            .request(action, payload, QoS::AtMostOnce, RESPONSE_TIMEOUT)
            .await
        {
            Err(RequestError::Timeout(_)) => Err(SourceError::TimedOut),
            answer => answer.map_err(SourceError::unavailable),
        }
    }
}

impl<S: RequestSession> TokenSource for PlatformClient<S> {
    async fn request_token(&self, request: TokenRequest) -> Result<TokenResponse, SourceError> {
        let answer = self
            .request_bytes(&topics::TOKEN, Bytes::copy_from_slice(&request.to_json()))
            .await?;
        Ok(TokenResponse::from_json(&answer)?)
    }
}

impl<S: RequestSession> CertificateSource for PlatformClient<S> {
    async fn request_certificate(
        &self,
        request: CertificateRequest,
    ) -> Result<CertificateResponse, SourceError> {
        let answer = self
            .request_bytes(&topics::CERTIFICATE, request.to_json().into())
            .await?;
        Ok(CertificateResponse::from_json(&answer)?)
    }
}

/// The directory as the keeper of the remote certificate.
#[derive(Debug)]
pub(crate) struct StoreAdapter {
    pub(crate) store: Store,
    /// The credentials loaded at the start, until they are used: a replaced key must not stay in
    /// memory.
    pub(crate) credentials: Mutex<Option<Credentials>>,
}

impl CertificateStore for StoreAdapter {
    async fn load(&self) -> Result<CertificatePem, StoreError> {
        let loaded = self.credentials.lock();
        let loaded = loaded.unwrap_or_else(PoisonError::into_inner).take();
        let credentials = match loaded {
            Some(credentials) => credentials,
            None => {
                let store = self.store.clone();
                let stored = spawn_blocking(move || store.load_partial()).await;
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
        spawn_blocking(move || store.replace_remote(&credentials))
            .await
            .map_err(StoreError::new)
    }
}

/// The session as the message bus of a shadow.
#[derive(Debug, Clone)]
pub(crate) struct ShadowBus {
    pub(crate) session: Session,
    /// Notified when messages for the shadow were lost, so that it is fetched again.
    pub(crate) lost: Arc<Notify>,
    /// Updated by the responses to `get`, which follow each connection.
    pub(crate) clock: PlatformClock,
    /// Limits the warnings about lost messages.
    pub(crate) lost_log: Arc<LogThrottle>,
}

impl MessageBus for ShadowBus {
    async fn publish(&self, topic: String, payload: Vec<u8>) -> Result<(), BusError> {
        // A queued shadow request would be stale when it is sent; the shadow is fetched then
        // anyway.
        if !self.session.state().borrow().is_online() {
            return Err(BusError::temporary("there is no connection to the broker"));
        }
        // At most once: each request has a response, and a duplicate on the next connection could
        // undo a later request.
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
                        update_clock(&clock, &payload);
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
                        "messages for the shadow were lost; fetching it again"
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

/// Updates the platform clock from the timestamp of a shadow document.
fn update_clock(clock: &PlatformClock, document: &[u8]) {
    if let Some(timestamp) = cloud_shadow::parse_timestamp(document) {
        clock.set(timestamp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(session: MockRequestSession) -> PlatformClient<MockRequestSession> {
        PlatformClient {
            session,
            topics: DeviceTopics::new(&"SN-1".parse().unwrap()),
        }
    }

    fn answers(payload: &'static str) -> impl Fn(Request) -> MessageFuture {
        move |request| Box::pin(async move { Ok(Message::new(request.reply_topic, payload)) })
    }

    type MessageFuture =
        std::pin::Pin<Box<dyn Future<Output = Result<Message, RequestError>> + Send>>;

    #[tokio::test]
    async fn request_is_sent_once_on_topics_of_action() {
        let mut session = MockRequestSession::new();
        session
            .expect_request()
            .withf(|request| {
                request.topic == "c/d/SN-1/remotetoken/req"
                    && request.reply_topic == "c/d/SN-1/remotetoken/res"
                    && request.payload == "the request"
                    && request.qos == QoS::AtMostOnce
                    && request.timeout == RESPONSE_TIMEOUT
            })
            .times(1)
            .returning(answers("the answer"));
        let answer = platform(session)
            .request_bytes(&topics::TOKEN, "the request".into())
            .await;
        assert_eq!(answer.unwrap(), "the answer");
    }

    #[tokio::test]
    async fn certificate_request_names_serial_number() {
        let request = CertificateRequest::new("12".parse().unwrap());
        let expected = request.to_json();
        let mut session = MockRequestSession::new();
        session
            .expect_request()
            .withf(move |request| {
                request.topic == "c/d/SN-1/remotecr/req" && request.payload == expected
            })
            .times(1)
            .returning(answers("{}"));
        let answer = platform(session).request_certificate(request).await;
        assert!(matches!(answer, Err(SourceError::Answer(_))), "{answer:?}");
    }

    #[tokio::test]
    async fn missing_response_is_a_timeout_and_not_repeated() {
        let mut session = MockRequestSession::new();
        session.expect_request().times(1).returning(|request| {
            Box::pin(async move { Err(RequestError::Timeout(request.timeout)) })
        });
        let request = CertificateRequest::new("12".parse().unwrap());
        let answer = platform(session).request_certificate(request).await;
        assert!(matches!(answer, Err(SourceError::TimedOut)), "{answer:?}");
    }
}
