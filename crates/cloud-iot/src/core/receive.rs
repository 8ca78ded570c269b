//! Receiving messages: delivery to handlers, and acknowledgement.

use tokio::time::Instant;

use super::Core;
use super::phase::{Action, DrainStep, Phase};
use crate::core::acknowledgement_order::{DeliveryId, Received};
use crate::core::connection_event::Incoming;
use crate::error::cause::Cause;
use crate::mqtt::message::QoS;
use crate::session::config::Acknowledge;

impl Core {
    pub(super) fn received(&mut self, incoming: Incoming, now: Instant) {
        self.record_activity(now);
        let Incoming {
            message,
            packet_id,
            duplicate,
        } = incoming;
        let mut delivery = None;
        if self.config.acknowledge == Acknowledge::AfterHandlers && message.qos == QoS::AtLeastOnce
        {
            // It arrived together with the end of the connection; the server resends it.
            if self.connection().is_none() {
                return;
            }
            match self.unacknowledged.received(packet_id, duplicate) {
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

    /// Acknowledges, in order, a QoS 1 message that cannot be delivered. Without an acknowledgement
    /// it would occupy the receive maximum forever; a disconnection would make the server resend it
    /// on every connection.
    pub(super) fn received_undeliverable(&mut self, packet_id: u16, duplicate: bool, now: Instant) {
        self.record_activity(now);
        if self.config.acknowledge == Acknowledge::AfterHandlers && self.connection().is_some() {
            match self.unacknowledged.received(packet_id, duplicate) {
                Received::New(id) => self.unacknowledged.handled(id),
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

    /// Returns the message whose acknowledgement is missing if so many wait for it that the server
    /// will stop sending soon: three quarters of what it may send.
    pub(crate) fn blocking_delivery(&self) -> Option<DeliveryId> {
        let maximum = usize::from(self.config.limits.incoming_in_flight);
        self.unacknowledged.blocking((maximum * 3).div_ceil(4))
    }

    /// Records that the handlers of a message have ended, with or without success.
    pub(crate) fn handle_handlers_finished(&mut self, delivery: DeliveryId, now: Instant) {
        self.unacknowledged.handled(delivery);
        self.acknowledge();
        // A shutdown may have waited for it.
        self.advance(now);
    }

    /// Records that a message is not acknowledged, so that the server sends it again.
    pub(crate) fn handle_left(&mut self, delivery: DeliveryId, now: Instant) {
        self.unacknowledged.left(delivery);
        // A shutdown may have waited for it.
        self.advance(now);
    }

    fn acknowledge(&mut self) {
        // Nothing may follow a DISCONNECT. The server resends the message, which is then
        // recognized.
        if let Phase::Draining { step, .. } | Phase::Reconnecting { step, .. } = &self.phase
            && matches!(step, DrainStep::Disconnecting)
        {
            return;
        }
        while let Some(packet_id) = self.unacknowledged.next_acknowledgement() {
            self.actions.push_back(Action::Acknowledge(packet_id));
        }
    }
}
