//! The limits of AWS IoT Core's message broker, as its documents list them.

use std::time::Duration;

/// Unacknowledged QoS 1 messages each way.
pub(super) const RECEIVE_MAXIMUM: u16 = 100;

/// Bytes of a packet: the largest payload and what goes around it.
pub(super) const MAX_PACKET: usize = 149_504;

/// Bytes of a payload.
pub(super) const MAX_PAYLOAD: usize = 128 * 1024;

/// Topic aliases of a client.
pub(super) const TOPIC_ALIASES: u16 = 8;

/// Subscriptions of a connection.
pub(super) const MAX_SUBSCRIPTIONS: usize = 50;

/// Topic filters of one SUBSCRIBE or UNSUBSCRIBE.
pub(super) const MAX_FILTERS: usize = 8;

/// Bytes of a topic or a topic filter.
pub(super) const MAX_TOPIC: usize = 256;

/// Slashes of a topic or a topic filter.
const MAX_SLASHES: usize = 7;

/// The first levels of a reserved topic have this many slashes, which do not count.
const RESERVED_SLASHES: usize = 3;

/// How long a session is kept, at most.
pub(super) const SESSION_EXPIRY: Duration = Duration::from_secs(3600);

/// Seconds that a message is kept, at most.
pub(super) const MAX_MESSAGE_EXPIRY: u32 = 7 * 24 * 3600;

/// Seconds of the shortest keep-alive; a shorter one is taken for this.
const MIN_KEEP_ALIVE: u16 = 30;

/// Seconds of the longest keep-alive, and of that of a client that asks for none.
const MAX_KEEP_ALIVE: u16 = 1200;

/// The keep-alive in seconds that a client gets for the one that it asks for.
pub(super) fn granted_keep_alive(asked: u16) -> u16 {
    match asked {
        0 => MAX_KEEP_ALIVE,
        asked => asked.clamp(MIN_KEEP_ALIVE, MAX_KEEP_ALIVE),
    }
}

/// How long a client with this keep-alive may be silent.
pub(super) fn silence_limit(keep_alive: u16) -> Duration {
    Duration::from_secs(keep_alive.into()) * 3 / 2
}

/// Whether a topic belongs to AWS's services.
pub(super) fn is_reserved(topic: &str) -> bool {
    topic.starts_with("$aws/")
}

/// Whether a topic or a topic filter is longer or deeper than the broker accepts.
pub(super) fn exceeds_topic_limits(topic: &str) -> bool {
    let uncounted = if is_reserved(topic) {
        RESERVED_SLASHES
    } else {
        0
    };
    topic.len() > MAX_TOPIC || topic.matches('/').count() > MAX_SLASHES + uncounted
}
