//! The name of a local application's host, looked up while connections are made.
//!
//! A look-up blocks a thread of the runtime's for as long as the system's resolver takes, and cannot be given up. So there is one
//! at a time for a name, whoever asks: callers from the public, who may be many while the name server is gone, must not use up
//! the threads that everything else in the process needs.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// Of one name; there is rarely more than one of each family.
const MAX_ADDRESSES: usize = 8;
/// For how long an answer counts. It is for bursts of connections: an application that moves is found a moment later.
const CACHE_TTL: Duration = Duration::from_secs(1);
/// How long the resolver may take before the addresses of last time are tried.
const LOOKUP_GRACE: Duration = Duration::from_millis(500);

/// A host name and a port. Clones share what is known of the name.
#[derive(Clone)]
pub struct CachedHost {
    name: Arc<str>,
    port: u16,
    found: Arc<Resolution>,
}

#[derive(Default)]
struct Resolution {
    state: Mutex<State>,
    /// A look-up has ended.
    ended: Notify,
}

/// What all who wait are told, so of something that can be cloned.
type Outcome = Result<(), (io::ErrorKind, String)>;

#[derive(Default)]
struct State {
    /// What the last look-up that found something has found.
    addresses: Arc<[SocketAddr]>,
    /// How the last look-up ended, and when.
    last: Option<(Instant, Outcome)>,
    running: bool,
}

impl CachedHost {
    pub(super) fn new(name: &str, port: u16) -> Self {
        Self {
            name: name.into(),
            port,
            found: Arc::default(),
        }
    }

    /// The name of the host.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The addresses of the host; those of last time where the resolver fails or takes long.
    pub(super) async fn addresses(&self) -> io::Result<Arc<[SocketAddr]>> {
        let (name, port) = (Arc::clone(&self.name), self.port);
        self.found
            .addresses(async move { Ok(lookup_host((&*name, port)).await?.collect()) })
            .await
    }
}

impl Resolution {
    async fn addresses(
        self: &Arc<Self>,
        look_up: impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    ) -> io::Result<Arc<[SocketAddr]>> {
        let ended = self.ended.notified();
        let known = {
            let mut state = self.lock();
            if let Some((when, outcome)) = &state.last
                && when.elapsed() < CACHE_TTL
            {
                return state.answer(outcome);
            }
            if !std::mem::replace(&mut state.running, true) {
                let found = Arc::clone(self);
                // In a task of its own: it goes on when whoever asked has gone.
                tokio::spawn(async move { found.end(look_up.await) });
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
            Some((_, outcome)) => state.answer(outcome),
            // Not without a look-up having ended.
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// A look-up has ended.
    fn end(&self, found: io::Result<Vec<SocketAddr>>) {
        let mut state = self.lock();
        state.running = false;
        let outcome = match found {
            Ok(mut addresses) if !addresses.is_empty() => {
                addresses.truncate(MAX_ADDRESSES);
                // Where `localhost` is both, servers that listen on one alone mostly chose IPv4.
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
    fn answer(&self, outcome: &Outcome) -> io::Result<Arc<[SocketAddr]>> {
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

    /// A resolver that answers when it is let, and counts.
    #[derive(Clone, Default)]
    struct Resolver {
        asked: Arc<AtomicUsize>,
        lets: Arc<LookupPermit>,
    }

    struct LookupPermit(Semaphore);

    impl Default for LookupPermit {
        fn default() -> Self {
            Self(Semaphore::new(0))
        }
    }

    impl Resolver {
        fn look_up(
            &self,
            answer: io::Result<&str>,
        ) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + use<> {
            let this = self.clone();
            let answer = answer.map(|address| vec![address.parse().unwrap()]);
            async move {
                this.asked.fetch_add(1, Ordering::Relaxed);
                this.lets.0.acquire().await.unwrap().forget();
                answer
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_lookups_share_one_query() {
        let resolver = Resolver::default();
        let found = Arc::new(Resolution::default());
        let ask = || found.addresses(resolver.look_up(Ok("192.0.2.1:80")));
        // They give up, and the resolver does not: nobody starts another one.
        for _ in 0..1000 {
            timeout(Duration::from_secs(5), ask()).await.unwrap_err();
        }
        assert_eq!(resolver.asked.load(Ordering::Relaxed), 1);
        let waiting = futures_util::future::join_all((0..100).map(|_| ask()));
        resolver.lets.0.add_permits(1);
        for answer in waiting.await {
            assert_eq!(*answer.unwrap(), ["192.0.2.1:80".parse().unwrap()]);
        }
        assert_eq!(resolver.asked.load(Ordering::Relaxed), 1);
        // A moment later it is looked up again.
        tokio::time::advance(CACHE_TTL).await;
        resolver.lets.0.add_permits(1);
        ask().await.unwrap();
        assert_eq!(resolver.asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_or_slow_lookup_returns_last_addresses() {
        let resolver = Resolver::default();
        let found = Arc::new(Resolution::default());
        let failure = || Err(io::Error::other("no name server"));
        resolver.lets.0.add_permits(3);
        let nothing = found.addresses(resolver.look_up(failure())).await;
        assert_eq!(nothing.unwrap_err().to_string(), "no name server");
        tokio::time::advance(CACHE_TTL).await;
        found
            .addresses(resolver.look_up(Ok("192.0.2.1:80")))
            .await
            .unwrap();
        // The next one fails, and the one after that never ends.
        for asked in [3, 4] {
            tokio::time::advance(CACHE_TTL).await;
            let known = found.addresses(resolver.look_up(failure())).await;
            assert_eq!(*known.unwrap(), ["192.0.2.1:80".parse().unwrap()]);
            assert_eq!(resolver.asked.load(Ordering::Relaxed), asked);
        }
    }
}
