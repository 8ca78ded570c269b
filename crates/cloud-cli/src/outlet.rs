//! An outlet: a queue in front of a writer that may block, and the thread that writes.
//!
//! Standard output, standard error and the service manager's socket stand still when their reader
//! does. An outlet never makes its callers wait: the queue is bounded in lines and bytes, lines
//! beyond it are lost, counted, and reported in a note once the reader goes on.
//!
//! `tracing-appender` has such a queue for logs. It is not used because it would be a second one
//! beside that for standard output, and because its queue is bounded in lines only, it reports no
//! loss to the reader, and its guard prints to standard output if the writer is blocked at the end.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

/// Capacity of the queue in lines: some minutes of a busy device.
const MAX_QUEUED_LINES: usize = 1024;

/// Capacity of the queue in bytes. A single line may be longer: a message of the platform has up to
/// 128 KiB, and escapes make it up to six times as long.
const MAX_QUEUED_BYTES: usize = 256 * 1024;

/// Delay before a writer that would block, although it is not ours to change, is tried again.
const WOULD_BLOCK_DELAY: Duration = Duration::from_millis(20);

/// The properties of an outlet.
pub(crate) struct OutletSettings {
    /// The name of the thread.
    pub(crate) name: &'static str,
    /// Returns the note for the reader about lost lines, if it is to get one.
    pub(crate) note: Box<dyn Fn(u64) -> Option<String> + Send>,
    /// Called for the first of several write errors in succession.
    pub(crate) on_error: Box<dyn Fn(&io::Error) + Send>,
}

/// The sending half. Clones share the queue; the thread ends after the last one is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Outlet {
    queue: mpsc::Sender<Message>,
    state: Arc<State>,
    end: watch::Receiver<End>,
}

/// Counts the lines that an outlet has lost. Clones share the count.
#[derive(Debug, Clone)]
pub(crate) struct LostLines(Arc<State>);

impl LostLines {
    pub(crate) fn count(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct State {
    /// Lines and bytes that are queued or being written.
    bytes: AtomicUsize,
    lost: AtomicU64,
    /// Lost lines that no note has reported yet.
    unreported: AtomicU64,
}

#[derive(Debug)]
enum Message {
    Line { text: String, lost_before: u64 },
    Flush(oneshot::Sender<()>),
}

/// What the writer has become.
#[derive(Debug, Clone, Default)]
pub(crate) enum End {
    /// It takes lines.
    #[default]
    Open,
    /// Its reader has closed it.
    Closed,
    /// Writing failed; the first error. Later lines may succeed.
    Failed(Arc<io::Error>),
}

impl Outlet {
    /// Starts the thread. Each line includes its line break.
    pub(crate) fn start(
        settings: OutletSettings,
        writer: impl Write + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, lines) = mpsc::channel(MAX_QUEUED_LINES);
        let (ended, end) = watch::channel(End::Open);
        let state = Arc::<State>::default();
        let thread = WriterThread {
            settings,
            writer,
            state: Arc::clone(&state),
            end: ended,
            is_failing: false,
        };
        thread::Builder::new()
            .name(thread.settings.name.to_owned())
            .spawn(move || thread.run(lines))?;
        Ok(Self { queue, state, end })
    }

    /// Queues a line. Returns whether there was room for it.
    pub(crate) fn push(&self, text: String) -> bool {
        let size = text.len();
        let queued = self.state.bytes.fetch_add(size, Ordering::Relaxed);
        if queued == 0 || queued.saturating_add(size) <= MAX_QUEUED_BYTES {
            let lost_before = self.state.unreported.swap(0, Ordering::Relaxed);
            let line = Message::Line { text, lost_before };
            if self.queue.try_send(line).is_ok() {
                return true;
            }
            let unreported = &self.state.unreported;
            unreported.fetch_add(lost_before, Ordering::Relaxed);
        }
        self.state.bytes.fetch_sub(size, Ordering::Relaxed);
        self.state.lose();
        false
    }

    /// Returns the count of lost lines.
    pub(crate) fn lost_lines(&self) -> LostLines {
        LostLines(Arc::clone(&self.state))
    }

    /// Returns what the writer has become so far.
    pub(crate) fn end(&self) -> End {
        self.end.borrow().clone()
    }

    /// Returns once the reader has closed the writer; otherwise never.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn closed(&self) {
        let mut end = self.end.clone();
        if end
            .wait_for(|end| matches!(end, End::Closed))
            .await
            .is_err()
        {
            std::future::pending().await
        }
    }

