//! The service behind the device: a connection begins with a ClientHello, then one byte says what
//! it is for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use integration_tests::origin::pattern;
use snitun::ProtocolVersion;
use testkit::tls::client_hello;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Barrier, Notify};

use super::HOST;

/// Channels that are open at the same time.
pub(super) const MEETING: usize = 200;
/// Down and up.
pub(super) const BULK: usize = 20_000_000;
/// What waits for a slow reader: with flow control more than the buffers of the systems on the way
/// hold, so that there has to be a pause; without, no more than the receiver puts up with.
const SLOW: usize = 32_000_000;
const SLOW_WITHOUT_PAUSES: usize = 6_000_000;

pub(super) const DOWNLOAD: u8 = b'd';
pub(super) const UPLOAD: u8 = b'u';
pub(super) const SLOW_DOWNLOAD: u8 = b'D';
pub(super) const SLOW_UPLOAD: u8 = b'U';
pub(super) const ECHO: u8 = b'e';
pub(super) const MEET: u8 = b'm';

/// The answer to an upload of the right bytes.
pub(super) const SAME: &[u8; 4] = b"same";

pub(super) struct Service {
    meeting: Barrier,
    /// Until then, slow uploads are not read.
    pub(super) release: Notify,
    /// Connections whose caller has closed them.
    pub(super) closed_by_caller: AtomicUsize,
    /// Bytes that wait for a slow reader.
    pub(super) slow: usize,
}

impl Service {
    pub(super) fn new(version: ProtocolVersion) -> Arc<Self> {
        Arc::new(Self {
            meeting: Barrier::new(MEETING),
            release: Notify::new(),
            closed_by_caller: AtomicUsize::new(0),
            slow: match version {
                ProtocolVersion::V0 => SLOW_WITHOUT_PAUSES,
                _ => SLOW,
            },
        })
    }

    /// Serves one connection to its end.
    pub(super) async fn serve<S>(&self, mut stream: S) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let expected = client_hello(HOST);
        let mut hello = vec![0; expected.len()];
        stream.read_exact(&mut hello).await?;
        if hello != expected {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match stream.read_u8().await? {
            DOWNLOAD => stream.write_all(&pattern(BULK)).await?,
            SLOW_DOWNLOAD => stream.write_all(&pattern(self.slow)).await?,
            UPLOAD => self.take(&mut stream, BULK).await?,
            SLOW_UPLOAD => {
                self.release.notified().await;
                self.take(&mut stream, self.slow).await?;
            }
            ECHO => loop {
                let byte = stream.read_u8().await?;
                stream.write_u8(byte).await?;
            },
            MEET => {
                self.meeting.wait().await;
                stream.write_all(b"met").await?;
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        stream.shutdown().await
    }

    async fn take<S>(&self, stream: &mut S, count: usize) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut received = vec![0; count];
        stream.read_exact(&mut received).await?;
        if received != pattern(count) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        stream.write_all(SAME).await?;
        // The caller closes the connection after the answer.
        if !matches!(stream.read(&mut [0]).await, Ok(1..)) {
            self.closed_by_caller.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }
}
