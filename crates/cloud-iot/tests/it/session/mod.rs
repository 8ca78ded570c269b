//! The session against a real broker, and against a scripted peer.

mod causes;
mod delivery;
mod faults;
mod firewall;
mod lifecycle;
mod log_shipping;
mod outbox_store;
mod proxy;
mod requests;
mod routing;
mod slow_handlers;
mod slow_uplink;
mod tolerance;
