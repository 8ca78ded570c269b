//! MQTT v5 terms: messages, topics and reason codes.

pub(crate) mod decode;
pub(crate) mod message;
pub(crate) mod message_properties;
pub(crate) mod property;
pub(crate) mod reader;
pub(crate) mod reason_code;
pub(crate) mod topic;
