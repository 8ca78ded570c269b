//! Messages that the host receives while the device runs: of its own topics, and of actions.

use std::fmt;

use cloud_iot::{
    ActiveSubscription, HeldMessage, HeldMessages, Lagged, Message, MessageStream, Session,
    StreamError, SubscribeError, Subscription,
};

use crate::error::NotRunning;
use crate::topics::{Action, DeviceTopics};

/// Messages of one filter, in the order of arrival, except the platform's responses with secrets:
/// tokens and certificates are not for the host.
///
/// A slow reader loses messages beyond a bounded queue; the next read returns [`Lagged`] with their
/// number.
pub struct TopicMessages {
    messages: MessageStream,
    secret: [String; 6],
}

impl TopicMessages {
    /// Returns the next message; `None` when the device has stopped.
    ///
    /// # Errors
    /// [`Lagged`] if messages were lost. The stream continues after it.
    ///
    /// # Cancel safety
    /// No message is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Result<Message, Lagged>> {
        loop {
            match self.messages.recv().await {
                Some(Ok(message)) if self.secret.contains(&message.topic) => {}
                received => return received,
            }
        }
    }
}

impl fmt::Debug for TopicMessages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicMessages").finish_non_exhaustive()
    }
}

/// A subscription of the host, and its messages; see
/// [`ClesydeCloud::subscribe`](crate::ClesydeCloud::subscribe). Dropping it unsubscribes.
#[derive(Debug)]
#[non_exhaustive]
pub struct TopicSubscription {
    /// The subscription, with the broker's answer.
    pub subscription: ActiveSubscription,
    /// The messages.
    pub messages: TopicMessages,
}

/// Messages of one filter that the host acknowledges, in the order of arrival, except the
/// platform's responses with secrets.
pub struct HeldTopicMessages {
    messages: HeldMessages,
    secret: [String; 6],
}

impl HeldTopicMessages {
    /// Returns the next message; `None` when the device is stopping. Dropping the message leaves it
    /// to the next reader of the filter.
    ///
    /// # Cancel safety
    /// No message is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<HeldMessage> {
        loop {
            let held = self.messages.recv().await?;
            if self.secret.contains(&held.message.topic) {
                held.acknowledge();
            } else {
                return Some(held);
            }
        }
    }
}

impl fmt::Debug for HeldTopicMessages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldTopicMessages").finish_non_exhaustive()
    }
}

/// A subscription of the host, and its messages, which the host acknowledges; see
/// [`ClesydeCloud::subscribe_held`](crate::ClesydeCloud::subscribe_held). Dropping it unsubscribes.
#[derive(Debug)]
#[non_exhaustive]
pub struct HeldSubscription {
    /// The subscription, with the broker's answer.
    pub subscription: ActiveSubscription,
    /// The messages.
    pub messages: HeldTopicMessages,
}

/// An error of receiving messages of a topic.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// It is not running.
    #[error(transparent)]
    NotRunning(#[from] NotRunning),
    /// The session rejected the subscription.
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
    /// The session opened no stream.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The action belongs to remote access, and its messages contain secrets.
    #[error("the action {0} belongs to remote access, and its messages contain secrets")]
    SecretAction(Action),
}

fn open(
    session: &Session,
    topics: &DeviceTopics,
    filter: &str,
) -> Result<TopicMessages, ReceiveError> {
    Ok(TopicMessages {
        messages: session.messages(filter)?,
        secret: topics.secret(),
    })
}

/// Subscribes, and opens the stream.
pub(crate) fn subscribe(
    session: &Session,
    topics: &DeviceTopics,
    subscription: Subscription,
) -> Result<TopicSubscription, ReceiveError> {
    let subscription = session.subscribe(subscription)?;
    let messages = open(session, topics, subscription.filter().as_str())?;
    Ok(TopicSubscription {
        subscription,
        messages,
    })
}

/// Subscribes, and opens a reader that acknowledges the messages.
pub(crate) fn subscribe_held(
    session: &Session,
    topics: &DeviceTopics,
    subscription: Subscription,
) -> Result<HeldSubscription, ReceiveError> {
    let subscription = session.subscribe(subscription)?;
    let messages = HeldTopicMessages {
        messages: session.held_messages(subscription.filter().as_str())?,
        secret: topics.secret(),
    };
    Ok(HeldSubscription {
        subscription,
        messages,
    })
}

/// Opens the stream of the platform's messages of an action, which the session is subscribed to.
pub(crate) fn action_messages(
    session: &Session,
    topics: &DeviceTopics,
    action: &Action,
) -> Result<TopicMessages, ReceiveError> {
    if action.is_secret() {
        return Err(ReceiveError::SecretAction(action.clone()));
    }
    open(session, topics, &topics.answer(action))
}
