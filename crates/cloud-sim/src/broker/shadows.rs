//! Joins the shadow service to the broker: requests are taken out of the stream of publishes and
//! answered.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use mqtt5::QoS;
use mqtt5::broker::events::{BrokerEventHandler, ClientPublishEvent, PublishAction};
use mqtt5::broker::router::MessageRouter;
use mqtt5::packet::publish::PublishPacket;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::lock;
use crate::shadow::{DeltaForm, Publication, Rejection, ShadowId, ShadowService};

/// The shadow service behind the broker's publishes.
pub(crate) struct ShadowHandler {
    service: Mutex<ShadowService>,
    /// Weak, since the configuration of the broker holds this handler.
    router: OnceLock<Weak<MessageRouter>>,
}

impl ShadowHandler {
    pub(super) fn new(form: DeltaForm) -> Self {
        Self {
            service: Mutex::new(ShadowService::new(form)),
            router: OnceLock::new(),
        }
    }

    pub(super) fn attach(&self, router: &Arc<MessageRouter>) {
        // Set once, right after the router is made.
        let _ = self.router.set(Arc::downgrade(router));
    }

    /// The desired and the reported section of a shadow, if it exists.
    pub(crate) fn sections(
        &self,
        id: &ShadowId,
    ) -> Option<(Map<String, Value>, Map<String, Value>)> {
        let service = lock(&self.service);
        let document = service.document(id)?;
        Some((document.desired().clone(), document.reported().clone()))
    }

    /// Merges into the desired section and tells the device.
    pub(crate) async fn set_desired(
        &self,
        id: &ShadowId,
        patch: Map<String, Value>,
    ) -> Result<(), Rejection> {
        let messages = lock(&self.service).set_desired(id, patch, now())?;
        self.publish(messages).await;
        Ok(())
    }

    /// Carries out a request, as if the device had published it.
    pub(crate) async fn handle(&self, topic: &str, payload: &[u8]) {
        let messages = lock(&self.service).handle(topic, payload, now());
        self.publish(messages).await;
    }

    async fn publish(&self, messages: Vec<Publication>) {
        let Some(router) = self.router.get().and_then(Weak::upgrade) else {
            return;
        };
        for (topic, payload) in messages {
            router
                .route_message(&PublishPacket::new(topic, payload, QoS::AtLeastOnce), None)
                .await;
        }
    }
}

impl BrokerEventHandler for ShadowHandler {
    fn on_client_publish<'a>(
        &'a self,
        event: ClientPublishEvent,
    ) -> Pin<Box<dyn Future<Output = PublishAction> + Send + 'a>> {
        Box::pin(async move {
            if !ShadowService::is_request(&event.topic) {
                return PublishAction::Continue;
            }
            self.handle(&event.topic, &event.payload).await;
            PublishAction::Handled
        })
    }
}

fn now() -> u64 {
    u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or_default()
}
