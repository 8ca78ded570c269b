//! Copies bytes between a caller and a local application, in both directions, until either is done.
//!
//! The tunnel has no half-close: when one side of a channel ends, both do. But inside TLS, a caller
//! may end its sending direction and still wait for the response; so after one direction has ended,
//! the other continues while data arrives. And an application may respond although it stops
//! reading, as a web server does that refuses an upload.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split};

use crate::limits::idle_timeout::{ActivityTimer, TrackedReader};
use crate::upstream::UpstreamStream;

/// The idle timeout of one direction after the other has ended.
const LINGER: Duration = Duration::from_secs(60);

/// Sends `preface` to the application, then copies bytes until both directions have ended, or one
/// has and the other is idle for [`LINGER`].
pub(crate) async fn copy_to_upstream<S>(
    caller: S,
    mut application: UpstreamStream,
    preface: &[u8],
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    application.write_all(preface).await?;
    copy_bidirectional(caller, application).await
}

/// Copies bytes between two streams, likewise.
pub(crate) async fn copy_bidirectional<A, B>(left: A, right: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (left_reader, left_writer) = split(left);
    let (right_reader, right_writer) = split(right);
    let timer = ActivityTimer::default();
    let there = copy_one_way(left_reader, right_writer, &timer);
    let back = copy_one_way(right_reader, left_writer, &timer);
    tokio::pin!(there, back);
    tokio::select! {
        ended = &mut there => copy_rest(ended, back, &timer).await,
        ended = &mut back => copy_rest(ended, there, &timer).await,
    }
}

/// The error of one direction.
enum HalfError {
    /// A read failed.
    Read(io::Error),
    /// A write failed; the other direction may contain the reason.
    Write(io::Error),
}

/// Copies bytes until the end of `reader`, then shuts `writer` down.
async fn copy_one_way<R, W>(
    reader: R,
    mut writer: W,
    timer: &ActivityTimer,
) -> Result<(), HalfError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut reader = TrackedReader::new(reader, timer.clone());
    match copy(&mut reader, &mut writer).await {
        Ok(_) => writer.shutdown().await.map_err(HalfError::Write),
        Err(error) if reader.has_failed() => Err(HalfError::Read(error)),
        Err(error) => Err(HalfError::Write(error)),
    }
}

/// Continues the other direction after one has ended, while data arrives.
async fn copy_rest(
    first: Result<(), HalfError>,
    other: impl Future<Output = Result<(), HalfError>>,
    timer: &ActivityTimer,
) -> io::Result<()> {
    let first = match first {
        Ok(()) => Ok(()),
        Err(HalfError::Read(error)) => return Err(error),
        Err(HalfError::Write(error)) => Err(error),
    };
    timer.touch();
    let other = tokio::select! {
        ended = other => ended,
        () = timer.idle_for(LINGER) => Ok(()),
    };
    first.and(other.map_err(|(HalfError::Read(error) | HalfError::Write(error))| error))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    #[tokio::test]
    async fn copies_bytes_and_eof_both_ways() {
        let (mut caller, left) = duplex(64);
        let (right, mut application) = duplex(64);
        let relay = tokio::spawn(copy_bidirectional(left, right));
        caller.write_all(b"question").await.unwrap();
        caller.shutdown().await.unwrap();
        let mut text = String::new();
        application.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "question");
        application.write_all(b"answer").await.unwrap();
        drop(application);
        text.clear();
        caller.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "answer");
        relay.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn application_ignoring_eof_is_closed_after_linger() {
        let (caller, left) = duplex(64);
        let (right, _application) = duplex(64);
        drop(caller);
        let start = tokio::time::Instant::now();
        copy_bidirectional(left, right).await.unwrap();
        assert_eq!(start.elapsed(), LINGER);
    }

    #[tokio::test(start_paused = true)]
    async fn copies_response_after_eof_while_it_arrives() {
        let (mut caller, left) = duplex(64);
        let (right, mut application) = duplex(64);
        let relay = tokio::spawn(copy_bidirectional(left, right));
        caller.shutdown().await.unwrap();
        let response = async {
            for _ in 0..10 {
                tokio::time::sleep(LINGER / 2).await;
                application.write_all(b"piece").await.unwrap();
            }
            drop(application);
        };
        let mut seen = String::new();
        let ((), read) = tokio::join!(response, caller.read_to_string(&mut seen));
        read.unwrap();
        assert_eq!(seen, "piece".repeat(10));
        relay.await.unwrap().unwrap();
    }

    /// A web server that refuses an upload does so.
    #[tokio::test]
    async fn copies_response_of_application_that_stopped_reading() {
        let (caller, left) = duplex(8);
        let (right, mut application) = duplex(64);
        application
            .write_all(b"refused, and here is why")
            .await
            .unwrap();
        drop(application);
        let relay = tokio::spawn(copy_bidirectional(left, right));
        let (mut reader, mut writer) = split(caller);
        let mut response = String::new();
        let (_, read) = tokio::join!(
            writer.write_all(&[7; 1_000]),
            reader.read_to_string(&mut response)
        );
        read.unwrap();
        assert_eq!(response, "refused, and here is why");
        let _ = relay.await.unwrap();
    }
}
