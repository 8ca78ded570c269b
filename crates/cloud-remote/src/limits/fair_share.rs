//! Fair sharing of places (for connections and for requests) among callers.
//!
//! While places are free, a caller gets them up to its own limit. When all are taken, a new caller
//! evicts another one: one with more places than the new caller would then have, one whose place is
//! unused or stalled, or one that was served for the first time after the new caller. A caller that
//! has been known for long keeps a quarter of its own limit against newer ones. So neither a few
//! callers with many connections nor many callers with one each exclude the others.
//!
//! An IPv6 /64 network counts as one caller, because a host with one of its addresses has all of
//! them (RFC 4291 §2.5.4, RFC 6177). A caller with an unknown address is identified by its
//! connection, and all of these together get half of the places, because one caller may have all of
//! them. Among these, one without a first request yields at once to a new one, the oldest first,
//! as half-open connections of a listening socket do: a caller sends its request soon.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Shorter waits for a caller are normal.
pub(crate) const STALLED: Duration = Duration::from_secs(1);
/// An unused place can be evicted after this time: a TLS handshake over a slow line takes about as
/// long.
const UNUSED_GRACE: Duration = Duration::from_secs(2);
/// A stalled place can be evicted after this time.
const STALLED_GRACE: Duration = Duration::from_secs(5);
/// A stream that has been open for this long does not count towards its caller's limit: an office
/// has one address, and each of its browsers keeps a stream open.
const STREAMING_SINCE: Duration = Duration::from_secs(2);
/// Evicted holders need a moment to end. At least this many of them may remain, independently of
/// the number of places.
const MIN_EVICTED: usize = 8;

/// Maximum number of remembered callers: a household has a few, a busy device some hundred.
const KNOWN_CALLERS: usize = 1_024;
/// A caller that was first served at least this long ago is preferred to newer ones.
const KNOWN_SINCE: Duration = Duration::from_secs(60);
/// A caller that has not been served for this long can be forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The holder of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// An IPv4 address, or an IPv6 network.
    Network(IpAddr),
    /// A connection with an unknown address.
    Unknown(u64),
}

impl Caller {
    /// Returns the caller with this address, or of the connection with this number.
    pub(crate) fn new(address: Option<IpAddr>, connection: u64) -> Self {
        match address.map(|address| address.to_canonical()) {
            Some(IpAddr::V6(address)) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                Self::Network(IpAddr::V6(network.into()))
            }
            Some(address) => Self::Network(address),
            None => Self::Unknown(connection),
        }
    }

    fn is_unknown(self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

/// The use of a place. The greatest value is evicted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Claim {
    /// In use for this long.
    Active(Duration),
    /// Open for this long as a stream that waits for the application: events, a WebSocket.
    Streaming(Duration),
    /// Waiting for the caller for this long.
    Stalled(Duration),
    /// Without a request for this long.
    Unused(Duration),
}

impl Claim {
    /// Returns whether any other caller may take the place.
    fn is_weak(self) -> bool {
        match self {
            Self::Active(_) | Self::Streaming(_) => false,
            Self::Stalled(time) => time >= STALLED_GRACE,
            Self::Unused(time) => time >= UNUSED_GRACE,
        }
    }
}

/// The holder of a place: a connection or an exchange.
pub(crate) trait Holder {
    /// Returns the use of the place.
    fn claim(&self) -> Claim;
    /// Returns whether the first request has arrived.
    fn has_begun(&self) -> bool;
    /// Ends the holder soon; its place belongs to another caller from now on.
    fn evict(&self);
}

/// The limit that a caller has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitReached {
    /// The total limit.
    Total,
    /// The limit per caller.
    PerCaller,
    /// The limit of callers with an unknown address.
    Unknown,
}

/// The callers that were served, with the time of their first request. Clones share the table,
/// which is bounded by [`KNOWN_CALLERS`].
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownCallers(Arc<Mutex<HashMap<Caller, Served>>>);

#[derive(Debug, Clone, Copy)]
struct Served {
    first: Instant,
    last: Instant,
}

