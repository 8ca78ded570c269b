//! Carries bytes both ways between a caller and a local application until either is done.
//!
//! The tunnel has no half-close: when one side of a channel ends, both do. But inside of TLS a caller may say that it
//! has nothing more to send and still wait for the answer; so after one direction has ended the other may go on, for a
//! limited time.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split};
use tokio::time::timeout;

use crate::upstream::UpstreamStream;

/// How long one direction may go on after the other has ended.
const LINGER: Duration = Duration::from_secs(60);

/// Sends `preface` to the application if there is one, then carries bytes until both directions have ended, or one has and
/// the other does not within [`LINGER`].
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
    let there = one_way(left_reader, right_writer);
    let back = one_way(right_reader, left_writer);
    tokio::pin!(there, back);
    let rest = tokio::select! {
        ended = &mut there => { ended?; timeout(LINGER, back).await }
        ended = &mut back => { ended?; timeout(LINGER, there).await }
    };
    rest.unwrap_or(Ok(()))
}

/// Carries bytes until the end of `reader`, and passes the end on.
async fn one_way<R, W>(mut reader: R, mut writer: W) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    copy(&mut reader, &mut writer).await?;
    writer.shutdown().await
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
}
