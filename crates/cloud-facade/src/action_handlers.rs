//! The host's handlers of the platform's actions.
//!
//! Each has a queue of its own in the session, so that neither events nor another action can
//! displace its messages.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use cloud_iot::{BoxError, Message};

use crate::cloud::WeakClesydeCloud;
use crate::session_setup::ActionRoute;
use crate::topics::{Action, DeviceTopics};

type HandlerFuture = Pin<Box<dyn Future<Output = Result<Option<Bytes>, BoxError>> + Send>>;

/// A handler of the platform's messages of one action, that is not bound to a device yet.
#[derive(Clone)]
pub(crate) struct ActionHandler {
    action: Action,
    handler: Arc<dyn Fn(WeakClesydeCloud, Bytes) -> HandlerFuture + Send + Sync>,
}

impl ActionHandler {
    pub(crate) fn new<F, Fut>(action: Action, handler: F) -> Self
    where
        F: Fn(WeakClesydeCloud, Bytes) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<Bytes>, BoxError>> + Send + 'static,
    {
        let handler =
            Arc::new(move |cloud, payload| Box::pin(handler(cloud, payload)) as HandlerFuture);
        Self { action, handler }
    }

    /// Returns the handler of a device, which publishes the answers.
    pub(crate) fn bind(self, cloud: &WeakClesydeCloud) -> ActionRoute {
        let Self { action, handler } = self;
        let (name, cloud) = (action.clone(), cloud.clone());
        let handle = move |payload| {
            let answer = handler(cloud.clone(), payload);
            let (action, cloud) = (name.clone(), cloud.clone());
            Box::pin(async move {
                if let (Some(answer), Some(cloud)) = (answer.await?, cloud.upgrade()) {
                    let topic = DeviceTopics::new(cloud.serial_number()).request(&action);
                    drop(cloud.publish(Message::new(topic, answer))?);
                }
                Ok(())
            }) as Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>
        };
        ActionRoute {
            action,
            handle: Arc::new(handle),
        }
    }
}

impl fmt::Debug for ActionHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ActionHandler").field(&self.action).finish()
    }
}
