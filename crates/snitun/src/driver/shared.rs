//! State shared by the connection's task and its channels: the multiplexer behind a lock, and the
//! wakers.
//!
//! The lock is held for a few copies at most and never across an await. Wakers are collected under
//! it and called after it, so that no task wakes up only to find it locked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::random::Random;
use crate::close::CloseReason;
use crate::codec::frame::ChannelId;
use crate::mux::{ChannelKey, Event, Mux, MuxConfig};
use crate::time::Timestamp;

/// The runtime's clock, which tests can pause, in the multiplexer's time type.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    pub(crate) fn now(self) -> Timestamp {
        Timestamp::after_start(self.start.elapsed())
    }

    /// Converts a timestamp for the runtime's timers.
    pub(crate) fn instant(self, timestamp: Timestamp) -> Instant {
        self.start + timestamp.since_start()
    }
}

pub(crate) struct Shared {
    pub(crate) clock: Clock,
    state: Mutex<State>,
    /// `None` while the tunnel is up.
    pub(crate) closed: watch::Sender<Option<Arc<CloseReason>>>,
}

pub(crate) struct State {
    pub(crate) mux: Mux,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    /// The reason for closing, once closing has started.
    pub(crate) closing: Option<CloseReason>,
    pub(crate) pings: Vec<PendingPing>,
    wakers: Vec<ChannelWakers>,
    acceptor: Option<Waker>,
    task: Option<Waker>,
    /// The task sleeps because there is nothing to write.
    task_is_idle: bool,
    /// A channel was closed while the task slept: there may be a new deadline.
    new_deadline: bool,
}

/// A ping with a waiting caller.
pub(crate) struct PendingPing {
    pub(crate) id: ChannelId,
    /// The clock's time and not the task's last reading, which may be older than a round trip
    /// takes.
    pub(crate) sent: Timestamp,
    pub(crate) answer: oneshot::Sender<Duration>,
}

/// Wakers of a channel; indexed by the channel's key.
#[derive(Default)]
struct ChannelWakers {
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Wakers to call once the lock is released.
#[derive(Default)]
pub(crate) struct PendingWakes {
    task: Option<Waker>,
    /// The first reader or writer. There is rarely a second one, and this place needs no
    /// allocation.
    first: Option<Waker>,
    others: Vec<Waker>,
}

impl PendingWakes {
    fn add(&mut self, waker: Waker) {
        if self.first.is_none() {
            self.first = Some(waker);
        } else {
            self.others.push(waker);
        }
    }

    fn wake(self) {
        let all = [self.first, self.task].into_iter().flatten();
        all.chain(self.others).for_each(Waker::wake);
    }
}

impl Shared {
    pub(crate) fn new(config: MuxConfig, random: Random) -> Self {
        let clock = Clock::new();
        Self {
            clock,
            state: Mutex::new(State {
                mux: Mux::new(config, clock.now()),
                clock,
                random,
                closing: None,
                pings: Vec::new(),
                wakers: Vec::new(),
                acceptor: None,
                task: None,
                task_is_idle: false,
                new_deadline: false,
            }),
            closed: watch::Sender::new(None),
        }
    }

    /// Runs `change` under the lock, then wakes the tasks that it affects.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        // Most changes wake no task.
        if state.needs_wake() {
            let wakes = state.collect();
            drop(state);
            wakes.wake();
        }
        result
    }

    /// Requests the task to close the tunnel: queued data is still sent, within the drain timeout.
    pub(crate) fn close(&self, reason: CloseReason) {
        let task = {
            let mut state = self.lock();
            if state.closing.is_some() {
                return;
            }
            state.closing = Some(reason);
            state.task.take()
        };
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Handles the end of the tunnel.
    pub(crate) fn end(&self, reason: CloseReason) {
        self.with(|state| {
            state.mux.end(state.clock.now());
            state.pings.clear();
            state.closing.get_or_insert(reason.clone());
        });
        self.closed.send_replace(Some(Arc::new(reason)));
        let acceptor = self.lock().acceptor.take();
        if let Some(acceptor) = acceptor {
            acceptor.wake();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.borrow().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Parks the task; `idle` if it has nothing to write, so that a writer wakes it.
    pub(crate) fn park_task(&mut self, cx: &Context<'_>, idle: bool) {
        self.task_is_idle = idle;
        store_waker(&mut self.task, cx);
    }

    /// Marks the task as awake.
    pub(crate) fn unpark_task(&mut self) {
        self.task_is_idle = false;
        self.new_deadline = false;
    }

    pub(crate) fn park_acceptor(&mut self, cx: &Context<'_>) {
        store_waker(&mut self.acceptor, cx);
    }

    pub(crate) fn park_reader(&mut self, key: ChannelKey, cx: &Context<'_>) {
        store_waker(&mut self.wakers(key).reader, cx);
    }

    pub(crate) fn park_writer(&mut self, key: ChannelKey, cx: &Context<'_>) {
        store_waker(&mut self.wakers(key).writer, cx);
    }

    /// Closes a channel; CLOSE follows the written data, or is sent after the linger timeout.
    pub(crate) fn close_channel(&mut self, key: ChannelKey) {
        self.mux.close(key, self.clock.now());
        self.new_deadline = self.task_is_idle;
    }

    /// Drops the wakers of a released channel.
    pub(crate) fn clear_wakers(&mut self, key: ChannelKey) {
        *self.wakers(key) = ChannelWakers::default();
    }

    fn wakers(&mut self, key: ChannelKey) -> &mut ChannelWakers {
        if self.wakers.len() <= key.index() {
            self.wakers
                .resize_with(key.index() + 1, ChannelWakers::default);
        }
        &mut self.wakers[key.index()]
    }

    /// Returns whether any task must be woken.
    fn needs_wake(&self) -> bool {
        self.mux.has_events() || self.should_wake_task()
    }

    fn should_wake_task(&self) -> bool {
        self.mux.may_resume_reading()
            || self.task_is_idle && (self.new_deadline || self.mux.has_output())
    }

    /// Converts the multiplexer's events into wakers.
    fn collect(&mut self) -> PendingWakes {
        let mut wakes = PendingWakes::default();
        while let Some(event) = self.mux.poll_event() {
            let waker = match event {
                Event::Opened => self.acceptor.take(),
                Event::Readable(key) => self.wakers(key).reader.take(),
                Event::Writable(key) => self.wakers(key).writer.take(),
                Event::PingDue => {
                    let id = self.random.id();
                    self.mux.ping(id, self.clock.now());
                    None
                }
                Event::Pong { id, .. } => {
                    if let Some(at) = self.pings.iter().position(|ping| ping.id == id) {
                        let ping = self.pings.swap_remove(at);
                        // The caller may have stopped waiting.
                        let _ = ping.answer.send(self.clock.now() - ping.sent);
                    }
                    None
                }
            };
            if let Some(waker) = waker {
                wakes.add(waker);
            }
        }
        if self.should_wake_task() {
            self.unpark_task();
            wakes.task = self.task.take();
        }
        wakes
    }
}

fn store_waker(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}
