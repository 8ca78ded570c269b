//! Name resolution with a bound on lookups.
//!
//! A lookup blocks a thread of the runtime while the system's resolver runs, and cannot be
//! cancelled: it continues when its caller has given up. Without a bound, callers during an outage
//! of the name server would use up the threads that the rest of the process needs.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::lookup_host;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Maximum concurrent lookups of one [`Resolver`].
const MAX_LOOKUPS: usize = 4;

/// Resolves names with at most [`MAX_LOOKUPS`] threads. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Resolver(Arc<Semaphore>);

impl Default for Resolver {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_LOOKUPS)))
    }
}

impl Resolver {
    /// Returns the addresses of a host, in the order in which the system prefers them.
    pub(crate) async fn resolve(
        &self,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![(address, port).into()]);
        }
        let host = host.to_owned();
        self.run(deadline, async move {
            Ok(lookup_host((host, port)).await?.collect())
        })
        .await
    }

    async fn run(
        &self,
        deadline: Instant,
        lookup: impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    ) -> io::Result<Vec<SocketAddr>> {
        let bounded = async {
            let permit = Arc::clone(&self.0)
                .acquire_owned()
                .await
                .map_err(io::Error::other)?;
            // In its own task, which keeps the permit when the caller gives up.
            let task = tokio::spawn(async move {
                let found = lookup.await;
                drop(permit);
                found
            });
            task.await?
        };
        let silent = || io::Error::new(io::ErrorKind::TimedOut, "no name server answers in time");
        let addresses = timeout_at(deadline, bounded)
            .await
            .unwrap_or_else(|_| Err(silent()))?;
        if addresses.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the name has no address",
            ));
        }
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_resolver_blocks_a_bounded_number_of_threads() {
        let resolver = Resolver::default();
        let lookups = Arc::new(AtomicUsize::new(0));
        let release = Arc::new(Semaphore::new(0));
        let callers = (0..100).map(|_| {
            let (lookups, release) = (Arc::clone(&lookups), Arc::clone(&release));
            resolver.run(soon(), async move {
                lookups.fetch_add(1, Ordering::Relaxed);
                release.acquire().await.unwrap().forget();
                Ok(vec![([192, 0, 2, 1], 80).into()])
            })
        });
        for result in futures_util::future::join_all(callers).await {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        // The callers are gone, and their lookups still run.
        assert_eq!(lookups.load(Ordering::Relaxed), MAX_LOOKUPS);
        let waiting = resolver.run(soon(), async { Ok(vec![([192, 0, 2, 2], 80).into()]) });
        release.add_permits(1);
        assert_eq!(waiting.await.unwrap(), [([192, 0, 2, 2], 80).into()]);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_need_no_lookup() {
        let resolver = Resolver::default();
        for _ in 0..MAX_LOOKUPS {
            resolver.run(soon(), pending()).await.unwrap_err();
        }
        let address = resolver.resolve("::1", 80, soon()).await.unwrap();
        assert_eq!(address, ["[::1]:80".parse().unwrap()]);
    }

    #[tokio::test]
    async fn name_without_address_is_an_error() {
        let resolver = Resolver::default();
        let none = resolver.run(soon(), async { Ok(Vec::new()) }).await;
        assert_eq!(none.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