impl KnownCallers {
    /// Remembers a caller whose request was successful.
    pub(crate) fn served(&self, caller: Caller) {
        if caller.is_unknown() {
            return;
        }
        let now = Instant::now();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(served) = known.get_mut(&caller) {
            served.last = now;
            return;
        }
        if known.len() >= KNOWN_CALLERS {
            // Many new callers must not displace older ones.
            let oldest = known
                .iter()
                .min_by_key(|(_, served)| served.last)
                .filter(|(_, served)| now.duration_since(served.last) >= FORGOTTEN_AFTER)
                .map(|(caller, _)| *caller);
            match oldest {
                Some(oldest) => known.remove(&oldest),
                None => return,
            };
        }
        known.insert(
            caller,
            Served {
                first: now,
                last: now,
            },
        );
    }

    /// Returns since when a caller is known, if that is long enough.
    fn since(&self, caller: Caller) -> Option<Instant> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = known.get(&caller)?.first;
        (first.elapsed() >= KNOWN_SINCE).then_some(first)
    }
}

/// The places of one kind and their holders.
#[derive(Debug)]
pub(crate) struct FairShare<H> {
    places: usize,
    per_caller: usize,
    known: KnownCallers,
    holders: HashMap<u64, Place<H>>,
    /// The number of places of each caller, without evicted ones.
    counts: HashMap<Caller, usize>,
    unknown: usize,
    evicted: usize,
    next: u64,
}

#[derive(Debug)]
struct Place<H> {
    caller: Caller,
    holder: Arc<H>,
    evicted: bool,
}

impl<H: Holder> FairShare<H> {
    pub(crate) fn new(places: usize, per_caller: usize, known: KnownCallers) -> Self {
        Self {
            places,
            per_caller,
            known,
            holders: HashMap::new(),
            counts: HashMap::new(),
            unknown: 0,
            evicted: 0,
            next: 0,
        }
    }

    /// Changes the limits for later places. Holders beyond the new limits stay.
    pub(crate) fn set_limits(&mut self, places: usize, per_caller: usize) {
        self.places = places;
        self.per_caller = per_caller;
    }

    /// Takes a place, and evicts another holder if none is free. Returns the number of the place,
    /// for [`FairShare::release`].
    pub(crate) fn take(&mut self, caller: Caller, holder: Arc<H>) -> Result<u64, LimitReached> {
        let own = self.count(caller);
        let limit = if own >= self.per_caller && !self.has_room_beside_streams(caller, own) {
            Some(LimitReached::PerCaller)
        } else if caller.is_unknown() && self.unknown >= self.places.div_ceil(2) {
            Some(LimitReached::Unknown)
        } else if self.taken() >= self.places {
            Some(LimitReached::Total)
        } else {
            None
        };
        if let Some(limit) = limit {
            if self.per_caller == 0 || self.evicted >= (self.places / 4).max(MIN_EVICTED) {
                return Err(limit);
            }
            let victim = self.victim(caller, own, limit).ok_or(limit)?;
            self.evict(victim);
        }
        let id = self.next;
        self.next += 1;
        *self.counts.entry(caller).or_default() += 1;
        self.unknown += usize::from(caller.is_unknown());
        self.holders.insert(
            id,
            Place {
                caller,
                holder,
                evicted: false,
            },
        );
        Ok(id)
    }

    /// Returns whether a caller has reached its limit only because of long-lived streams. These
    /// take at most three quarters of all places, and can be evicted for other callers.
    fn has_room_beside_streams(&self, caller: Caller, own: usize) -> bool {
        let own_places = self.holders.values();
        own < self.places / 4 * 3
            && own_places
                .filter(|place| place.caller == caller && !place.evicted)
                .filter(|place| {
                    !matches!(place.holder.claim(), Claim::Streaming(time) if time >= STREAMING_SINCE)
                })
                .take(self.per_caller)
                .count()
                < self.per_caller
    }

    /// Selects the place to evict for `caller`, which has `own` places and has reached `limit`.
    fn victim(&self, caller: Caller, own: usize, limit: LimitReached) -> Option<u64> {
        let since = self.known.since(caller);
        let candidates = self.holders.iter().filter(|(_, place)| {
            !place.evicted
                && match limit {
                    LimitReached::Total => true,
                    LimitReached::PerCaller => place.caller == caller,
                    LimitReached::Unknown => place.caller.is_unknown(),
                }
        });
        candidates
            .filter_map(|(id, place)| {
                let claim = place.holder.claim();
                let newer = self.is_newer(place.caller, since);
                // After the eviction, the victim's caller has no fewer places than the new caller,
                // nor than it keeps.
                let least = if newer { 0 } else { self.kept(place.caller) };
                let surplus = self
                    .count(place.caller)
                    .saturating_sub((own + 1).max(least));
                let yields = match limit {
                    LimitReached::PerCaller => claim.is_weak(),
                    LimitReached::Unknown => {
                        claim.is_weak() || surplus > 0 || !place.holder.has_begun()
                    }
                    LimitReached::Total => claim.is_weak() || surplus > 0 || newer,
                };
                yields.then_some((surplus, newer, claim, *id))
            })
            .max_by_key(|(surplus, newer, claim, _)| (*surplus, *newer, *claim))
            .map(|(.., id)| id)
    }

