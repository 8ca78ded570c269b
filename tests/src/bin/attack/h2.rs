//! HTTP/2 frames and HPACK bytes, made by hand so that they may be what no library sends.
//!
//! Specification: RFC 9113 §4 and §6, RFC 7541 §5, §6 and appendices A and B.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::caller::{Alpn, Caller};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

const INITIAL_WINDOW_SIZE: u16 = 4;

/// For bytes that the device has to take: one that takes none for so long has stopped reading.
const WRITE_LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(9 + payload.len());
    frame.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// An integer with a prefix of so many bits, behind these first bits (RFC 7541 §5.1).
fn integer(first: u8, prefix: u32, value: usize) -> Vec<u8> {
    let most = (1 << prefix) - 1;
    if value < most {
        return vec![first | value as u8];
    }
    let mut bytes = vec![first | most as u8];
    let mut rest = value - most;
    while rest >= 128 {
        bytes.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    bytes.push(rest as u8);
    bytes
}

fn string(text: &[u8]) -> Vec<u8> {
    let mut bytes = integer(0, 7, text.len());
    bytes.extend_from_slice(text);
    bytes
}

/// A field of the static or the dynamic table, of which 62 is the newest.
pub(crate) fn indexed(index: usize) -> Vec<u8> {
    integer(128, 7, index)
}

/// A field that goes into the dynamic table.
pub(crate) fn remembered(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![64];
    bytes.extend(string(name.as_bytes()));
    bytes.extend(string(value));
    bytes
}

/// A field that goes into no table.
pub(crate) fn literal(name: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(string(name.as_bytes()));
    bytes.extend(string(value));
    bytes
}

/// The pseudo-header of a request.
pub(crate) fn pseudo_header(method: &str, host: &str, path: &str) -> Vec<u8> {
    [
        literal(":method", method.as_bytes()),
        indexed(7), // :scheme https
        literal(":authority", host.as_bytes()),
        literal(":path", path.as_bytes()),
    ]
    .concat()
}

/// The status that a header block begins with, as servers send it: from the static table, or with
/// its value spelled out.
fn status(block: &[u8]) -> Option<u16> {
    // A change of the dynamic table's size may come first.
    let block = match block.first()? {
        0x20..=0x3f => &block[1..],
        _ => block,
    };
    let first = *block.first()?;
    if first & 128 != 0 {
        let known = [200, 204, 206, 304, 400, 404, 500];
        return known.get(usize::from(first & 127).checked_sub(8)?).copied();
    }
    // A literal whose name is one of the seven of `:status`, in each of the three forms.
    let index = if first & 64 != 0 {
        first & 63
    } else {
        first & 15
    };
    if !(8..=14).contains(&index) {
        return None;
    }
    let length = *block.get(1)?;
    let value = block.get(2..2 + usize::from(length & 127))?;
    if length & 128 == 0 {
        return std::str::from_utf8(value).ok()?.parse().ok();
    }
    let mut bits = value
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)));
    let mut number = 0;
    for _ in 0..3 {
        let five = (0..5).try_fold(0, |code, _| Some(code << 1 | bits.next()?))?;
        // Of the digits, `0` to `2` have codes of five bits, the others of six (RFC 7541, appendix
        // B).
        let digit = match five {
            0..=2 => five,
            _ => (five << 1 | bits.next()?).checked_sub(0x19 - 3)?,
        };
        number = number * 10 + digit;
    }
    Some(number)
}

/// What a device has answered on one connection.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// By stream; 0 for one that was answered with something else than a plain status.
    pub(crate) statuses: BTreeMap<u32, u16>,
    /// Streams that the device has ended.
    pub(crate) closed: BTreeSet<u32>,
    /// Whether the connection has ended.
    pub(crate) ended: bool,
}

/// A connection over which an attacker sends what it likes. Answers are read and thrown away, and
/// no window is ever opened.
pub(crate) struct Connection {
    writer: WriteHalf<TlsStream<TcpStream>>,
    answers: Arc<Mutex<Answers>>,
    _reader: JoinSet<()>,
}

impl Connection {
    /// Connects, with this initial window for each stream.
    pub(crate) async fn open(caller: &Caller, window: u32) -> Result<Self> {
        let stream = caller.connect(Alpn::Http2).await?;
        let (reader, mut writer) = tokio::io::split(stream);
        let mut settings = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
        settings.extend_from_slice(&window.to_be_bytes());
        writer
            .write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &settings)].concat())
            .await?;
        let answers = Arc::<Mutex<Answers>>::default();
        let kept = Arc::clone(&answers);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // The end of a connection is an answer too.
            let _ = read(reader, &kept).await;
            kept.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        });
        let mut connection = Self {
            writer,
            answers,
            _reader: tasks,
        };
        connection.send(&frame(SETTINGS, ACK, 0, &[])).await?;
        Ok(connection)
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = async {
            self.writer.write_all(bytes).await?;
            self.writer.flush().await
        };
        timeout(WRITE_LIMIT, sent)
            .await
            .context("the device reads nothing")??;
        Ok(())
    }

    /// What was answered so far.
    pub(crate) fn answers<T>(&self, look: impl FnOnce(&Answers) -> T) -> T {
        look(&self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The status of the answer on a stream, `None` if the stream or the connection ends without
    /// one.
    pub(crate) async fn status(&self, stream: u32, limit: Duration) -> Option<u16> {
        let wait = async {
            loop {
                let (status, over) = self.answers(|answers| {
                    (
                        answers.statuses.get(&stream).copied(),
                        answers.ended || answers.closed.contains(&stream),
                    )
                });
                if status.is_some() || over {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(limit, wait).await.ok().flatten()
    }
}

async fn read(mut reader: ReadHalf<TlsStream<TcpStream>>, answers: &Mutex<Answers>) -> Result<()> {
    let mut head = [0; 9];
    loop {
        reader.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload).await?;
        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        if kind == HEADERS {
            answers
                .statuses
                .entry(stream)
                .or_insert_with(|| status(&payload).unwrap_or(0));
        }
        if kind == RST_STREAM || (matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0) {
            answers.closed.insert(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_match_the_examples_of_rfc_7541() {
        assert_eq!(integer(0, 5, 10), [10]);
        assert_eq!(integer(0, 5, 1337), [31, 154, 10]);
        assert_eq!(integer(0, 8, 42), [42]);
    }

    #[test]
    fn status_reads_every_form() {
        assert_eq!(status(&[0x88]), Some(200));
        assert_eq!(status(&[0x20, 0x8d]), Some(404));
        assert_eq!(status(&[0x48, 3, b'4', b'2', b'1']), Some(421));
        // Examples of RFC 7541, C.6.1 and C.6.2, whose values are compressed.
        assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), Some(302));
        assert_eq!(status(&[0x48, 0x83, 0x64, 0x0e, 0xff]), Some(307));
        assert_eq!(status(&[0x08, 0x83, 0x68, 0x84, 0xff]), None);
        assert_eq!(status(&[0x41]), None);
        assert_eq!(status(&[]), None);
    }
}
