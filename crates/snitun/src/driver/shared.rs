//! What the connection's task and its channels share: the multiplexer behind a lock, and who is to be woken.
//!
//! The lock is held for a few copies at most and never across a wait. Wakers are collected under it and used after it, so
//! that nobody wakes up only to find it taken.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::random::Random;
use crate::close::CloseReason;
use crate::frame::ChannelId;
use crate::moment::Moment;
use crate::mux::{ChannelKey, Event, Mux, MuxConfig};

/// The runtime's clock, which tests may have stopped, as the multiplexer sees it.
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

    pub(crate) fn now(self) -> Moment {
        Moment::after_start(self.start.elapsed())
    }

    /// The same moment for the runtime's timers.
    pub(crate) fn instant(self, moment: Moment) -> Instant {
        self.start + moment.since_start()
    }
}

pub(crate) struct Shared {
    pub(crate) clock: Clock,
    state: Mutex<State>,
    /// `None` while the tunnel lives.
    pub(crate) closed: watch::Sender<Option<Arc<CloseReason>>>,
}

pub(crate) struct State {
    pub(crate) mux: Mux,
    pub(crate) clock: Clock,
    pub(crate) random: Random,
    /// Why the tunnel is being closed, once it is.
    pub(crate) closing: Option<CloseReason>,
    pub(crate) pings: Vec<Ping>,
    waiting: Vec<Waiting>,
    acceptor: Option<Waker>,
    task: Option<Waker>,
    /// The task sleeps because there is nothing to write.
    task_is_idle: bool,
    /// A channel was closed while the task slept: there may be a deadline that it does not know.
    new_deadline: bool,
}

/// A ping that somebody waits for.
pub(crate) struct Ping {
    pub(crate) id: ChannelId,
    /// By the clock, and not by the time that the task has last looked at it, which may be longer ago than a round trip takes.
    pub(crate) sent: Moment,
    pub(crate) answer: oneshot::Sender<Duration>,
}

/// Who waits for a channel; indexed by the channel's key.
#[derive(Default)]
struct Waiting {
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Wakers to be used once the lock is released.
#[derive(Default)]
pub(crate) struct Wakes {
    task: Option<Waker>,
    /// The first reader or writer. There is seldom another one, and a place for it alone costs no allocation.
    first: Option<Waker>,
    others: Vec<Waker>,
}

impl Wakes {
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
                waiting: Vec::new(),
                acceptor: None,
                task: None,
                task_is_idle: false,
                new_deadline: false,
            }),
            closed: watch::Sender::new(None),
        }
    }

    /// Runs `change` under the lock, then wakes whom it concerns.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        // Most changes concern nobody else.
        if state.has_news() {
            let wakes = state.collect();
            drop(state);
            wakes.wake();
        }
        result
    }

    /// Asks the task to close the tunnel: what is queued still goes out, within the limit for draining.
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

    /// The tunnel is gone.
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
    /// The task goes to sleep; `idle` when it has nothing to write, so that a writer should wake it.
    pub(crate) fn park_task(&mut self, cx: &Context<'_>, idle: bool) {
        self.task_is_idle = idle;
        store(&mut self.task, cx);
    }

    /// The task is awake.
    pub(crate) fn unpark_task(&mut self) {
        self.task_is_idle = false;
        self.new_deadline = false;
    }

    pub(crate) fn park_acceptor(&mut self, cx: &Context<'_>) {
        store(&mut self.acceptor, cx);
    }

    pub(crate) fn park_reader(&mut self, key: ChannelKey, cx: &Context<'_>) {
        store(&mut self.waiting(key).reader, cx);
    }

    pub(crate) fn park_writer(&mut self, key: ChannelKey, cx: &Context<'_>) {
        store(&mut self.waiting(key).writer, cx);
    }

    /// Closes a channel; CLOSE follows what was written, or comes when its time is up.
    pub(crate) fn close_channel(&mut self, key: ChannelKey) {
        self.mux.close(key, self.clock.now());
        self.new_deadline = self.task_is_idle;
    }

    /// Forgets who waits for a channel that is released.
    pub(crate) fn forget_waiting(&mut self, key: ChannelKey) {
        *self.waiting(key) = Waiting::default();
    }

    fn waiting(&mut self, key: ChannelKey) -> &mut Waiting {
        if self.waiting.len() <= key.index() {
            self.waiting.resize_with(key.index() + 1, Waiting::default);
        }
        &mut self.waiting[key.index()]
    }

    /// Whether there is anybody to be woken.
    fn has_news(&self) -> bool {
        self.mux.has_events() || self.task_is_wanted()
    }

    fn task_is_wanted(&self) -> bool {
        self.task_is_idle && (self.new_deadline || self.mux.has_output())
    }

    /// Turns the multiplexer's events into wakers.
    fn collect(&mut self) -> Wakes {
        let mut wakes = Wakes::default();
        while let Some(event) = self.mux.poll_event() {
            let waker = match event {
                Event::Acceptable => self.acceptor.take(),
                Event::Readable(key) => self.waiting(key).reader.take(),
                Event::Writable(key) => self.waiting(key).writer.take(),
                Event::PingDue => {
                    let id = self.random.id();
                    self.mux.ping(id, self.clock.now());
                    None
                }
                Event::Pong { id, .. } => {
                    if let Some(at) = self.pings.iter().position(|ping| ping.id == id) {
                        let ping = self.pings.swap_remove(at);
                        // A caller that no longer waits does not mind.
                        let _ = ping.answer.send(self.clock.now() - ping.sent);
                    }
                    None
                }
            };
            if let Some(waker) = waker {
                wakes.add(waker);
            }
        }
        if self.task_is_wanted() {
            self.unpark_task();
            wakes.task = self.task.take();
        }
        wakes
    }
}

fn store(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}
