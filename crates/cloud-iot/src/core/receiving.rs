//! Received messages: to whom they go, and when they are acknowledged.

use tokio::time::Instant;

use super::Core;
use super::phase::{Action, Drain, Phase};
use crate::cause::Cause;
use crate::config::Acknowledge;
use crate::inbound::{DeliveryId, Received};
use crate::link::Incoming;
use crate::message::QoS;

impl Core {
    pub(super) fn received(&mut self, incoming: Incoming, now: Instant) {
        self.sign_of_life(now);
        let Incoming {
            message,
            packet_id,
            duplicate,
        } = incoming;
        let mut delivery = None;
        if self.config.acknowledge == Acknowledge::AfterHandlers && message.qos == QoS::AtLeastOnce
        {
            // It came together with what ended the connection, and comes again.
            if self.link().is_none() {
                return;
            }
            match self.inbound.received(packet_id, duplicate) {
                Received::New(id) => delivery = Some(id),
                Received::Duplicate => return self.acknowledge(),
                Received::TooMany => return self.received_too_many(now),
            }
        }
        let answered = self.requests.answer(&message);
        self.actions.push_back(Action::Deliver {
            message,
            answered,
            delivery,
        });
    }

    /// A QoS 1 message came that is for nobody. It is acknowledged in its turn as if it had been handled: it would take a place
    /// of the window for good otherwise, or come again on every connection if that were a reason to end this one.
    pub(super) fn received_nameless(&mut self, packet_id: u16, duplicate: bool, now: Instant) {
        self.sign_of_life(now);
        if self.config.acknowledge == Acknowledge::AfterHandlers && self.link().is_some() {
            match self.inbound.received(packet_id, duplicate) {
                Received::New(id) => self.inbound.handled(id),
                Received::Duplicate => {}
                Received::TooMany => return self.received_too_many(now),
            }
            self.acknowledge();
        }
    }

    fn received_too_many(&mut self, now: Instant) {
        let fault = "far more unacknowledged messages than the receive maximum".into();
        self.lost(Cause::Protocol(fault), now);
    }

    /// The handlers of a message have ended, in whatever way.
    pub(crate) fn handled(&mut self, delivery: DeliveryId, now: Instant) {
        self.inbound.handled(delivery);
        self.acknowledge();
        // A stop may have waited for it.
        self.advance(now);
    }

    fn acknowledge(&mut self) {
        // Nothing may follow a DISCONNECT. The server repeats it, and then it is known.
        if let Phase::Draining { step, .. } | Phase::Renewing { step, .. } = &self.phase
            && matches!(step, Drain::Leaving)
        {
            return;
        }
        while let Some(packet_id) = self.inbound.next_acknowledgement() {
            self.actions.push_back(Action::Acknowledge(packet_id));
        }
    }
}