    /// Waits until everything queued so far is written, or cannot be written.
    pub(crate) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.queue.send(Message::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }

    /// [`flush`](Self::flush) for code that is not asynchronous.
    pub(crate) fn blocking_flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.queue.blocking_send(Message::Flush(done)).is_ok() {
            let _ = flushed.blocking_recv();
        }
    }
}

impl State {
    fn lose(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.unreported.fetch_add(1, Ordering::Relaxed);
    }
}

struct WriterThread<W> {
    settings: OutletSettings,
    writer: W,
    state: Arc<State>,
    end: watch::Sender<End>,
    /// Whether the last write failed.
    is_failing: bool,
}

impl<W: Write> WriterThread<W> {
    fn run(mut self, mut queue: mpsc::Receiver<Message>) {
        loop {
            let message = match queue.try_recv() {
                Ok(message) => message,
                Err(_) => {
                    let lost = self.state.unreported.swap(0, Ordering::Relaxed);
                    self.report(lost);
                    match queue.blocking_recv() {
                        Some(message) => message,
                        None => return,
                    }
                }
            };
            match message {
                Message::Line { text, lost_before } => {
                    self.report(lost_before);
                    if !self.write(&text) {
                        self.state.lose();
                    }
                    self.state.bytes.fetch_sub(text.len(), Ordering::Relaxed);
                }
                Message::Flush(done) => {
                    let _ = done.send(());
                }
            }
        }
    }

    fn report(&mut self, lost: u64) {
        if lost == 0 {
            return;
        }
        if let Some(note) = (self.settings.note)(lost)
            && !self.write(&note)
        {
            let unreported = &self.state.unreported;
            unreported.fetch_add(lost, Ordering::Relaxed);
        }
    }

    /// Writes a line. Returns whether it was written.
    fn write(&mut self, line: &str) -> bool {
        if matches!(*self.end.borrow(), End::Closed) {
            return false;
        }
        // After an error, the previous line may be incomplete.
        let start = if self.is_failing { "\n" } else { "" };
        let written = write_all(&mut self.writer, format!("{start}{line}").as_bytes());
        let Err(error) = written else {
            self.is_failing = false;
            return true;
        };
        if error.kind() == io::ErrorKind::BrokenPipe {
            self.end.send_replace(End::Closed);
        } else if !std::mem::replace(&mut self.is_failing, true) {
            (self.settings.on_error)(&error);
            self.end.send_if_modified(|end| {
                let is_first = matches!(end, End::Open);
                if is_first {
                    *end = End::Failed(Arc::new(error));
                }
                is_first
            });
        }
        false
    }
}

/// Like `Write::write_all` and `flush`, but waits for a writer in non-blocking mode: another
/// process that has the same pipe or terminal may have set it.
fn write_all(writer: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match writer.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) => retry(error)?,
        }
    }
    while let Err(error) = writer.flush() {
        retry(error)?;
    }
    Ok(())
}

