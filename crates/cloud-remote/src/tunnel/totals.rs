//! The counters of all tunnels since the start.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use snitun::TunnelStats;
use snitun::client::TunnelHandle;

/// See the [module](self). Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct TunnelTotals(Arc<Mutex<Totals>>);

#[derive(Debug, Default)]
struct Totals {
    ended: TunnelStats,
    /// The tunnel, and during a handover the one that it replaces.
    running: Vec<(u64, TunnelHandle)>,
    next_id: u64,
}

impl TunnelTotals {
    /// Includes a tunnel.
    pub(crate) fn add(&self, tunnel: TunnelHandle) -> CountedTunnel {
        let mut totals = self.totals();
        let id = totals.next_id;
        totals.next_id += 1;
        totals.running.push((id, tunnel));
        let all = self.clone();
        CountedTunnel { id, all }
    }

    pub(crate) fn stats(&self) -> TunnelStats {
        let totals = self.totals();
        let mut stats = totals.ended;
        for (_, tunnel) in &totals.running {
            stats.add(&tunnel.stats());
        }
        stats
    }

    fn totals(&self) -> MutexGuard<'_, Totals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the counters of a tunnel that is dropped.
#[derive(Debug)]
pub(crate) struct CountedTunnel {
    id: u64,
    all: TunnelTotals,
}

impl Drop for CountedTunnel {
    fn drop(&mut self) {
        let mut totals = self.all.totals();
        let index = totals.running.iter().position(|(id, _)| *id == self.id);
        if let Some(index) = index {
            let (_, tunnel) = totals.running.swap_remove(index);
            totals.ended.add(&tunnel.stats());
        }
    }
}
