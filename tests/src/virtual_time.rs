//! Virtual time: a paused clock that advances when nothing else can run.
//!
//! The whole test, including both ends of every connection, runs in one thread with a paused clock.
//! The runtime advances the clock to the next timer when no task can run, no socket is ready and no
//! blocking work is running. So a test of hours takes seconds, with the real limits and delays.
//!
//! It is not exact: time may have passed before a socket becomes ready (a delayed TCP
//! acknowledgement). To limit this, the clock advances at most `MAX_STEP` without `REAL_YIELD` of
//! real time.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Builder;

/// Maximum step of the clock between two yields.
const MAX_STEP: Duration = Duration::from_millis(250);

/// Real time for the operating system at each yield.
const REAL_YIELD: Duration = Duration::from_micros(300);

/// Runs a test in virtual time.
pub fn run<T>(test: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()?;
    Ok(runtime.block_on(async {
        let yields = async {
            loop {
                // The clock does not advance during blocking work.
                let _ = tokio::task::spawn_blocking(|| std::thread::sleep(REAL_YIELD)).await;
                tokio::time::sleep(MAX_STEP).await;
            }
        };
        tokio::select! {
            done = test => done,
            () = yields => unreachable!("the yields do not end"),
        }
    }))
}
