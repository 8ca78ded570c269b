//! Time that passes at once when nothing else can happen.
//!
//! Everything of a test, both ends of every connection included, runs in one thread with a paused clock. The runtime moves the
//! clock on to the next timer whenever no task can run, no socket is ready and no disk work is under way. So a test of hours
//! takes seconds, and the real limits and delays can stay what they are.
//!
//! It is not exact: a socket that the system makes ready a little later (a delayed acknowledgement of TCP) may find that time
//! has passed meanwhile. To keep that small, the clock does not move further than `STRIDE` without a `BREATH` of real time.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Builder;

/// How far the clock moves at most before the system gets its time.
const STRIDE: Duration = Duration::from_millis(250);

/// The time that the system gets.
const BREATH: Duration = Duration::from_micros(300);

/// Runs a test in a runtime of that kind.
pub fn run<T>(test: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()?;
    Ok(runtime.block_on(async {
        let breathing = async {
            loop {
                // The clock stands still while blocking work is under way.
                let _ = tokio::task::spawn_blocking(|| std::thread::sleep(BREATH)).await;
                tokio::time::sleep(STRIDE).await;
            }
        };
        tokio::select! {
            done = test => done,
            () = breathing => unreachable!("breathing has no end"),
        }
    }))
}
