//! How many requests may be with a local application at once, in all and from one address.
//!
//! As many as public connections. Over HTTP/1.1 that says nothing new, but one connection of HTTP/2 carries a hundred requests,
//! and each of them takes a connection to the application, thus a file descriptor: without a bound, one caller could take all
//! that the process has, and with them the session to the platform. Unlike a connection, a request waits until there is room:
//! a page may well be made of a hundred pieces.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Those of all addresses together.
#[derive(Debug, Clone)]
pub(crate) struct AllTurns(Arc<Semaphore>);

/// Where those of one address queue. Clones are the same queue.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
}

/// A request's turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

fn semaphore(limit: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)))
}

impl AllTurns {
    /// For so many requests at once.
    pub(crate) fn new(limit: usize) -> Self {
        Self(semaphore(limit))
    }

    /// For so many of these, which come from one address.
    pub(crate) fn of_one_address(&self, limit: usize) -> Turns {
        Turns {
            all: Arc::clone(&self.0),
            own: semaphore(limit),
        }
    }
}

impl Turns {
    /// Waits for a turn, in the order of the calls. `None` is for semaphores that were closed, which these never are. When the
    /// future is dropped, the place in the queue is lost and nothing else.
    pub(crate) async fn take(&self) -> Option<Turn> {
        let own = Arc::clone(&self.own).acquire_owned().await.ok()?;
        let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Turn {
            _own: own,
            _all: all,
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn one_address_is_bounded_and_all_are() {
        let all = AllTurns::new(3);
        let (one, other) = (all.of_one_address(2), all.of_one_address(usize::MAX));
        let take = |turns: &Turns| turns.take().now_or_never().flatten();
        let first = take(&one).unwrap();
        let _second = take(&one).unwrap();
        assert!(take(&one).is_none());
        let _third = take(&other).unwrap();
        assert!(take(&other).is_none());
        drop(first);
        assert!(take(&other).is_some());
        assert!(take(&one).is_some());
    }
}
