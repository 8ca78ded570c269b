//! Where the socket is, and how it is bound and connected to.
//!
//! It is found as `clesyde-cloud.sock` in the base path. With systemd's `RuntimeDirectory=`, that
//! name is a symbolic link to the socket there, because a socket does not belong on a disk.
//!
//! An address of a Unix socket has at most 107 bytes. A longer path is reached through the open
//! directory, `/proc/self/fd/N/clesyde-cloud.sock`.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

const SOCKET: &str = "clesyde-cloud.sock";

/// Maximum length of a socket's path in bytes (`sun_path`, without the terminating NUL).
const MAX_PATH_LENGTH: usize = 107;

/// Connections that wait to be accepted: more than a user's programs open at once.
const BACKLOG: i32 = 64;

/// The files of a bound socket; removed when dropped.
#[derive(Debug)]
pub(super) struct SocketFiles(Vec<PathBuf>);

impl Drop for SocketFiles {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// Calls `f` with an address of the socket in `directory` that is short enough.
fn with_address<T>(directory: &Path, f: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let path = directory.join(SOCKET);
    if path.as_os_str().len() <= MAX_PATH_LENGTH {
        return f(&path);
    }
    let directory = File::open(directory)?;
    f(Path::new(&format!(
        "/proc/self/fd/{}/{SOCKET}",
        directory.as_raw_fd()
    )))
}

/// Connects to the socket in the base path. Does not wait.
pub(super) fn connect(base_path: &Path) -> io::Result<UnixStream> {
    with_address(base_path, |path| UnixStream::connect(path))
}

/// Binds the socket. Call it while the directory is locked: an existing socket in the base path
/// then belongs to a dead instance.
pub(super) fn bind(base_path: &Path) -> io::Result<(UnixListener, SocketFiles)> {
    remove(&base_path.join(SOCKET))?;
    let Some(runtime) = runtime_directory() else {
        return bind_in(base_path);
    };
    let path = runtime.join(SOCKET);
    // The variable may be inherited by several instances with base paths of their own.
    if connect(&runtime).is_ok() {
        tracing::warn!(
            ?path,
            "another instance serves this control socket; using one in the base path"
        );
        return bind_in(base_path);
    }
    remove(&path)?;
    let (listener, mut files) = bind_in(&runtime)?;
    let link = base_path.join(SOCKET);
    symlink(path, &link)?;
    files.0.push(link);
    Ok((listener, files))
}

/// The first directory that systemd made for the service's `RuntimeDirectory=`.
fn runtime_directory() -> Option<PathBuf> {
    let paths = std::env::var_os("RUNTIME_DIRECTORY")?;
    let first = std::env::split_paths(&paths).next()?;
    first.is_absolute().then_some(first)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn bind_in(directory: &Path) -> io::Result<(UnixListener, SocketFiles)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The file has the mode of the socket from its creation on; the umask only removes bits.
    let file = File::from(OwnedFd::from(socket));
    file.set_permissions(Permissions::from_mode(0o600))?;
    let socket = Socket::from(OwnedFd::from(file));
    with_address(directory, |path| socket.bind(&SockAddr::unix(path)?))?;
    let files = SocketFiles(vec![directory.join(SOCKET)]);
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok((UnixListener::from(OwnedFd::from(socket)), files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_in_long_path_is_private_and_reachable() {
        let base = tempfile::tempdir().unwrap();
        let long = base.path().join("d".repeat(120));
        fs::create_dir(&long).unwrap();
        for directory in [base.path(), &long] {
            assert!(connect(directory).is_err());
            // The socket of a killed instance.
            std::mem::forget(bind(directory).unwrap().1);
            assert!(connect(directory).is_err());

            let (_listener, files) = bind(directory).unwrap();
            let mode = fs::metadata(directory.join(SOCKET)).unwrap().permissions();
            assert_eq!(mode.mode() & 0o777, 0o600);
            connect(directory).unwrap();
            drop(files);
            assert!(!directory.join(SOCKET).exists());
        }
    }
}
