//! The request limit: the number of concurrent requests in total and per caller, and the queue of
//! waiting ones.
//!
//! The limits are by default those of public connections. Over HTTP/1.1 they add nothing, but one
//! HTTP/2 connection carries a hundred requests, each of which takes a connection to a local
//! application and thus a file descriptor: without a limit, one caller could use up all descriptors
//! of the process, including that of the session to the platform. A caller at its limit may queue
//! some requests, because a page may consist of a hundred parts. Queued requests are held in memory
//! with their headers, so the queue is bounded in number and in bytes; requests beyond it are
//! refused at once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use tokio::sync::oneshot;

use crate::limits::exchange::Exchange;
use crate::limits::fair_share::{Caller, FairShare, KnownCallers, LimitReached};

/// The queue of one caller: two pages of a hundred parts, with large cookies.
const QUEUE_PER_CALLER: Bound = Bound {
    requests: 200,
    bytes: 1024 * 1024,
};
/// The queue of all callers.
const QUEUE_TOTAL: Bound = Bound {
    requests: 1_000,
    bytes: 4 * 1024 * 1024,
};
/// The memory that a header field takes in addition to its text.
const FIELD_OVERHEAD: usize = 128;

/// A bound of a queue.
#[derive(Debug, Clone, Copy)]
struct Bound {
    requests: usize,
    bytes: usize,
}

/// The size of a queue.
#[derive(Debug, Default)]
struct Load {
    requests: usize,
    bytes: usize,
}

impl Load {
    fn has_room(&self, size: usize, bound: Bound) -> bool {
        self.requests < bound.requests && self.bytes.saturating_add(size) <= bound.bytes
    }

    fn add(&mut self, size: usize) {
        self.requests += 1;
        self.bytes += size;
    }

    fn remove(&mut self, size: usize) {
        self.requests -= 1;
        self.bytes -= size;
    }
}

/// Limits the requests of all callers. Clones share the places.
#[derive(Debug, Clone)]
pub(crate) struct RequestLimiter(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    places: FairShare<Exchange>,
    queues: HashMap<Caller, Queue>,
    load: Load,
    next: u64,
}

#[derive(Debug, Default)]
struct Queue {
    waiters: VecDeque<Waiter>,
    load: Load,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    size: usize,
    exchange: Arc<Exchange>,
    place: oneshot::Sender<u64>,
}

/// The place of a request; released on drop.
#[derive(Debug)]
pub(crate) struct RequestPermit {
    place: u64,
    limiter: RequestLimiter,
}

/// The result of a request's admission.
#[derive(Debug)]
pub(crate) enum Admission {
    /// The request has a place.
    Admitted(RequestPermit),
    /// The request has to wait.
    Queued(QueuedRequest),
    /// There is no place, and none in the queue.
    Refused(LimitReached),
}

/// A waiting request; it leaves the queue on drop.
#[derive(Debug)]
pub(crate) struct QueuedRequest {
    caller: Caller,
    id: u64,
    limit: LimitReached,
    place: oneshot::Receiver<u64>,
    limiter: RequestLimiter,
}

/// Returns the approximate size of a request's header in memory.
pub(crate) fn header_size(headers: &HeaderMap) -> usize {
    let text = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD);
    text.sum()
}

impl RequestLimiter {
    pub(crate) fn new(limit: usize, per_caller: usize, known: KnownCallers) -> Self {
        Self(Arc::new(Mutex::new(State {
            places: FairShare::new(limit, per_caller, known),
            queues: HashMap::new(),
            load: Load::default(),
            next: 0,
        })))
    }

    /// Changes the limits for later requests.
    pub(crate) fn set_limits(&self, limit: usize, per_caller: usize) {
        self.lock().places.set_limits(limit, per_caller);
    }

    /// Requests a place for a request whose header takes `size` bytes.
    pub(crate) fn admit(&self, caller: Caller, exchange: &Arc<Exchange>, size: usize) -> Admission {
        let mut state = self.lock();
        let limit = match state.places.take(caller, Arc::clone(exchange)) {
            Ok(place) => {
                return Admission::Admitted(RequestPermit {
                    place,
                    limiter: self.clone(),
                });
            }
            Err(limit) => limit,
        };
        // A caller with its share must not wait ahead of callers with less.
        let has_its_share = state.places.count(caller) >= state.places.share();
        if limit != LimitReached::PerCaller && has_its_share {
            return Admission::Refused(limit);
        }
        let state = &mut *state;
        let queue = state.queues.entry(caller).or_default();
        if !state.load.has_room(size, QUEUE_TOTAL) || !queue.load.has_room(size, QUEUE_PER_CALLER) {
            if queue.waiters.is_empty() {
                state.queues.remove(&caller);
            }
            return Admission::Refused(limit);
        }
        let (sender, place) = oneshot::channel();
        let id = state.next;
        state.next += 1;
        state.load.add(size);
        queue.load.add(size);
        queue.waiters.push_back(Waiter {
            id,
            size,
            exchange: Arc::clone(exchange),
            place: sender,
        });
        Admission::Queued(QueuedRequest {
            caller,
            id,
            limit,
            place,
            limiter: self.clone(),
        })
    }