    /// Returns the number of places that a caller keeps against newer ones while it uses them.
    fn kept(&self, caller: Caller) -> usize {
        match self.known.since(caller) {
            Some(_) => self.per_caller.div_ceil(4),
            None => 0,
        }
    }

    /// Returns whether a caller is known only after `since`.
    fn is_newer(&self, caller: Caller, since: Option<Instant>) -> bool {
        since.is_some_and(|since| self.known.since(caller).is_none_or(|other| other > since))
    }

    fn evict(&mut self, id: u64) {
        let Some(place) = self.holders.get_mut(&id) else {
            return;
        };
        place.evicted = true;
        let (caller, holder) = (place.caller, Arc::clone(&place.holder));
        self.evicted += 1;
        self.uncount(caller);
        holder.evict();
    }

    /// Releases a place, and returns its holder.
    pub(crate) fn release(&mut self, id: u64) -> Option<Arc<H>> {
        let place = self.holders.remove(&id)?;
        if place.evicted {
            self.evicted -= 1;
        } else {
            self.uncount(place.caller);
        }
        release_memory(&mut self.holders);
        release_memory(&mut self.counts);
        Some(place.holder)
    }

    fn uncount(&mut self, caller: Caller) {
        self.unknown -= usize::from(caller.is_unknown());
        if let Some(count) = self.counts.get_mut(&caller) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&caller);
            }
        }
    }

    /// Returns the number of places of a caller.
    pub(crate) fn count(&self, caller: Caller) -> usize {
        self.counts.get(&caller).copied().unwrap_or(0)
    }

    /// Returns the share of each caller if all of them need many places.
    pub(crate) fn share(&self) -> usize {
        self.places.div_ceil(self.counts.len().max(1))
    }

    /// Returns the number of places taken by holders that are not evicted.
    pub(crate) fn taken(&self) -> usize {
        self.holders.len() - self.evicted
    }

    /// Returns all holders, including evicted ones.
    pub(crate) fn holders(&self) -> impl Iterator<Item = &Arc<H>> {
        self.holders.values().map(|place| &place.holder)
    }
}

