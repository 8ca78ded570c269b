//! The connection limit: the number of public connections in total and per caller.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::connection_activity::ConnectionActivity;
use crate::limits::fair_share::{Caller, FairShare, KnownCallers, LimitReached};
use crate::traffic::{Traffic, Visitor, visitors};

/// Limits the connections of one remote access. The table is bounded by the total limit.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionLimiter(Arc<Mutex<Places>>);

#[derive(Debug)]
struct Places {
    shares: FairShare<ConnectionActivity>,
    next_connection: u64,
    /// The traffic of connections that are closed.
    closed: Traffic,
}

/// The place of one connection; released on drop.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    caller: Caller,
    place: u64,
    limiter: ConnectionLimiter,
}

impl ConnectionPermit {
    /// Returns the caller that the place counts for.
    pub(crate) fn caller(&self) -> Caller {
        self.caller
    }
}

impl ConnectionLimiter {
    pub(crate) fn new(limit: usize, per_caller: usize, known: KnownCallers) -> Self {
        let shares = FairShare::new(limit, per_caller, known);
        Self(Arc::new(Mutex::new(Places {
            shares,
            next_connection: 0,
            closed: Traffic::default(),
        })))
    }

    /// Takes a place for a connection, and evicts another one if none is free.
    pub(crate) fn take(
        &self,
        address: Option<IpAddr>,
        activity: Arc<ConnectionActivity>,
    ) -> Result<ConnectionPermit, LimitReached> {
        let mut places = self.lock();
        let caller = Caller::new(address, places.next_connection);
        places.next_connection += 1;
        let place = places.shares.take(caller, activity)?;
        Ok(ConnectionPermit {
            caller,
            place,
            limiter: self.clone(),
        })
    }

    /// Changes the limits for later connections.
    pub(crate) fn set_limits(&self, limit: usize, per_caller: usize) {
        self.lock().shares.set_limits(limit, per_caller);
    }

    /// Returns the number of places in use.
    pub(crate) fn in_use(&self) -> usize {
        self.lock().shares.taken()
    }

    /// Returns the traffic of all connections so far.
    pub(crate) fn traffic(&self) -> Traffic {
        let places = self.lock();
        let mut traffic = places.closed;
        for connection in places.shares.holders() {
            traffic.add(connection.traffic());
        }
        traffic
    }

    /// Returns the callers with open connections.
    pub(crate) fn visitors(&self) -> Vec<Visitor> {
        visitors(self.lock().shares.holders().map(|holder| holder.traffic()))
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut places = self.limiter.lock();
        if let Some(connection) = places.shares.release(self.place) {
            places.closed.add(connection.traffic());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dropped_permit_frees_its_place() {
        let limiter = ConnectionLimiter::new(2, 1, KnownCallers::default());
        let take = |last| {
            let address = Some(IpAddr::from([192, 0, 2, last]));
            limiter.take(address, Arc::default())
        };
        let first = take(1).unwrap();
        assert_eq!(take(1).unwrap_err(), LimitReached::PerCaller);
        let _second = take(2).unwrap();
        assert_eq!(take(3).unwrap_err(), LimitReached::Total);
        drop(first);
        assert_eq!(limiter.in_use(), 1);
        take(3).unwrap();
    }
}
