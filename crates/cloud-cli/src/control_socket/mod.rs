//! The control socket of a running instance: HTTP/1.1 with JSON on a Unix socket, for commands and
//! for other programs of the same user. `docs/control-socket.md` describes the endpoints; their
//! paths begin with the version, and names and fields stay.
//!
//! The lock of the directory, not the socket, excludes a second instance; without a socket only
//! what goes through it is unavailable. A command without a running instance serves the same
//! endpoints to itself, over a session of its own, so both ways have one implementation.
//!
//! Invariants: only the same user and root are served; connections, streams, bodies and lines are
//! bounded; no handler waits without a time limit, so that a client that hangs delays neither the
//! device nor its end; no response contains a secret.

mod access;
mod action_registry;
mod actions;
mod api_error;
mod client;
mod doctor;
mod events;
mod held_messages;
mod instance;
mod json_body;
mod json_lines;
mod log;
mod message_lines;
mod path;
mod payload;
mod publish;
mod request;
mod router;
mod server;
mod shadow;
mod status;
mod subscribe;
mod unacknowledged_messages;

pub(crate) use self::client::{ControlClient, JsonLines, blocking_status, running_instance};
pub(crate) use self::instance::Instance;
pub(crate) use self::publish::WaitFor;
pub(crate) use self::router::router;
pub(crate) use self::server::ControlSocket;
pub(crate) use self::status::{InstanceStatus, VisitorStatus};

/// The version of the endpoints, the first segment of each path.
const VERSION: &str = "v1";
