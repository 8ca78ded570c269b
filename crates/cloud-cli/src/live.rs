//! How `status` learns of an instance that runs: the instance answers on a socket in the base path.
//!
//! Whoever connects is sent one JSON line and nothing is read from him. The directory's lock, not this, is what keeps
//! two instances apart; a socket that cannot be made costs the live state and no more.

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloud_facade::Status;
use cloud_facade::remote::RotationStatus;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const SOCKET: &str = "clesyde-cloud.sock";

/// Both ends are on this machine and have nothing to compute.
const LIMIT: Duration = Duration::from_secs(2);

/// Far more than the one line that is sent, reasons of a peer's own wording included.
const MAX_ANSWER: u64 = 16 * 1024;

/// The live state of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Live {
    pub(crate) pid: u32,
    pub(crate) iot_connected: bool,
    pub(crate) remote_connected: bool,
    /// Why not, once it has been tried.
    #[serde(default)]
    pub(crate) iot_reason: Option<String>,
    #[serde(default)]
    pub(crate) remote_reason: Option<String>,
    /// The rotation of each certificate, as text; none unless the platform desires another one.
    #[serde(default)]
    pub(crate) iot_rotation: Option<String>,
    #[serde(default)]
    pub(crate) remote_rotation: Option<String>,
}

/// The socket of this instance; gone when dropped.
#[derive(Debug)]
pub(crate) struct LiveSocket {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl LiveSocket {
    /// Serves the state. Call it while the directory's lock is held: a socket that is there is then a dead instance's.
    pub(crate) fn serve(base_path: &Path, status: watch::Receiver<Status>) -> Option<Self> {
        let path = base_path.join(SOCKET);
        match bind(&path) {
            Ok(listener) => Some(Self {
                path,
                task: tokio::spawn(answer(listener, status)),
            }),
            Err(error) => {
                tracing::warn!(?path, %error, "`status` will not know of this instance");
                None
            }
        }
    }
}

impl Drop for LiveSocket {
    fn drop(&mut self) {
        self.task.abort();
        let _ = fs::remove_file(&self.path);
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// One caller after the other: each takes microseconds, and one that does not read is left after [`LIMIT`].
async fn answer(listener: UnixListener, status: watch::Receiver<Status>) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely; the next caller may have more luck.
            tokio::time::sleep(LIMIT).await;
            continue;
        };
        let live = {
            let status = status.borrow();
            Live {
                pid: std::process::id(),
                iot_connected: status.iot.connected,
                remote_connected: status.remote.connected,
                iot_reason: status.iot.reason.clone(),
                remote_reason: status.remote.reason.clone(),
                iot_rotation: rotation(&status.iot_certificate_rotation),
                remote_rotation: rotation(&status.certificate_rotation),
            }
        };
        let Ok(line) = serde_json::to_vec(&live) else {
            continue;
        };
        let _ = timeout(LIMIT, stream.write_all(&line)).await;
    }
}

fn rotation(status: &RotationStatus) -> Option<String> {
    (*status != RotationStatus::Idle).then(|| status.to_string())
}

/// The state of the instance that runs on this base path; `None` if there is none that answers.
pub(crate) fn ask(base_path: &Path) -> Option<Live> {
    let stream = UnixStream::connect(base_path.join(SOCKET)).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    let mut line = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut line).ok()?;
    serde_json::from_slice(&line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn an_instance_answers_while_it_lives_and_takes_the_place_of_a_dead_one() {
        let base = tempfile::tempdir().unwrap();
        assert_eq!(ask(base.path()), None);
        // What an instance leaves that was killed.
        drop(std::os::unix::net::UnixListener::bind(base.path().join(SOCKET)).unwrap());
        assert_eq!(ask(base.path()), None);

        let (status, receiver) = watch::channel(Status::default());
        let socket = LiveSocket::serve(base.path(), receiver).unwrap();
        let mode = fs::metadata(base.path().join(SOCKET))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        for connected in [false, true] {
            status.send_modify(|status| status.iot.connected = connected);
            let live = ask(base.path()).unwrap();
            assert_eq!(
                (live.pid, live.iot_connected),
                (std::process::id(), connected)
            );
        }
        let until = std::time::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let serial = "42".parse().unwrap();
        status.send_modify(|status| {
            status.certificate_rotation = RotationStatus::Idle;
            status.iot_certificate_rotation = RotationStatus::RateLimited { serial, until };
        });
        let live = ask(base.path()).unwrap();
        assert_eq!(live.remote_rotation, None);
        assert_eq!(
            live.iot_rotation.as_deref(),
            Some("certificate 42: rate limited until 2030-03-17T17:46:40Z")
        );
        drop(socket);
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }
}
