//! Connections to the application, kept for the next requests.
//!
//! All callers share them, except those that the application authenticates: see
//! [`PrivateConnections`].

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::connection::Connection;
use super::connector::Connector;
use crate::task_group::TaskGroup;

/// The idle timeout of shared connections: shorter than that of common servers (gunicorn 2 s,
/// Node.js and uvicorn 5 s), because a request on a connection that is being closed is lost if it
/// cannot be sent again.
const IDLE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Shared idle connections: as many as one caller may have requests by default. With fewer, callers
/// that send one request after another have a connection closed and opened for many of them.
const MAX_IDLE: usize = 64;
/// Kept connections to an application that are private to one public connection. A caller of
/// HTTP/1.1 needs one.
const MAX_PRIVATE_IDLE: usize = 2;
/// The time for a private connection to become ready, when its response has just ended.
const RETURN_GRACE: Duration = Duration::from_millis(50);

/// The time for a connection that others can use to open. After it each request opens its own: one
/// that is not accepted must not delay the others.
const OPENING_GRACE: Duration = Duration::from_secs(1);

/// What a request needs of its connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    /// A new one, because the last attempt failed.
    pub(super) fresh: bool,
    /// One of HTTP/1.1.
    pub(super) upgrade: bool,
    /// If possible the one on which the application sent its challenge.
    pub(super) challenged: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Pool {
    connector: Connector,
    tasks: TaskGroup,
    /// Tells its connections from those of other applications.
    identity: PoolIdentity,
    shared: Mutex<Shared>,
    /// Held while a connection of HTTP/2, which others can use too, is being opened.
    opening: tokio::sync::Mutex<()>,
    /// Whether a new connection may be of HTTP/2.
    opens_shareable: AtomicBool,
}

/// The identity of a pool, as long as something refers to it.
type PoolIdentity = Arc<()>;

#[derive(Debug, Default)]
struct Shared {
    idle: Vec<Idle>,
    /// Whether a task removes expired connections.
    watched: bool,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    pool: PoolIdentity,
    since: Instant,
    /// Whether the last response refused authentication (401).
    challenged: bool,
}

/// The connections to the application that carry only the requests of one public connection.
///
/// An application that uses NTLM or Negotiate authenticates the connection, not each request: what
/// comes next on the connection is answered as its user. So from a request or a response with such
/// a scheme on, the connection, and each further one for the same caller, is private to the
/// caller's connection. They end with it.
///
/// A caller's HTTP/1.1 connection has one request at a time, and thus one private connection: the
/// same one for the whole handshake. HTTP/2 carries many requests at once, and each takes a private
/// connection of its own, which the application authenticates separately: it may refuse some of
/// them with 401 again, but never answers as another user. A request with credentials goes over the
/// connection with the challenge, if that is free.
#[derive(Debug, Default)]
pub(crate) struct PrivateConnections {
    active: AtomicBool,
    idle: Mutex<Vec<Idle>>,
}

impl PrivateConnections {
    /// Makes this caller's connections private from now on.
    pub(super) fn activate(&self) {
        self.active.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection of this pool: one caller may use several applications.
    async fn take(&self, need: Need, pool: &PoolIdentity) -> Option<Connection> {
        let is_own = |idle: &Idle| Arc::ptr_eq(&idle.pool, pool);
        let ready = |idle: &Idle| is_own(idle) && idle.is_ready();
        if let Some(connection) = take(&mut self.idle(), need, ready) {
            return Some(connection);
        }
        // The caller may have its response before the connection has noticed the end.
        let mut last = take(&mut self.idle(), need, is_own)?;
        match timeout(RETURN_GRACE, last.ready()).await {
            Ok(Ok(())) => Some(last),
            Ok(Err(_)) => None,
            Err(_) => {
                self.keep(last, false, pool);
                None
            }
        }
    }

    fn keep(&self, connection: Connection, challenged: bool, pool: &PoolIdentity) {
        let mut idle = self.idle();
        idle.retain(|idle| !idle.connection.is_closed());
        idle.push(Idle::new(connection, challenged, Arc::clone(pool)));
        let is_own = |idle: &Idle| Arc::ptr_eq(&idle.pool, pool);
        // One whose response is not complete ends after it.
        if idle.iter().filter(|idle| is_own(idle)).count() > MAX_PRIVATE_IDLE
            && let Some(oldest) = idle.iter().position(is_own)
        {
            idle.remove(oldest);
        }
    }
}

impl Idle {
    fn new(connection: Connection, challenged: bool, pool: PoolIdentity) -> Self {
        Self {
            connection,
            pool,
            since: Instant::now(),
            challenged,
        }
    }

