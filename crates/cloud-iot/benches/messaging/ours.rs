//! The session of this crate.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use cloud_iot::{
    BoxError, DurableOutbox, FallbackPort, Message, Receipt, RouteOptions, Router, Session,
    SessionConfig, SessionState, Subscription,
};
use tokio::sync::mpsc;

use crate::broker::tls;
use crate::{
    HANDLERS, IDLE_INTERVALS, IN_FLIGHT, KEEP_ALIVE, PAYLOAD, SYNCED, Task, quantiles, usage,
};

/// Messages that wait in the outbox.
const AHEAD: usize = 500;

pub(crate) async fn run(task: &Task) {
    let mut config = SessionConfig::new("localhost", "ours", tls(&task.directory));
    config.port = task.port;
    if task.measure == SYNCED {
        // What is acknowledged is not written, so without a broker.
        config.port = testkit::port::free_port();
        config.store_delay = Duration::ZERO;
        config.limits.outbox_messages = 2 * task.count as usize;
    }
    config.fallback_port = FallbackPort::Never;
    config.keep_alive = KEEP_ALIVE;
    config.limits.in_flight = IN_FLIGHT;
    config.limits.publishes_per_second = None;
    config.limits.bytes_per_second = None;
    let (sender, mut handled) = mpsc::unbounded_channel();
    let mut router = Router::new();
    let handler = tower::service_fn(move |_: Message| {
        let _ = sender.send(());
        async { Ok::<(), BoxError>(()) }
    });
    let options = RouteOptions::new()
        .queue_messages(task.count as usize)
        .queue_bytes(1 << 30);
    let subscription = |filter| vec![Subscription::new(filter).unwrap()];
    match task.measure.as_str() {
        "deliver" => {
            config.subscriptions = subscription("bench");
            router = router.route_with("bench", options, handler).unwrap();
        }
        "topics" => {
            config.subscriptions = subscription("bench/#");
            for number in 0..HANDLERS {
                let filter = format!("bench/{number}/+");
                let (options, handler) = (options.clone(), handler.clone());
                router = router.route_with(filter, options, handler).unwrap();
            }
        }
        _ => {}
    }
    let outbox = tempfile::tempdir_in(&task.directory).unwrap();
    let mut builder = Session::builder(config).router(router);
    if task.measure.starts_with("durable") || task.measure == SYNCED {
        builder = builder.outbox_store(DurableOutbox::open(outbox.path()).unwrap());
    }
    let session = builder.start().unwrap();
    if task.measure == SYNCED {
        synced(&session, task.count).await;
        return;
    }
    let mut state = session.state();
    state.wait_for(SessionState::is_online).await.unwrap();
    match task.measure.as_str() {
        "publish" | "durable" => publish(&session, task.count).await,
        "latency" | "durable_latency" => latency(&session, task.count).await,
        "deliver" | "topics" => {
            println!("ready");
            handled.recv().await.unwrap();
            let started = Instant::now();
            for _ in 1..task.count {
                handled.recv().await.unwrap();
            }
            println!(
                "{}",
                f64::from(task.count) / started.elapsed().as_secs_f64()
            );
        }
        _ => {
            tokio::time::sleep(KEEP_ALIVE).await;
            let before = usage::wake_ups();
            tokio::time::sleep(KEEP_ALIVE * IDLE_INTERVALS).await;
            let woken = usage::wake_ups() - before;
            println!(
                "{} {}",
                woken as f64 / f64::from(IDLE_INTERVALS),
                usage::resident()
            );
        }
    }
    session.stop(Duration::from_secs(5)).await;
}

async fn publish(session: &Session, count: u32) {
    let started = Instant::now();
    let mut receipts: VecDeque<Receipt> = VecDeque::new();
    for _ in 0..count {
        if receipts.len() >= AHEAD
            && let Some(oldest) = receipts.pop_front()
        {
            oldest.await.unwrap();
        }
        let message = Message::new("bench", vec![7; PAYLOAD]);
        receipts.push_back(session.publish(message).unwrap());
    }
    for receipt in receipts {
        receipt.await.unwrap();
    }
    println!("{}", f64::from(count) / started.elapsed().as_secs_f64());
}

/// Messages until they are on the disk: some one after another, then `count` at once.
async fn synced(session: &Session, count: u32) {
    const ALONE: u32 = 100;
    let publish = || {
        let message = Message::new("bench", vec![7; PAYLOAD]);
        session.publish(message).unwrap()
    };
    let mut waits = Vec::new();
    for _ in 0..ALONE {
        let started = Instant::now();
        publish().stored().await.unwrap();
        waits.push(started.elapsed());
    }
    let started = Instant::now();
    let mut receipts: Vec<_> = (0..count).map(|_| publish()).collect();
    for receipt in &mut receipts {
        receipt.stored().await.unwrap();
    }
    let each = started.elapsed().as_secs_f64() * 1e6 / f64::from(count);
    println!("{} {each}", quantiles(waits));
}

async fn latency(session: &Session, count: u32) {
    let mut waits = Vec::new();
    for _ in 0..count {
        let started = Instant::now();
        let message = Message::new("bench", vec![7; PAYLOAD]);
        session.publish(message).unwrap().await.unwrap();
        waits.push(started.elapsed());
    }
    println!("{}", quantiles(waits));
}