    /// Ends the exchanges whose callers are slower than `rate` bytes per second. Returns the number
    /// of slow and of all exchanges. Time also makes room beside long-lived streams.
    pub(crate) fn end_slow(&self, rate: u32) -> (usize, usize) {
        let mut state = self.lock();
        state.grant_all();
        let (mut slow, mut all) = (0, 0);
        for exchange in state.places.holders() {
            all += 1;
            if exchange.is_too_slow(rate) {
                slow += 1;
                exchange.end();
            }
        }
        (slow, all)
    }

    /// Returns the number of places in use.
    pub(crate) fn in_use(&self) -> usize {
        self.lock().places.taken()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn release(&mut self, place: u64) {
        self.places.release(place);
        // Usually one place is free for one waiter, but a waiter may have left.
        self.grant_all();
    }

    fn grant_all(&mut self) {
        while !self.queues.is_empty() && self.grant() {}
    }

    /// Gives a place to the next waiting request of the caller with the fewest places. Returns
    /// whether a place was given.
    fn grant(&mut self) -> bool {
        let mut callers: Vec<(usize, u64, Caller)> = self
            .queues
            .iter()
            .filter_map(|(caller, queue)| {
                let first = queue.waiters.front()?;
                Some((self.places.count(*caller), first.id, *caller))
            })
            .collect();
        callers.sort_unstable_by_key(|(count, id, _)| (*count, *id));
        for (_, _, caller) in callers {
            let Some(exchange) = self
                .queues
                .get(&caller)
                .and_then(|queue| queue.waiters.front())
                .map(|waiter| Arc::clone(&waiter.exchange))
            else {
                continue;
            };
            let Ok(place) = self.places.take(caller, exchange) else {
                continue;
            };
            let waiter = self.dequeue(caller, |_| true);
            if waiter.is_none_or(|waiter| waiter.place.send(place).is_err()) {
                self.places.release(place);
            }
            return true;
        }
        false
    }

    /// Removes the first matching waiter from its caller's queue.
    fn dequeue(&mut self, caller: Caller, matches: impl Fn(&Waiter) -> bool) -> Option<Waiter> {
        let queue = self.queues.get_mut(&caller)?;
        let index = queue.waiters.iter().position(matches)?;
        let waiter = queue.waiters.remove(index)?;
        queue.load.remove(waiter.size);
        self.load.remove(waiter.size);
        if queue.waiters.is_empty() {
            self.queues.remove(&caller);
        }
        Some(waiter)
    }
}

impl QueuedRequest {
    /// Returns the limit for which the request waits.
    pub(crate) fn limit(&self) -> LimitReached {
        self.limit
    }