/// Shrinks a table that was much larger, as after an attack.
fn release_memory<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    const SMALL: usize = 64;
    let used = table.len().max(SMALL / 4);
    if table.capacity() / 4 > used {
        table.shrink_to(used * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fake(Mutex<Claim>, Mutex<bool>);

    impl Fake {
        fn new(claim: Claim) -> Arc<Self> {
            Arc::new(Self(Mutex::new(claim), Mutex::new(false)))
        }

        fn is_evicted(&self) -> bool {
            *self.1.lock().unwrap()
        }
    }

    impl Holder for Fake {
        fn claim(&self) -> Claim {
            *self.0.lock().unwrap()
        }

        fn has_begun(&self) -> bool {
            !matches!(self.claim(), Claim::Unused(_))
        }

        fn evict(&self) {
            *self.1.lock().unwrap() = true;
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn address(number: u8) -> Caller {
        Caller::new(Some(IpAddr::from([192, 0, 2, number])), 0)
    }

    fn active() -> Arc<Fake> {
        Fake::new(Claim::Active(SECOND))
    }

    fn places(total: usize, per_caller: usize) -> FairShare<Fake> {
        FairShare::new(total, per_caller, KnownCallers::default())
    }

    #[tokio::test(start_paused = true)]
    async fn limits_hold_and_released_places_are_free_again() {
        let mut places = places(3, 2);
        let first = places.take(address(1), active()).unwrap();
        let second = places.take(address(1), active()).unwrap();
        let refused = places.take(address(1), active());
        assert_eq!(refused, Err(LimitReached::PerCaller));
        let third = places.take(address(2), active()).unwrap();
        places.release(first);
        places.take(address(3), active()).unwrap();
        let refused = places.take(address(1), active());
        assert_eq!(refused, Err(LimitReached::Total));
        places.release(second);
        places.release(third);
        assert_eq!(places.taken(), 1);
        assert_eq!(places.counts.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn tables_shrink_once_many_places_are_released() {
        let mut places = places(1_000, 1_000);
        let mut take = || places.take(address(1), active()).unwrap();
        let taken: Vec<_> = (0..1_000).map(|_| take()).collect();
        let [rest @ .., _] = &taken[..] else { panic!() };
        for id in rest {
            places.release(*id);
        }
        assert_eq!(places.taken(), 1);
        assert!(places.holders.capacity() <= 64);
    }

    #[tokio::test(start_paused = true)]
    async fn newcomer_takes_from_the_caller_with_most() {
        let mut places = places(6, 4);
        let (many, few) = (
            [active(), active(), active(), active()],
            [active(), active()],
        );
        for holder in &many {
            places.take(address(1), Arc::clone(holder)).unwrap();
        }
        for holder in &few {
            places.take(address(2), Arc::clone(holder)).unwrap();
        }
        places.take(address(3), active()).unwrap();
        places.take(address(3), active()).unwrap();
        let refused = places.take(address(3), active());
        assert_eq!(refused, Err(LimitReached::Total), "all have two");
        assert_eq!(many.iter().filter(|holder| holder.is_evicted()).count(), 2);
        assert!(!few.iter().any(|holder| holder.is_evicted()));
    }

    #[tokio::test(start_paused = true)]
    async fn unused_places_are_taken_first_and_the_fresh_are_spared() {
        let mut places = places(3, 3);
        let busy = Fake::new(Claim::Active(100 * SECOND));
        let fresh = Fake::new(Claim::Unused(SECOND));
        let unused = Fake::new(Claim::Unused(3 * SECOND));
        for (number, holder) in [&busy, &fresh, &unused].into_iter().enumerate() {
            let caller = address(u8::try_from(number).unwrap());
            places.take(caller, Arc::clone(holder)).unwrap();
        }
        places.take(address(9), active()).unwrap();
        assert!(unused.is_evicted());
        let refused = places.take(address(10), active());
        assert_eq!(refused, Err(LimitReached::Total));
        assert!(!busy.is_evicted() && !fresh.is_evicted());
    }

    #[tokio::test(start_paused = true)]
    async fn caller_at_its_limit_replaces_its_own_unused_places() {
        let mut places = places(8, 2);
        let (unused, busy) = (Fake::new(Claim::Unused(60 * SECOND)), active());
        places.take(address(1), Arc::clone(&unused)).unwrap();
        places.take(address(1), Arc::clone(&busy)).unwrap();
        places.take(address(1), active()).unwrap();
        assert!(unused.is_evicted() && !busy.is_evicted());
        assert_eq!(places.count(address(1)), 2);
    }

    /// An office with one address, whose browsers each keep an event stream open.
    #[tokio::test(start_paused = true)]
    async fn long_lived_streams_leave_room_to_their_caller_and_to_others() {
        let mut places = places(16, 4);
        let stream = || Fake::new(Claim::Streaming(STREAMING_SINCE));
        for _ in 0..12 {
            places.take(address(1), stream()).unwrap();
        }
        let refused = places.take(address(1), active());
        assert_eq!(refused, Err(LimitReached::PerCaller), "three quarters");
        for _ in 0..4 {
            places.take(address(2), active()).unwrap();
        }
        places.take(address(3), active()).unwrap();
        assert_eq!(places.count(address(1)), 11);

        // New streams count, and so does everything else.
        let mut places = self::places(16, 4);
        for _ in 0..4 {
            let new = Fake::new(Claim::Streaming(STREAMING_SINCE / 2));
            places.take(address(1), new).unwrap();
        }
        let refused = places.take(address(1), active());
        assert_eq!(refused, Err(LimitReached::PerCaller));
    }

    /// Many addresses with one place each must not exclude a household.
    #[tokio::test(start_paused = true)]
    async fn long_known_caller_gets_in_among_new_ones() {
        let known = KnownCallers::default();
        known.served(address(200));
        tokio::time::advance(KNOWN_SINCE).await;
        let mut places = FairShare::new(4, 4, known.clone());
        for number in 0..4 {
            known.served(address(number));
            places.take(address(number), active()).unwrap();
        }
        let refused = places.take(address(9), active());
        assert_eq!(refused, Err(LimitReached::Total));
        places.take(address(200), active()).unwrap();
        assert_eq!(places.taken(), 4);
    }

    /// Nor take all of its places.
    #[tokio::test(start_paused = true)]
    async fn long_known_caller_keeps_a_quarter_of_its_limit() {
        let known = KnownCallers::default();
        known.served(address(200));
        tokio::time::advance(KNOWN_SINCE).await;
        let mut places = FairShare::new(8, 8, known);
        let own: Vec<_> = (0..4).map(|_| active()).collect();
        for holder in &own {
            places.take(address(200), Arc::clone(holder)).unwrap();
        }
        for number in 0..4 {
            places.take(address(number), active()).unwrap();
        }
        for number in 10..20 {
            let _ = places.take(address(number), active());
        }
        assert_eq!(places.count(address(200)), 2);
        assert_eq!(own.iter().filter(|holder| holder.is_evicted()).count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn known_callers_are_bounded_and_newcomers_displace_none() {
        let known = KnownCallers::default();
        for number in 0..=u32::try_from(KNOWN_CALLERS).unwrap() {
            known.served(Caller::new(Some(IpAddr::from(number.to_be_bytes())), 0));
        }
        assert_eq!(known.0.lock().unwrap().len(), KNOWN_CALLERS);
        let first = Caller::new(Some(IpAddr::from([0; 4])), 0);
        assert!(known.0.lock().unwrap().contains_key(&first));
        tokio::time::advance(FORGOTTEN_AFTER).await;
        let late = address(1);
        known.served(late);
        assert_eq!(known.0.lock().unwrap().len(), KNOWN_CALLERS);
        assert!(known.0.lock().unwrap().contains_key(&late));
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_callers_are_distinct_and_leave_half_to_others() {
        let mut places = places(4, 4);
        let unknown = |connection| Caller::new(None, connection);
        let stalled = Fake::new(Claim::Stalled(6 * SECOND));
        places.take(unknown(1), Arc::clone(&stalled)).unwrap();
        places.take(unknown(2), active()).unwrap();
        places.take(unknown(3), active()).unwrap();
        assert!(stalled.is_evicted());
        let refused = places.take(unknown(4), active());
        assert_eq!(refused, Err(LimitReached::Unknown));
        places.take(address(1), active()).unwrap();
        places.take(address(1), active()).unwrap();
    }

    /// Each attacker that is refused comes again, so a place is hardly ever unused for the grace.
    #[tokio::test(start_paused = true)]
    async fn unknown_newcomer_takes_the_oldest_place_without_a_request() {
        let mut places = places(6, 4);
        let unknown = |connection| Caller::new(None, connection);
        let (older, newer) = (
            Fake::new(Claim::Unused(SECOND)),
            Fake::new(Claim::Unused(SECOND / 2)),
        );
        places.take(unknown(1), Arc::clone(&newer)).unwrap();
        places.take(unknown(2), Arc::clone(&older)).unwrap();
        places.take(unknown(3), active()).unwrap();
        places.take(unknown(4), active()).unwrap();
        assert!(older.is_evicted() && !newer.is_evicted());
        places.take(unknown(5), active()).unwrap();
        assert!(newer.is_evicted());
        let refused = places.take(unknown(6), active());
        assert_eq!(refused, Err(LimitReached::Unknown));
    }

    #[tokio::test(start_paused = true)]
    async fn evicted_holders_that_stay_are_bounded() {
        let mut places = places(16, 16);
        for _ in 0..16 {
            let unused = Fake::new(Claim::Unused(60 * SECOND));
            places.take(address(1), unused).unwrap();
        }
        let taken = (2..40).take_while(|number| {
            let unused = Fake::new(Claim::Unused(60 * SECOND));
            places.take(address(*number), unused).is_ok()
        });
        assert_eq!(taken.count(), MIN_EVICTED);
        assert_eq!(places.holders.len(), 16 + MIN_EVICTED);
    }

    /// A host with one IPv6 address has a whole network of them (RFC 6177: at least a /64).
    #[test]
    fn addresses_of_one_ipv6_network_are_one_caller() {
        let caller = |text: &str| Caller::new(Some(text.parse().unwrap()), 0);
        assert_eq!(caller("2001:db8:0:1::1"), caller("2001:db8:0:1:ffff::2"));
        assert_ne!(caller("2001:db8:0:1::1"), caller("2001:db8:0:2::1"));
        assert_eq!(caller("::ffff:192.0.2.1"), caller("192.0.2.1"));
    }
}
