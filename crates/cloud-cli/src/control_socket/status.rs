//! The status of a running instance, which the instance serves on a Unix socket in the base path.
//!
//! Each client receives one JSON line; the server reads nothing. The lock of the directory, not the
//! socket, excludes a second instance; without a socket only the status is unavailable.

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cloud_facade::Status;
use cloud_facade::remote::RotationStatus;
use cloud_net::{from_unix_seconds, unix_seconds};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::application_check::{ApplicationState, ApplicationStates};
use crate::time_fmt::rfc3339;

const SOCKET: &str = "clesyde-cloud.sock";

/// Time limit: both ends are on this machine and compute nothing.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Far longer than the line, even with long reasons from a peer.
const MAX_STATUS_SIZE: u64 = 64 * 1024;

/// The status of a running instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InstanceStatus {
    pub(crate) pid: u32,
    pub(crate) iot_connected: bool,
    pub(crate) remote_connected: bool,
    /// The reason, after the first attempt.
    #[serde(default)]
    pub(crate) iot_reason: Option<String>,
    #[serde(default)]
    pub(crate) remote_reason: Option<String>,
    /// The time of the last change of each connection, RFC 3339; `None` before the first attempt
    /// has ended.
    #[serde(default)]
    pub(crate) iot_since: Option<String>,
    #[serde(default)]
    pub(crate) remote_since: Option<String>,
    /// The first application behind the tunnel with a problem, otherwise the first one; `None` for
    /// the built-in page.
    #[serde(default)]
    pub(crate) application: Option<ApplicationStatus>,
    /// All of them.
    #[serde(default)]
    pub(crate) applications: Vec<ApplicationStatus>,
    /// The rotation of each certificate, as text; `None` unless the platform desires another one.
    #[serde(default)]
    pub(crate) iot_rotation: Option<String>,
    #[serde(default)]
    pub(crate) remote_rotation: Option<String>,
}

/// The status of the application behind the tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ApplicationStatus {
    pub(crate) address: String,
    /// `None` if it is not known.
    pub(crate) answers: Option<bool>,
    pub(crate) reason: Option<String>,
    /// RFC 3339.
    pub(crate) since: Option<String>,
}

impl From<&ApplicationState> for ApplicationStatus {
    fn from(state: &ApplicationState) -> Self {
        Self {
            address: state.address.clone(),
            answers: state.answers,
            reason: state.reason.clone(),
            since: state.since.map(time_text),
        }
    }
}

/// The socket of this instance; removed when dropped.
#[derive(Debug)]
pub(crate) struct StatusSocket {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl StatusSocket {
    /// Serves the status. Call it while the directory is locked: an existing socket then belongs to
    /// a dead instance.
    pub(crate) fn serve(
        base_path: &Path,
        status: watch::Receiver<Status>,
        applications: ApplicationStates,
    ) -> Option<Self> {
        let path = base_path.join(SOCKET);
        match bind(&path) {
            Ok(listener) => Some(Self {
                path,
                task: tokio::spawn(serve(listener, status, applications)),
            }),
            Err(error) => {
                tracing::warn!(?path, %error, "could not create the status socket; `status` will not show this instance");
                None
            }
        }
    }
}

impl Drop for StatusSocket {
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

/// Serves one client at a time: each takes microseconds, and a client that does not read is dropped
/// after [`TIMEOUT`].
async fn serve(
    listener: UnixListener,
    status: watch::Receiver<Status>,
    applications: ApplicationStates,
) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            // Probably no free file descriptors; retries later.
            tokio::time::sleep(TIMEOUT).await;
            continue;
        };
        let instance = {
            let status = status.borrow();
            InstanceStatus {
                pid: std::process::id(),
                iot_connected: status.iot.connected,
                remote_connected: status.remote.connected,
                iot_reason: status.iot.reason.clone(),
                remote_reason: status.remote.reason.clone(),
                iot_since: status.iot.since.map(time_text),
                remote_since: status.remote.since.map(time_text),
                application: applications.worst().as_ref().map(ApplicationStatus::from),
                applications: applications
                    .all()
                    .iter()
                    .map(ApplicationStatus::from)
                    .collect(),
                iot_rotation: rotation(&status.iot_certificate_rotation),
                remote_rotation: rotation(&status.certificate_rotation),
            }
        };
        let Ok(line) = serde_json::to_vec(&instance) else {
            continue;
        };
        let _ = timeout(TIMEOUT, stream.write_all(&line)).await;
    }
}

/// Formats a time for people, who need no fractions of a second.
fn time_text(time: SystemTime) -> String {
    rfc3339(from_unix_seconds(unix_seconds(time)))
}

fn rotation(status: &RotationStatus) -> Option<String> {
    (*status != RotationStatus::Idle).then(|| status.to_string())
}

/// Queries the instance that runs on this base path; `None` if none answers.
pub(crate) fn query(base_path: &Path) -> Option<InstanceStatus> {
    let stream = UnixStream::connect(base_path.join(SOCKET)).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    let mut line = Vec::new();
    stream.take(MAX_STATUS_SIZE).read_to_end(&mut line).ok()?;
    serde_json::from_slice(&line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn socket_serves_status_and_replaces_stale_socket() {
        let base = tempfile::tempdir().unwrap();
        assert_eq!(query(base.path()), None);
        // The socket of a killed instance.
        drop(std::os::unix::net::UnixListener::bind(base.path().join(SOCKET)).unwrap());
        assert_eq!(query(base.path()), None);

        let (status, receiver) = watch::channel(Status::default());
        let application = ApplicationStates::fixed(vec![ApplicationState {
            address: "127.0.0.1:1".to_owned(),
            answers: Some(false),
            reason: Some("refused".to_owned()),
            since: Some(std::time::UNIX_EPOCH),
        }]);
        let socket = StatusSocket::serve(base.path(), receiver, application).unwrap();
        let mode = fs::metadata(base.path().join(SOCKET))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        for connected in [false, true] {
            status.send_modify(|status| status.iot.connected = connected);
            let instance = query(base.path()).unwrap();
            assert_eq!(
                (instance.pid, instance.iot_connected),
                (std::process::id(), connected)
            );
        }
        let application = query(base.path()).unwrap().application.unwrap();
        assert_eq!(application.reason.as_deref(), Some("refused"));
        assert_eq!(application.since.as_deref(), Some("1970-01-01T00:00:00Z"));
        let until = std::time::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let serial = "42".parse().unwrap();
        status.send_modify(|status| {
            status.certificate_rotation = RotationStatus::Idle;
            status.iot_certificate_rotation = RotationStatus::RateLimited { serial, until };
        });
        let instance = query(base.path()).unwrap();
        assert_eq!(instance.remote_rotation, None);
        assert_eq!(
            instance.iot_rotation.as_deref(),
            Some("certificate 42: rate limited until 2030-03-17T17:46:40Z")
        );
        drop(socket);
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }
}
