//! The receive windows of HTTP/2 connections and their streams.
//!
//! A connection's window is several times that of a stream, so that uploads that the application
//! does not read leave room for the others on their connection (RFC 9113 §5.2). The windows are
//! what callers may make the device hold, so all connections share a budget: each takes an eighth
//! of what is left, and [`MIN_CONNECTION`] in any case.

use std::sync::{Arc, Mutex, PoisonError};

/// Streams whose data fills the window of their connection.
pub(crate) const STREAMS: u32 = 4;
/// The window of a connection for 5 MB/s per stream at 100 ms.
const MAX_CONNECTION: u32 = STREAMS * 512 * 1024;
/// The initial value of HTTP/2, below which a connection's window cannot be (RFC 9113 §6.9.2). 256
/// connections hold 16 MiB.
const MIN_CONNECTION: u32 = 65_535;
/// What all connections share beyond their minimum.
const BUDGET: u32 = 16 * 1024 * 1024;

/// The windows of all connections. Clones share the budget.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReceiveBudget(Arc<Mutex<u32>>);

/// The windows of one connection; returned to the budget on drop.
#[derive(Debug)]
pub(crate) struct ReceiveWindow {
    taken: u32,
    budget: ReceiveBudget,
}

impl ReceiveBudget {
    pub(crate) fn take(&self) -> ReceiveWindow {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = ((BUDGET - *used) / 8).min(MAX_CONNECTION - MIN_CONNECTION);
        *used += taken;
        ReceiveWindow {
            taken,
            budget: self.clone(),
        }
    }
}

impl ReceiveWindow {
    /// Returns the window of the connection.
    pub(crate) fn connection(&self) -> u32 {
        MIN_CONNECTION + self.taken
    }

    /// Returns the window of each stream.
    pub(crate) fn stream(&self) -> u32 {
        self.connection() / STREAMS
    }
}

impl Drop for ReceiveWindow {
    fn drop(&mut self) {
        *self.budget.0.lock().unwrap_or_else(PoisonError::into_inner) -= self.taken;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_all_connections_are_bounded_and_returned() {
        let budget = ReceiveBudget::default();
        let windows: Vec<_> = (0..256).map(|_| budget.take()).collect();
        assert_eq!(windows[0].connection(), MAX_CONNECTION);
        assert_eq!(windows[0].stream(), 512 * 1024);
        for window in &windows {
            assert!(window.stream() * STREAMS <= window.connection());
            assert!(window.connection() >= MIN_CONNECTION);
        }
        let total: u64 = windows.iter().map(|w| u64::from(w.connection())).sum();
        assert!(total <= 32 * 1024 * 1024, "{total}");
        drop(windows);
        assert_eq!(budget.take().connection(), MAX_CONNECTION);
    }
}