fn retry(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        io::ErrorKind::WouldBlock => {
            thread::sleep(WOULD_BLOCK_DELAY);
            Ok(())
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    fn settings() -> OutletSettings {
        OutletSettings {
            name: "outlet",
            note: Box::new(|lost| Some(format!("{lost} lost\n"))),
            on_error: Box::new(|_| ()),
        }
    }

    /// A writer that blocks until it is released, and records what is written.
    struct BlockingWriter {
        blocked: SyncSender<()>,
        release: Receiver<()>,
        written: SyncSender<String>,
    }

    impl Write for BlockingWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // An error means that the test has dropped the channel, which releases the writer.
            let _ = self.blocked.try_send(());
            let _ = self.release.recv();
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.written.send(text).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An outlet whose writer is blocked with one line, its release, and the lines written.
    fn blocked_outlet() -> (Outlet, SyncSender<()>, Receiver<String>) {
        let (blocked, is_blocked) = sync_channel(1);
        let (releaser, release) = sync_channel(0);
        let (written, read) = sync_channel(2 * MAX_QUEUED_LINES);
        let writer = BlockingWriter {
            blocked,
            release,
            written,
        };
        let outlet = Outlet::start(settings(), writer).unwrap();
        outlet.push("0\n".to_owned());
        is_blocked.recv().unwrap();
        (outlet, releaser, read)
    }

    #[test]
    fn blocked_writer_loses_lines_and_reports_their_number() {
        let (outlet, releaser, read) = blocked_outlet();
        for number in 1..=MAX_QUEUED_LINES {
            assert!(outlet.push(format!("{number}\n")), "{number}");
        }
        for _ in 0..10 {
            assert!(!outlet.push("lost\n".to_owned()));
        }
        assert_eq!(outlet.lost_lines().count(), 10);

        drop(releaser);
        let mut expected: Vec<_> = (0..=MAX_QUEUED_LINES)
            .map(|number| format!("{number}\n"))
            .collect();
        // Without another line.
        expected.push("10 lost\n".to_owned());
        let lines: Vec<_> = read.iter().take(expected.len()).collect();
        assert_eq!(lines, expected);

        assert!(outlet.push("at last\n".to_owned()));
        outlet.blocking_flush();
        assert_eq!(read.try_iter().collect::<Vec<_>>(), ["at last\n"]);
        assert_eq!(outlet.lost_lines().count(), 10);
    }

    #[test]
    fn queue_is_bounded_in_bytes() {
        let (outlet, releaser, read) = blocked_outlet();
        let long = "x".repeat(MAX_QUEUED_BYTES / 4);
        let taken = (0..10).filter(|_| outlet.push(long.clone())).count();
        assert_eq!(taken, 3);
        drop(releaser);
        outlet.blocking_flush();
        // An empty queue takes a line of any length.
        assert!(outlet.push("y".repeat(2 * MAX_QUEUED_BYTES)));
        outlet.blocking_flush();
        assert_eq!(read.try_iter().filter(|line| line.len() > 10).count(), 4);
    }

    /// A closed pipe.
    struct ClosedPipe;

    impl Write for ClosedPipe {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn closed_pipe_is_reported() {
        let outlet = Outlet::start(settings(), ClosedPipe).unwrap();
        outlet.push("1\n".to_owned());
        outlet.closed().await;
        outlet.push("2\n".to_owned());
        outlet.flush().await;
        assert!(matches!(outlet.end(), End::Closed));
        assert_eq!(outlet.lost_lines().count(), 2);
    }

    /// A writer with these results, then success.
    struct FailingWriter {
        errors: Vec<io::ErrorKind>,
        written: SyncSender<String>,
    }

    impl Write for FailingWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(error) = self.errors.pop() {
                return Err(error.into());
            }
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.written.send(text).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(error: io::ErrorKind) -> (Vec<String>, Outlet) {
        let (written, read) = sync_channel(10);
        let writer = FailingWriter {
            errors: vec![error; 2],
            written,
        };
        let outlet = Outlet::start(settings(), writer).unwrap();
        for number in 1..=4 {
            outlet.push(format!("{number}\n"));
            outlet.blocking_flush();
        }
        (read.try_iter().collect(), outlet)
    }

    #[test]
    fn full_disk_loses_lines_only() {
        let (lines, outlet) = written(io::ErrorKind::StorageFull);
        // The first line and the first note fail. The line before the next one may be incomplete.
        assert!(lines[0].starts_with('\n'), "{lines:?}");
        let mut lines: Vec<_> = lines.iter().map(|line| line.trim()).collect();
        lines.sort_unstable();
        assert_eq!(lines, ["1 lost", "2", "3", "4"]);
        assert_eq!(outlet.lost_lines().count(), 1);
        assert!(matches!(outlet.end(), End::Failed(_)));
    }

    #[test]
    fn writer_in_non_blocking_mode_is_waited_for() {
        let (lines, outlet) = written(io::ErrorKind::WouldBlock);
        assert_eq!(lines, ["1\n", "2\n", "3\n", "4\n"]);
        assert_eq!(outlet.lost_lines().count(), 0);
    }
}