    /// Waits for a place. Returns `None` if the limiter is gone.
    pub(crate) async fn permit(mut self) -> Option<RequestPermit> {
        let place = (&mut self.place).await.ok()?;
        Some(RequestPermit {
            place,
            limiter: self.limiter.clone(),
        })
    }
}

impl Drop for QueuedRequest {
    fn drop(&mut self) {
        let mut state = self.limiter.lock();
        if state
            .dequeue(self.caller, |waiter| waiter.id == self.id)
            .is_none()
            && let Ok(place) = self.place.try_recv()
        {
            state.release(place);
        }
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.limiter.lock().release(self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use futures_util::FutureExt;

    use super::*;

    fn address(number: u8) -> Caller {
        Caller::new(Some(IpAddr::from([192, 0, 2, number])), 0)
    }

    fn limiter(limit: usize, per_caller: usize) -> RequestLimiter {
        RequestLimiter::new(limit, per_caller, KnownCallers::default())
    }

    fn ask(limiter: &RequestLimiter, number: u8) -> Admission {
        let exchange = Arc::new(Exchange::new(true, Arc::default()));
        limiter.admit(address(number), &exchange, 1_000)
    }

    fn admitted(limiter: &RequestLimiter, number: u8) -> RequestPermit {
        match ask(limiter, number) {
            Admission::Admitted(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    fn queued(limiter: &RequestLimiter, number: u8) -> QueuedRequest {
        match ask(limiter, number) {
            Admission::Queued(queued) => queued,
            other => panic!("{other:?}"),
        }
    }

    fn is_idle(limiter: &RequestLimiter) -> bool {
        let state = limiter.lock();
        state.places.taken() == 0 && state.queues.is_empty() && state.load.bytes == 0
    }

    #[tokio::test(start_paused = true)]
    async fn caller_at_its_limit_waits_in_order() {
        let limiter = limiter(8, 2);
        let (first, second) = (admitted(&limiter, 1), admitted(&limiter, 1));
        let (mut third, mut fourth) = (
            Box::pin(queued(&limiter, 1).permit()),
            Box::pin(queued(&limiter, 1).permit()),
        );
        let other = admitted(&limiter, 2);
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        let third = third.await.unwrap();
        assert!(fourth.as_mut().now_or_never().is_none());
        drop(second);
        let fourth = fourth.await.unwrap();
        drop((third, fourth, other));
        assert!(is_idle(&limiter));
    }

    /// Event streams stay open, so that waiting for one of them to end is in vain.
    #[tokio::test(start_paused = true)]
    async fn waiting_request_is_admitted_beside_long_lived_streams() {
        let limiter = limiter(8, 2);
        let exchanges = [true; 2].map(|_| Arc::new(Exchange::new(true, Arc::default())));
        let streams = exchanges.each_ref().map(|exchange| {
            let admission = limiter.admit(address(1), exchange, 0);
            exchange.start_response();
            admission
        });
        let mut third = Box::pin(queued(&limiter, 1).permit());
        limiter.end_slow(0);
        assert!(third.as_mut().now_or_never().is_none());
        tokio::time::advance(std::time::Duration::from_secs(2)).await;
        limiter.end_slow(0);
        let third = third.now_or_never().unwrap();
        assert!(matches!(ask(&limiter, 1), Admission::Admitted(_)));
        drop((streams, exchanges, third));
    }

    #[tokio::test(start_paused = true)]
    async fn dropped_request_leaves_queue_or_frees_place() {
        let limiter = limiter(8, 1);
        let first = admitted(&limiter, 1);
        let (second, third) = (queued(&limiter, 1), queued(&limiter, 1));
        drop(second);
        drop(first);
        // The waiter already has the place, although it was not polled.
        drop(third);
        assert!(is_idle(&limiter));
    }

    #[tokio::test(start_paused = true)]
    async fn refuses_caller_at_its_share_and_admits_others() {
        let limiter = limiter(4, 4);
        let exchanges: Vec<_> = (0..4)
            .map(|_| Arc::new(Exchange::new(true, Arc::default())))
            .collect();
        let permits: Vec<_> = exchanges
            .iter()
            .map(|exchange| limiter.admit(address(1), exchange, 0))
            .collect();
        // At its own limit, the caller waits.
        let waiting = queued(&limiter, 1);
        let other = admitted(&limiter, 2);
        let another = admitted(&limiter, 3);
        assert!(matches!(ask(&limiter, 1), Admission::Refused(_)));
        drop((permits, waiting, other, another));
        assert!(is_idle(&limiter));
    }

    #[tokio::test(start_paused = true)]
    async fn queue_is_bounded_in_requests_and_bytes() {
        let limiter = limiter(300, 1);
        let mut held = vec![];
        let exchange = || Arc::new(Exchange::new(true, Arc::default()));
        for number in 0..10 {
            held.push(ask(&limiter, number));
            let before = held.len();
            held.extend(
                std::iter::repeat_with(|| ask(&limiter, number))
                    .take_while(|admission| !matches!(admission, Admission::Refused(_))),
            );
            let waiting = held.len() - before;
            let left = QUEUE_TOTAL.requests - usize::from(number) * QUEUE_PER_CALLER.requests;
            assert_eq!(waiting, QUEUE_PER_CALLER.requests.min(left));
            if left == waiting {
                break;
            }
        }
        held.clear();
        assert!(is_idle(&limiter));

        let _first = admitted(&limiter, 1);
        let large = QUEUE_PER_CALLER.bytes / 2;
        let _second = limiter.admit(address(1), &exchange(), large);
        let _third = limiter.admit(address(1), &exchange(), large);
        let fourth = limiter.admit(address(1), &exchange(), 1);
        assert!(matches!(fourth, Admission::Refused(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn freed_place_goes_to_the_caller_with_fewest() {
        let limiter = limiter(2, 1);
        let (_first, second) = (admitted(&limiter, 1), admitted(&limiter, 2));
        let mut more = Box::pin(queued(&limiter, 1).permit());
        let mut other = Box::pin(queued(&limiter, 3).permit());
        drop(second);
        assert!(more.as_mut().now_or_never().is_none());
        other.as_mut().now_or_never().unwrap().unwrap();
    }
}