    fn is_ready(&self) -> bool {
        self.connection.is_ready()
    }

    fn is_fresh(&self) -> bool {
        self.since.elapsed() < IDLE_TIMEOUT
    }
}

/// Takes the connection that fits best, the last one of several. One that can be shared stays.
fn take(idle: &mut Vec<Idle>, need: Need, usable: impl Fn(&Idle) -> bool) -> Option<Connection> {
    idle.retain(|idle| !idle.connection.is_closed());
    let fits = |idle: &Idle| {
        usable(idle) && !(need.upgrade && matches!(idle.connection, Connection::Http2(_)))
    };
    let best = idle
        .iter()
        .rposition(|idle| fits(idle) && idle.challenged == need.challenged)
        .or_else(|| idle.iter().rposition(fits))?;
    let found = idle.get_mut(best)?;
    match found.connection.shared() {
        Some(connection) => {
            found.since = Instant::now();
            Some(connection)
        }
        None => Some(idle.remove(best).connection),
    }
}

impl Pool {
    /// `opens_shareable` says whether new connections may be of HTTP/2.
    pub(super) fn new(connector: Connector, tasks: TaskGroup, opens_shareable: bool) -> Arc<Self> {
        Arc::new(Self {
            connector,
            tasks,
            identity: PoolIdentity::default(),
            shared: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            opens_shareable: opens_shareable.into(),
        })
    }

    /// Returns an idle or a new connection.
    pub(super) async fn connection(
        self: &Arc<Self>,
        private: &PrivateConnections,
        need: Need,
    ) -> io::Result<Connection> {
        if let Some(connection) = self.idle_connection(private, need).await {
            return Ok(connection);
        }
        let _opening = if !need.upgrade && self.opens_shareable.load(Ordering::Relaxed) {
            let guard = timeout(OPENING_GRACE, self.opening.lock()).await.ok();
            if let Some(connection) = self.idle_connection(private, need).await {
                return Ok(connection);
            }
            guard
        } else {
            None
        };
        // Boxed, because each request would have room for it, and most need no new connection.
        let connection = Box::pin(self.connector.connect(need.upgrade)).await?;
        if !need.upgrade {
            let is_http2 = matches!(connection, Connection::Http2(_));
            self.opens_shareable.store(is_http2, Ordering::Relaxed);
        }
        if let Some(shared) = connection.shared() {
            self.keep_ready(shared, private, false);
        }
        Ok(connection)
    }

    async fn idle_connection(
        &self,
        private: &PrivateConnections,
        need: Need,
    ) -> Option<Connection> {
        if need.fresh {
            None
        } else if private.is_active() {
            private.take(need, &self.identity).await
        } else {
            take(&mut self.shared().idle, need, |idle| {
                idle.is_ready() && idle.is_fresh()
            })
        }
    }

    /// Keeps a connection whose response has started for the time after it.
    pub(super) fn keep(
        self: &Arc<Self>,
        mut connection: Connection,
        private: &PrivateConnections,
        challenged: bool,
    ) {
        if matches!(connection, Connection::Http2(_)) {
            return;
        }
        if private.is_active() || connection.is_ready() {
            self.keep_ready(connection, private, challenged);
            return;
        }
        let pool = Arc::clone(self);
        drop(self.tasks.spawn(async move {
            if connection.ready().await.is_ok() {
                pool.keep_shared(connection);
            }
        }));
    }

    fn keep_ready(
        self: &Arc<Self>,
        connection: Connection,
        private: &PrivateConnections,
        challenged: bool,
    ) {
        if private.is_active() {
            private.keep(connection, challenged, &self.identity);
        } else {
            self.keep_shared(connection);
        }
    }

    fn keep_shared(self: &Arc<Self>, connection: Connection) {
        let mut shared = self.shared();
        let pool = Arc::clone(&self.identity);
        shared.idle.push(Idle::new(connection, false, pool));
        if shared.idle.len() > MAX_IDLE {
            shared.idle.remove(0);
        }
        if !std::mem::replace(&mut shared.watched, true) {
            drop(self.tasks.spawn(Arc::clone(self).remove_expired()));
        }
    }

    /// Removes expired connections until none is left.
    async fn remove_expired(self: Arc<Self>) {
        loop {
            let draining = tokio::select! {
                () = sleep(IDLE_TIMEOUT) => false,
                () = self.tasks.draining() => true,
            };
            let mut shared = self.shared();
            shared
                .idle
                .retain(|idle| !draining && idle.is_fresh() && !idle.connection.is_closed());
            if shared.idle.is_empty() {
                shared.watched = false;
                return;
            }
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
