//! The host name of a local application, resolved with a cache.
//!
//! A lookup blocks a thread of the runtime while the system's resolver runs, and cannot be
//! cancelled. So there is at most one at a time per name: many callers during an outage of the name
//! server must not use up the threads that the rest of the process needs.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// Maximum addresses of a name; there is rarely more than one of each family.
const MAX_ADDRESSES: usize = 8;
/// The lifetime of a result. It serves bursts of connections; an application that moves is found a
/// moment later.
const CACHE_TTL: Duration = Duration::from_secs(1);
/// The time after which the last addresses are used instead of waiting for the resolver.
const LOOKUP_GRACE: Duration = Duration::from_millis(500);

/// A host name and a port. Clones share the resolved addresses.
#[derive(Clone)]
pub struct CachedHost {
    name: Arc<str>,
    port: u16,
    resolution: Arc<Resolution>,
}

#[derive(Default)]
struct Resolution {
    state: Mutex<State>,
    /// Notifies waiters when a lookup has ended.
    ended: Notify,
}

/// The result for all waiters, in a type that can be cloned.
type LookupResult = Result<(), (io::ErrorKind, String)>;

#[derive(Default)]
struct State {
    /// The addresses of the last successful lookup.
    addresses: Arc<[SocketAddr]>,
    /// The result and time of the last lookup.
    last: Option<(Instant, LookupResult)>,
    running: bool,
}

impl CachedHost {
    pub(super) fn new(name: &str, port: u16) -> Self {
        Self {
            name: name.into(),
            port,
            resolution: Arc::default(),
        }
    }

    /// Returns the host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the addresses of the host; the last ones if the resolver fails or is slow.
    pub(super) async fn addresses(&self) -> io::Result<Arc<[SocketAddr]>> {
        let (name, port) = (Arc::clone(&self.name), self.port);
        self.resolution
            .addresses(async move { Ok(lookup_host((&*name, port)).await?.collect()) })
            .await
    }
}

impl Resolution {
    async fn addresses(
        self: &Arc<Self>,
        lookup: impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    ) -> io::Result<Arc<[SocketAddr]>> {
        let ended = self.ended.notified();
        let known = {
            let mut state = self.lock();
            if let Some((when, outcome)) = &state.last
                && when.elapsed() < CACHE_TTL
            {
                return state.response(outcome);
            }
            if !std::mem::replace(&mut state.running, true) {
                let resolution = Arc::clone(self);
                // In its own task: it continues when its caller is dropped.
                tokio::spawn(async move { resolution.finish(lookup.await) });
            }
            Arc::clone(&state.addresses)
        };
        if known.is_empty() {
            ended.await;
        } else if timeout(LOOKUP_GRACE, ended).await.is_err() {
            return Ok(known);
        }
        let state = self.lock();
        match &state.last {
            Some((_, outcome)) => state.response(outcome),
            // Unreachable: a lookup has ended.
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// A look-up has ended.
    fn finish(&self, found: io::Result<Vec<SocketAddr>>) {
        let mut state = self.lock();
        state.running = false;
        let outcome = match found {
            Ok(mut addresses) if !addresses.is_empty() => {
                addresses.truncate(MAX_ADDRESSES);
                // If `localhost` has both families, servers that listen on only one mostly use
                // IPv4.
                addresses.sort_by_key(SocketAddr::is_ipv6);
                state.addresses = addresses.into();
                Ok(())
            }
            Ok(_) => Err((
                io::ErrorKind::NotFound,
                "the name has no address".to_owned(),
            )),
            Err(error) => Err((error.kind(), error.to_string())),
        };
        state.last = Some((Instant::now(), outcome));
        drop(state);
        self.ended.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn response(&self, outcome: &LookupResult) -> io::Result<Arc<[SocketAddr]>> {
        match outcome {
            Err((kind, message)) if self.addresses.is_empty() => {
                Err(io::Error::new(*kind, message.clone()))
            }
            _ => Ok(Arc::clone(&self.addresses)),
        }
    }
}

impl fmt::Debug for CachedHost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LocalName(")?;
        fmt::Display::fmt(self, formatter)?;
        formatter.write_str(")")
    }
}

impl fmt::Display for CachedHost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.name, self.port)
    }
}

impl PartialEq for CachedHost {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.port) == (&other.name, other.port)
    }
}

impl Eq for CachedHost {}

impl Hash for CachedHost {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.name, self.port).hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    /// A resolver that responds when it gets a permit, and counts lookups.
    #[derive(Clone, Default)]
    struct Resolver {
        lookups: Arc<AtomicUsize>,
        permits: Arc<LookupPermit>,
    }

    struct LookupPermit(Semaphore);

    impl Default for LookupPermit {
        fn default() -> Self {
            Self(Semaphore::new(0))
        }
    }

    impl Resolver {
        fn lookup(
            &self,
            response: io::Result<&str>,
        ) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + use<> {
            let this = self.clone();
            let response = response.map(|address| vec![address.parse().unwrap()]);
            async move {
                this.lookups.fetch_add(1, Ordering::Relaxed);
                this.permits.0.acquire().await.unwrap().forget();
                response
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_lookups_share_one_query() {
        let resolver = Resolver::default();
        let resolution = Arc::new(Resolution::default());
        let resolve = || resolution.addresses(resolver.lookup(Ok("192.0.2.1:80")));
        // The callers time out, but the lookup continues: no other one starts.
        for _ in 0..1000 {
            timeout(Duration::from_secs(5), resolve())
                .await
                .unwrap_err();
        }
        assert_eq!(resolver.lookups.load(Ordering::Relaxed), 1);
        let waiting = futures_util::future::join_all((0..100).map(|_| resolve()));
        resolver.permits.0.add_permits(1);
        for response in waiting.await {
            assert_eq!(*response.unwrap(), ["192.0.2.1:80".parse().unwrap()]);
        }
        assert_eq!(resolver.lookups.load(Ordering::Relaxed), 1);
        // After the cache lifetime, the name is resolved again.
        tokio::time::advance(CACHE_TTL).await;
        resolver.permits.0.add_permits(1);
        resolve().await.unwrap();
        assert_eq!(resolver.lookups.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_or_slow_lookup_returns_last_addresses() {
        let resolver = Resolver::default();
        let resolution = Arc::new(Resolution::default());
        let failure = || Err(io::Error::other("no name server"));
        resolver.permits.0.add_permits(3);
        let nothing = resolution.addresses(resolver.lookup(failure())).await;
        assert_eq!(nothing.unwrap_err().to_string(), "no name server");
        tokio::time::advance(CACHE_TTL).await;
        resolution
            .addresses(resolver.lookup(Ok("192.0.2.1:80")))
            .await
            .unwrap();
        // The next lookup fails, and the one after it never ends.
        for lookups in [3, 4] {
            tokio::time::advance(CACHE_TTL).await;
            let known = resolution.addresses(resolver.lookup(failure())).await;
            assert_eq!(*known.unwrap(), ["192.0.2.1:80".parse().unwrap()]);
            assert_eq!(resolver.lookups.load(Ordering::Relaxed), lookups);
        }
    }
}
