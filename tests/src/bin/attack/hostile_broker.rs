//! A broker that accepts every client and sends what an attack requires.

use std::io::Result;
use std::thread::sleep;
use std::time::Duration;

use testkit::mqtt::{BrokerConnection, Granted, ScriptedBroker};

/// Time between a client's subscription and the attack: by then it has fetched its shadow.
const CALM: Duration = Duration::from_millis(500);

/// What the broker does once a client has subscribed.
#[derive(Clone)]
pub(crate) enum Behaviour {
    /// Sends `count` messages, these in turn.
    Flood {
        messages: Vec<(String, Vec<u8>)>,
        count: usize,
    },
    /// Sends DISCONNECT with this reason string.
    Disconnect(String),
    /// Answers each message whose topic ends with `requests`, on the topic that ends with `answers`
    /// instead.
    Answer {
        requests: String,
        answers: String,
        payload: Vec<u8>,
    },
}

pub(crate) fn start(behaviour: Behaviour) -> ScriptedBroker {
    ScriptedBroker::start(move |client, granted| attack(client, granted, &behaviour))
}

fn attack(
    client: &mut BrokerConnection,
    granted: Granted<'_>,
    behaviour: &Behaviour,
) -> Result<()> {
    match (granted, behaviour) {
        (Granted::Subscribe, Behaviour::Flood { messages, count }) => {
            sleep(CALM);
            for (topic, payload) in messages.iter().cycle().take(*count) {
                client.publish(topic.as_bytes(), payload)?;
            }
            Ok(())
        }
        (Granted::Subscribe, Behaviour::Disconnect(reason)) => {
            sleep(CALM);
            // 0x8b: the server is shutting down. The client reconnects.
            client.disconnect(0x8b, reason)
        }
        (
            Granted::Publish { topic, .. },
            Behaviour::Answer {
                requests,
                answers,
                payload,
            },
        ) => match topic.strip_suffix(requests.as_str()) {
            Some(begin) => client.publish(format!("{begin}{answers}").as_bytes(), payload),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}
