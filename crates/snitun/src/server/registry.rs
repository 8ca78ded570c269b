//! Registry of connected devices by host name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

use crate::close::CloseReason;
use crate::driver::TunnelHandle;

/// Events buffered for a slow subscriber; enough for a burst of reconnecting devices.
const EVENT_BUFFER: usize = 1024;

/// Events of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerEvent {
    /// A device's tunnel is up.
    Connected {
        /// Its host name, in lower case.
        hostname: String,
    },
    /// A device's tunnel has ended.
    Disconnected {
        /// Its host name, in lower case.
        hostname: String,
        /// The reason.
        reason: CloseReason,
    },
}

/// A connected device.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) hostname: String,
    aliases: Vec<String>,
    pub(super) tunnel: TunnelHandle,
}

impl Peer {
    pub(super) fn new(hostname: &str, aliases: &[String], tunnel: TunnelHandle) -> Self {
        Self {
            hostname: canonical(hostname),
            aliases: aliases.iter().map(|alias| canonical(alias)).collect(),
            tunnel,
        }
    }
}

/// Normalizes a host name: case and a final dot do not matter.
pub(super) fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Maps names to devices. A device's own host name takes precedence over another device's alias,
/// which is used only while no device with that host name is connected.
#[derive(Debug)]
pub(super) struct Registry {
    names: Mutex<Names>,
    events: broadcast::Sender<ServerEvent>,
}

#[derive(Debug, Default)]
struct Names {
    peers: HashMap<String, Arc<Peer>>,
    aliases: HashMap<String, Arc<Peer>>,
}

impl Names {
    /// Removes a peer; returns whether it was registered.
    fn remove(&mut self, peer: &Arc<Peer>) -> bool {
        for alias in &peer.aliases {
            remove_if_owned(&mut self.aliases, alias, peer);
        }
        remove_if_owned(&mut self.peers, &peer.hostname, peer)
    }
}

/// Removes an entry if it belongs to the peer.
fn remove_if_owned(names: &mut HashMap<String, Arc<Peer>>, name: &str, peer: &Arc<Peer>) -> bool {
    let own = names
        .get(name)
        .is_some_and(|entry| Arc::ptr_eq(entry, peer));
    if own {
        names.remove(name);
    }
    own
}

impl Registry {
    pub(super) fn new() -> Self {
        Self {
            names: Mutex::default(),
            events: broadcast::Sender::new(EVENT_BUFFER),
        }
    }

    /// Registers a peer under all its names. A peer with the same host name is closed; an alias
    /// goes to the peer that claimed it last.
    pub(super) fn insert(&self, peer: &Arc<Peer>) {
        let replaced = {
            let mut names = self.lock();
            let replaced = names.peers.get(&peer.hostname).cloned();
            if let Some(old) = &replaced {
                names.remove(old);
            }
            names.peers.insert(peer.hostname.clone(), Arc::clone(peer));
            for alias in &peer.aliases {
                names.aliases.insert(alias.clone(), Arc::clone(peer));
            }
            replaced
        };
        if let Some(old) = replaced {
            old.tunnel.close_because(CloseReason::Replaced);
            self.emit(ServerEvent::Disconnected {
                hostname: old.hostname.clone(),
                reason: CloseReason::Replaced,
            });
        }
        self.emit(ServerEvent::Connected {
            hostname: peer.hostname.clone(),
        });
    }

    /// Removes a peer, unless another has replaced it.
    pub(super) fn remove(&self, peer: &Arc<Peer>, reason: CloseReason) {
        let was_there = self.lock().remove(peer);
        if was_there {
            self.emit(ServerEvent::Disconnected {
                hostname: peer.hostname.clone(),
                reason,
            });
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<Arc<Peer>> {
        let name = canonical(name);
        let names = self.lock();
        let found = names.peers.get(&name).or_else(|| names.aliases.get(&name));
        found.cloned()
    }

    /// Returns the host names, without aliases, sorted.
    pub(super) fn hostnames(&self) -> Vec<String> {
        let mut hostnames: Vec<_> = self.lock().peers.keys().cloned().collect();
        hostnames.sort_unstable();
        hostnames
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<ServerEvent> {
        self.events.subscribe()
    }

    fn emit(&self, event: ServerEvent) {
        // Without a subscriber, the event is dropped.
        let _ = self.events.send(event);
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
