//! The names of the steps, in their order: a contract with scripts.

pub(super) const FILES: &str = "files";
pub(super) const IOT_CERTIFICATE: &str = "certificate.iot";
pub(super) const REMOTE_CERTIFICATE: &str = "certificate.remote";
pub(super) const API_NAME: &str = "name.api";
pub(super) const BROKER_NAME: &str = "name.broker";
pub(super) const RELAY_NAME: &str = "name.relay";
pub(super) const PAGE_NAME: &str = "name.page";
pub(super) const API: &str = "api";
pub(super) const CLOCK: &str = "clock";
pub(super) const MQTT: &str = "mqtt";
pub(super) const MQTT_443: &str = "mqtt.443";
pub(super) const CLIENT_CERTIFICATE: &str = "client_certificate";
pub(super) const SUBSCRIPTIONS: &str = "subscriptions";
pub(super) const TOKEN: &str = "token";
pub(super) const TUNNEL: &str = "tunnel";
pub(super) const PAGE: &str = "page";
