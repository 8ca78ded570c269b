//! Carries bytes both ways between a caller and a local application until either is done.
//!
//! The tunnel has no half-close: when one side of a channel ends, both do. But inside of TLS a caller may say that it
//! has nothing more to send and still wait for the answer; so after one direction has ended the other may go on, for as long as
//! something comes. And an application may say why it takes nothing more, as a web server does that refuses an upload.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split};

use crate::progress::{Progress, Watched};
use crate::upstream::UpstreamStream;

/// How long one direction may go on without a byte after the other has ended.
const LINGER: Duration = Duration::from_secs(60);

/// Sends `preface` to the application if there is one, then carries bytes until both directions have ended, or one has and
/// nothing comes from the other for [`LINGER`].
pub(crate) async fn to_application<S>(
    caller: S,
    mut application: UpstreamStream,
    preface: &[u8],
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    application.write_all(preface).await?;
    between(caller, application).await
}

/// Carries bytes between two streams, likewise.
pub(crate) async fn between<A, B>(left: A, right: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (left_reader, left_writer) = split(left);
    let (right_reader, right_writer) = split(right);
    let progress = Progress::default();
    let there = one_way(left_reader, right_writer, &progress);
    let back = one_way(right_reader, left_writer, &progress);
    tokio::pin!(there, back);
    tokio::select! {
        ended = &mut there => rest(ended, back, &progress).await,
        ended = &mut back => rest(ended, there, &progress).await,
    }
}

/// Why a direction has ended before its end.
enum Broken {
    /// Nothing more can be had.
    Source(io::Error),
    /// Nothing more is taken; what goes the other way may say why.
    Sink(io::Error),
}

/// Carries bytes until the end of `reader`, and passes the end on.
async fn one_way<R, W>(reader: R, mut writer: W, progress: &Progress) -> Result<(), Broken>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut reader = Watched::new(reader, progress.clone());
    match copy(&mut reader, &mut writer).await {
        Ok(_) => writer.shutdown().await.map_err(Broken::Sink),
        Err(error) if reader.has_failed() => Err(Broken::Source(error)),
        Err(error) => Err(Broken::Sink(error)),
    }
}

/// One direction has ended; the other goes on while it gets on.
async fn rest(
    first: Result<(), Broken>,
    other: impl Future<Output = Result<(), Broken>>,
    progress: &Progress,
) -> io::Result<()> {
    let first = match first {
        Ok(()) => Ok(()),
        Err(Broken::Source(error)) => return Err(error),
        Err(Broken::Sink(error)) => Err(error),
    };
    progress.touch();
    let other = tokio::select! {
        ended = other => ended,
        () = progress.stalled(LINGER) => Ok(()),
    };
    first.and(other.map_err(|(Broken::Source(error) | Broken::Sink(error))| error))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, duplex};

    use super::*;

    #[tokio::test]
    async fn bytes_and_ends_are_passed_on_both_ways() {
        let (mut caller, left) = duplex(64);
        let (right, mut application) = duplex(64);
        let relay = tokio::spawn(between(left, right));
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
    async fn an_application_that_ignores_its_callers_end_is_left_after_a_while() {
        let (caller, left) = duplex(64);
        let (right, _application) = duplex(64);
        drop(caller);
        let start = tokio::time::Instant::now();
        between(left, right).await.unwrap();
        assert_eq!(start.elapsed(), LINGER);
    }

    #[tokio::test(start_paused = true)]
    async fn what_still_comes_after_one_end_is_passed_on_for_as_long_as_it_comes() {
        let (mut caller, left) = duplex(64);
        let (right, mut application) = duplex(64);
        let relay = tokio::spawn(between(left, right));
        caller.shutdown().await.unwrap();
        let answer = async {
            for _ in 0..10 {
                tokio::time::sleep(LINGER / 2).await;
                application.write_all(b"piece").await.unwrap();
            }
            drop(application);
        };
        let mut seen = String::new();
        let ((), read) = tokio::join!(answer, caller.read_to_string(&mut seen));
        read.unwrap();
        assert_eq!(seen, "piece".repeat(10));
        relay.await.unwrap().unwrap();
    }

    /// As a web server does that refuses an upload.
    #[tokio::test]
    async fn an_answer_is_passed_on_though_its_application_takes_nothing_more() {
        let (caller, left) = duplex(8);
        let (right, mut application) = duplex(64);
        application
            .write_all(b"refused, and here is why")
            .await
            .unwrap();
        drop(application);
        let relay = tokio::spawn(between(left, right));
        let (mut reader, mut writer) = split(caller);
        let mut answer = String::new();
        let (_, read) = tokio::join!(
            writer.write_all(&[7; 1_000]),
            reader.read_to_string(&mut answer)
        );
        read.unwrap();
        assert_eq!(answer, "refused, and here is why");
        let _ = relay.await.unwrap();
    }
}
