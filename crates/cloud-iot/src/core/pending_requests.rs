//! Requests that wait for their responses.
//!
//! The response to a request is the next message on its reply topic after the request was written
//! to a connection. Responses carry no correlation data, so two requests cannot wait on the same
//! topic.

use tokio::sync::oneshot;

use crate::error::RequestError;
use crate::mqtt::message::Message;
use crate::mqtt::message::MessageId;

/// Where the result of a request goes.
pub(crate) type Reply = oneshot::Sender<Result<Message, RequestError>>;

#[derive(Debug)]
struct Waiting {
    request: MessageId,
    reply_topic: String,
    written: bool,
    answer: Reply,
}

#[derive(Debug, Default)]
pub(crate) struct PendingRequests(Vec<Waiting>);

impl PendingRequests {
    /// Checks that a request may wait on this topic.
    pub(crate) fn check(&self, reply_topic: &str, limit: usize) -> Result<(), RequestError> {
        if self
            .0
            .iter()
            .any(|waiting| waiting.reply_topic == reply_topic)
        {
            return Err(RequestError::Busy(reply_topic.to_owned()));
        }
        if self.0.len() >= limit {
            return Err(RequestError::TooMany(limit));
        }
        Ok(())
    }

    pub(crate) fn add(&mut self, request: MessageId, reply_topic: String, answer: Reply) {
        self.0.push(Waiting {
            request,
            reply_topic,
            written: false,
            answer,
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Records that the request was written: its response may arrive from now on.
    pub(crate) fn written(&mut self, request: MessageId) {
        for waiting in &mut self.0 {
            waiting.written |= waiting.request == request;
        }
    }

    /// Passes the message to the request that waits for it, if any.
    pub(crate) fn answer(&mut self, message: &Message) -> bool {
        let Some(index) = self
            .0
            .iter()
            .position(|waiting| waiting.written && waiting.reply_topic == message.topic)
        else {
            return false;
        };
        self.0
            .swap_remove(index)
            .answer
            .send(Ok(message.clone()))
            .is_ok()
    }

    /// Ends the requests whose responses cannot arrive; returns their messages.
    pub(crate) fn refuse(&mut self, is_refused: impl Fn(&str) -> bool) -> Vec<MessageId> {
        let ended = self
            .0
            .extract_if(.., |waiting| is_refused(&waiting.reply_topic));
        let messages = ended.map(|waiting| {
            let error = RequestError::SubscriptionRefused(waiting.reply_topic);
            // The caller may have been dropped.
            let _ = waiting.answer.send(Err(error));
            waiting.request
        });
        messages.collect()
    }

    pub(crate) fn remove(&mut self, request: MessageId) {
        self.0.retain(|waiting| waiting.request != request);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_per_topic_answered_only_after_sending() {
        let mut requests = PendingRequests::default();
        let (sender, mut receiver) = oneshot::channel();
        requests.check("a/res", 2).unwrap();
        requests.add(7, "a/res".into(), sender);
        assert_eq!(
            requests.check("a/res", 2),
            Err(RequestError::Busy("a/res".into()))
        );

        let message = Message::new("a/res", "answer");
        assert!(!requests.answer(&message), "it was not sent yet");
        requests.written(7);
        assert!(!requests.answer(&Message::new("b/res", "")));
        assert!(requests.answer(&message));
        assert_eq!(receiver.try_recv().unwrap(), Ok(message.clone()));
        assert!(
            !requests.answer(&message),
            "the next message is not a response"
        );
        requests.check("a/res", 2).unwrap();
    }

    #[test]
    fn bounded() {
        let mut requests = PendingRequests::default();
        let (sender, _receiver) = oneshot::channel();
        requests.add(1, "a".into(), sender);
        assert_eq!(requests.check("b", 1), Err(RequestError::TooMany(1)));
        requests.remove(1);
        requests.check("b", 1).unwrap();
    }
}
