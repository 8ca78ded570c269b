//! What a device may publish and subscribe to: its own topics, and reading the broadcast.
//!
//! A connection's rights come from its client certificate alone. The client id has to be the thing
//! that the certificate names, as the policies of AWS IoT Core demand it, or that with [`PROOF`]
//! behind it; nothing else that CONNECT carries is looked at.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use cloud_net::{UntrustedText, warn_throttled};
use mqtt5::broker::auth::{AuthProvider, AuthResult};
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;

use super::BrokerLogs;
use crate::shadow::ShadowService;

/// The topic on which the platform speaks to all devices.
pub(crate) const BROADCAST_TOPIC: &str = "c/platform";

/// Stands behind the thing's name in the client id under which a device tries a new certificate
/// out, beside the connection that it has.
const PROOF: &str = "-proof";

/// Whom a client certificate belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) sn: String,
    pub(crate) thing: String,
}

impl Identity {
    fn may_connect_as(&self, client_id: &str) -> bool {
        client_id.strip_suffix(PROOF).unwrap_or(client_id) == self.thing || client_id == self.thing
    }

    pub(super) fn may_publish(&self, topic: &str) -> bool {
        self.is_own_topic(topic) || (self.is_own_shadow(topic) && ShadowService::is_request(topic))
    }

    fn may_subscribe(&self, filter: &str) -> bool {
        filter == BROADCAST_TOPIC || self.is_own_topic(filter) || self.is_own_shadow(filter)
    }

    /// Neither serial numbers nor thing names have wildcards, so a filter with this prefix matches
    /// nothing foreign.
    fn is_own_topic(&self, topic: &str) -> bool {
        below(topic, "c/d/", &self.sn)
    }

    fn is_own_shadow(&self, topic: &str) -> bool {
        below(topic, "$aws/things/", &self.thing)
    }
}

fn below(topic: &str, prefix: &str, name: &str) -> bool {
    topic
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix(name))
        .and_then(|rest| rest.strip_prefix('/'))
        .is_some_and(|rest| !rest.is_empty())
}

/// The rights of one connection; `None` where the certificate belongs to no device that the
/// platform knows.
pub(crate) struct ConnectionAcl {
    pub(crate) identity: Option<Identity>,
    pub(crate) logs: Arc<BrokerLogs>,
}

impl AuthProvider for ConnectionAcl {
    fn authenticate<'a>(
        &'a self,
        connect: &'a ConnectPacket,
        _client: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = mqtt5::Result<AuthResult>> + Send + 'a>> {
        let result = match &self.identity {
            Some(identity) if identity.may_connect_as(&connect.client_id) => {
                AuthResult::success_with_user(identity.thing.clone())
            }
            Some(identity) => {
                let client_id = UntrustedText::new(&connect.client_id);
                warn_throttled!(self.logs.wrong_client_id, thing = identity.thing, %client_id, "refused a client id that is not the certificate's thing");
                AuthResult::fail(ReasonCode::NotAuthorized)
            }
            None => AuthResult::fail(ReasonCode::NotAuthorized),
        };
        Box::pin(std::future::ready(Ok(result)))
    }

    fn authorize_publish<'a>(
        &'a self,
        _client_id: &str,
        _user: Option<&'a str>,
        topic: &'a str,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        let allowed = self
            .identity
            .as_ref()
            .is_some_and(|identity| identity.may_publish(topic));
        Box::pin(std::future::ready(allowed))
    }

    fn authorize_subscribe<'a>(
        &'a self,
        _client_id: &str,
        _user: Option<&'a str>,
        filter: &'a str,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        let allowed = self
            .identity
            .as_ref()
            .is_some_and(|identity| identity.may_subscribe(filter));
        Box::pin(std::future::ready(allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> Identity {
        Identity {
            sn: "SN1".into(),
            thing: "thing-1".into(),
        }
    }

    #[test]
    fn connecting_is_for_the_thing_and_its_proof() {
        for (client_id, may) in [
            ("thing-1", true),
            ("thing-1-proof", true),
            ("thing-1-proof-proof", false),
            ("thing-2-proof", false),
            ("thing", false),
            ("-proof", false),
        ] {
            assert_eq!(device().may_connect_as(client_id), may, "{client_id}");
        }
    }

    #[test]
    fn publishing_is_for_own_topics() {
        for topic in [
            "c/d/SN1/status",
            "c/d/SN1/remotetoken/req",
            "$aws/things/thing-1/shadow/name/config/get",
            "$aws/things/thing-1/shadow/update",
        ] {
            assert!(device().may_publish(topic), "{topic}");
        }
        for topic in [
            "c/platform",
            "c/d/SN2/status",
            "c/d/SN1",
            "c/d/SN1/",
            "c/d/SN12/status",
            "$aws/things/SN1/shadow/update",
            "$aws/things/thing-1/shadow/update/accepted",
            "$SYS/broker",
        ] {
            assert!(!device().may_publish(topic), "{topic}");
        }
    }

    #[test]
    fn subscribing_is_for_own_topics_and_the_broadcast() {
        for filter in [
            "c/platform",
            "c/d/SN1/+/res",
            "c/d/SN1/#",
            "$aws/things/thing-1/shadow/name/config/+/accepted",
        ] {
            assert!(device().may_subscribe(filter), "{filter}");
        }
        for filter in [
            "#",
            "c/#",
            "c/d/+/status",
            "c/d/SN2/+/res",
            "$share/g/c/d/SN1/+/res",
            "$aws/things/+/shadow/#",
            "+/platform",
        ] {
            assert!(!device().may_subscribe(filter), "{filter}");
        }
    }
}
