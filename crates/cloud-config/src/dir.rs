//! An open directory and its operations.
//!
//! All operations are relative to an open descriptor and never follow a symbolic link, so a
//! replaced path cannot redirect them. Files are created with mode 0600 and directories with 0700.
//! Each modifying call is one step that tests can fail (see `fault_injection`); callers derive
//! their guarantees from the order of these steps.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::error::AccessError;

const OPEN_DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// NONBLOCK, so that opening a FIFO in a file's place cannot block.
const OPEN_FILE: OFlags = OFlags::NOFOLLOW
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const DIRECTORY_MODE: Mode = Mode::RWXU;

pub(crate) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens the directory at `path`; `None` if it does not exist.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, AccessError> {
        let fd = match rustix::fs::openat(CWD, path, OPEN_DIRECTORY, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(not_a_directory(path, errno)),
        };
        let dir = Self {
            fd,
            path: path.to_owned(),
        };
        let stat = rustix::fs::fstat(&dir.fd)
            .map_err(|errno| AccessError::io("look at", path.to_owned(), errno))?;
        check_owner(path, &stat)?;
        Ok(Some(dir))
    }

    /// Opens the directory at `path` and creates it and its parents if necessary.
    pub(crate) fn open_or_create(path: &Path) -> Result<Self, AccessError> {
        if let Some(dir) = Self::open(path)? {
            return Ok(dir);
        }
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        create_parents(parent)?;
        step("create", path, || {
            match rustix::fs::mkdirat(CWD, path, DIRECTORY_MODE) {
                Err(Errno::EXIST) => Ok(()),
                other => other,
            }
        })?;
        sync_path(parent)?;
        Self::open(path)?.ok_or_else(|| AccessError::io("open", path.to_owned(), Errno::NOENT))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn subdirectory(&self, name: &str) -> Result<Option<Self>, AccessError> {
        let path = self.join(name);
        let fd = match rustix::fs::openat(&self.fd, name, OPEN_DIRECTORY, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(not_a_directory(&path, errno)),
        };
        let dir = Self { fd, path };
        check_owner(&dir.path, &dir.own_stat()?)?;
        Ok(Some(dir))
    }

    pub(crate) fn create_subdirectory(&self, name: &str) -> Result<Self, AccessError> {
        self.step("create", name, || {
            rustix::fs::mkdirat(&self.fd, name, DIRECTORY_MODE)
        })?;
        self.subdirectory(name)?
            .ok_or_else(|| AccessError::io("open", self.join(name), Errno::NOENT))
    }

    /// Creates a file that must not exist, and returns after its content is synced.
    pub(crate) fn write_new(&self, name: &str, content: &[u8]) -> Result<(), AccessError> {
        let flags = OPEN_FILE | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let fd = self.step("create", name, || {
            rustix::fs::openat(&self.fd, name, flags, FILE_MODE)
        })?;
        let mut file = File::from(fd);
        #[cfg(test)]
        crate::fault_injection::unsynced(self.join(name), &file);
        self.step("write", name, || file.write_all(content))
            .inspect_err(|_| {
                // A full disk leaves a partial file behind.
                #[cfg(test)]
                let _ = file.write_all(&content[..content.len() / 2]);
            })?;
        sync(&self.join(name), || file.sync_all())?;
        #[cfg(test)]
        crate::fault_injection::synced(&self.join(name));
        Ok(())
    }

    /// Reads up to `limit` bytes of a file and its full length; `None` if it does not exist.
    pub(crate) fn read(&self, name: &str, limit: usize) -> Result<Option<Content>, AccessError> {
        let path = self.join(name);
        let mut file = match self.open_to_read(name) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(None),
            Err(Errno::LOOP) => return Err(AccessError::Symlink(path)),
            Err(errno) => return Err(AccessError::io("read", path, errno)),
        };
        let stat = rustix::fs::fstat(&file)
            .map_err(|errno| AccessError::io("look at", path.clone(), errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(AccessError::NotAFile(path));
        }
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        let limit = usize::try_from(length).unwrap_or(limit).min(limit);
        // A single allocation: a copy left behind by growth would not be zeroized.
        let mut bytes = Zeroizing::new(Vec::with_capacity(limit));
        let mut chunk = Zeroizing::new([0; 4096]);
        while bytes.len() < limit {
            let room = chunk.len().min(limit - bytes.len());
            match file.read(&mut chunk[..room]) {
                Ok(0) => break,
                Ok(read) => bytes.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(AccessError::io("read", path, error)),
            }
        }
        Ok(Some(Content { bytes, length }))
    }

    /// Renames a file or directory and replaces an existing target.
    pub(crate) fn rename(&self, name: &str, to: &Self, new: &str) -> Result<(), AccessError> {
        to.step("replace", new, || {
            rustix::fs::renameat(&self.fd, name, &to.fd, new)
        })
    }

    /// Removes a file, if it exists.
    pub(crate) fn remove_file(&self, name: &str) -> Result<bool, AccessError> {
        self.step("remove", name, || {
            ignore_not_found(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()))
        })
    }

    /// Removes an empty directory, if it exists.
    pub(crate) fn remove_subdirectory(&self, name: &str) -> Result<bool, AccessError> {
        self.step("remove", name, || {
            ignore_not_found(rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR))
        })
    }

    /// Syncs the directory's entries.
    pub(crate) fn sync(&self) -> Result<(), AccessError> {
        sync(&self.path, || {
            tolerate_unsupported(rustix::fs::fsync(&self.fd))
        })
    }

    /// Returns the metadata of this name without following links.
    pub(crate) fn stat(&self, name: &str) -> Result<Option<Stat>, AccessError> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(AccessError::io("look at", self.join(name), errno)),
        }
    }

    /// Removes group and other permissions from the directory. Returns the previous mode if it was
    /// insecure.
    pub(crate) fn restrict(&self) -> Result<Option<u32>, AccessError> {
        restrict(&self.fd, &self.path, DIRECTORY_MODE)
    }

    /// Restricts a file in it, which must be regular and owned by this user, if it exists.
    pub(crate) fn restrict_file(&self, name: &str) -> Result<Option<u32>, AccessError> {
        let path = self.join(name);
        let Some(stat) = self.stat(name)? else {
            return Ok(None);
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Symlink => return Err(AccessError::Symlink(path)),
            _ => return Err(AccessError::NotAFile(path)),
        }
        check_owner(&path, &stat)?;
        if permissions(&stat) & 0o077 == 0 {
            return Ok(None);
        }
        let fd = rustix::fs::openat(&self.fd, name, OPEN_FILE | OFlags::RDONLY, Mode::empty())
            .map_err(|errno| AccessError::io("open", path.clone(), errno))?;
        restrict(&fd, &path, FILE_MODE)
    }

    /// Opens a lock file, creates it if necessary, and never truncates it. Opens it for reading on
    /// a read-only file system, which suffices for locking.
    pub(crate) fn open_lock_file(&self, name: &str) -> Result<File, Errno> {
        let open = || {
            #[cfg(test)]
            crate::fault_injection::check()?;
            let flags = OPEN_FILE | OFlags::RDWR | OFlags::CREATE;
            rustix::fs::openat(&self.fd, name, flags, FILE_MODE).map(File::from)
        };
        match open() {
            Err(Errno::ROFS) => self.open_to_read(name)?.ok_or(Errno::ROFS),
            other => other,
        }
    }

    /// Opens a file for reading; `None` if it does not exist.
    pub(crate) fn open_to_read(&self, name: &str) -> Result<Option<File>, Errno> {
        match rustix::fs::openat(&self.fd, name, OPEN_FILE | OFlags::RDONLY, Mode::empty()) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn own_stat(&self) -> Result<Stat, AccessError> {
        rustix::fs::fstat(&self.fd)
            .map_err(|errno| AccessError::io("look at", self.path.clone(), errno))
    }

    fn step<T, E: Into<io::Error>>(
        &self,
        action: &'static str,
        name: &str,
        call: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, AccessError> {
        step(action, &self.join(name), call)
    }
}

/// Runs one modifying call. Tests can make it fail before it has an effect.
pub(crate) fn step<T, E: Into<io::Error>>(
    action: &'static str,
    path: &Path,
    call: impl FnOnce() -> Result<T, E>,
) -> Result<T, AccessError> {
    #[cfg(test)]
    crate::fault_injection::check()
        .map_err(|errno| AccessError::io(action, path.to_owned(), errno))?;
    call().map_err(|error| AccessError::io(action, path.to_owned(), error))
}

/// Runs one sync. Tests count them.
fn sync(path: &Path, call: impl FnOnce() -> io::Result<()>) -> Result<(), AccessError> {
    #[cfg(test)]
    crate::fault_injection::count_sync();
    step("write", path, call)
}

fn sync_path(directory: &Path) -> Result<(), AccessError> {
    sync(directory, || {
        let directory = File::open(directory)?;
        tolerate_unsupported(rustix::fs::fsync(&directory))
    })
}

/// Creates a directory and its missing parents, and syncs their names.
fn create_parents(path: &Path) -> Result<(), AccessError> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    step("create", path, || std::fs::create_dir_all(path))?;
    for made in missing {
        sync_path(match made.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        })?;
    }
    Ok(())
}

/// Content of a file. Zeroized on drop, because it may be a key.
pub(crate) struct Content {
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    /// The file's length in bytes; `bytes` may be only its beginning.
    pub(crate) length: u64,
}

fn permissions(stat: &Stat) -> u32 {
    Mode::from_raw_mode(stat.st_mode).bits() & 0o777
}

fn restrict(fd: &OwnedFd, path: &Path, mode: Mode) -> Result<Option<u32>, AccessError> {
    let stat = || {
        rustix::fs::fstat(fd).map_err(|errno| AccessError::io("look at", path.to_owned(), errno))
    };
    let was = permissions(&stat()?);
    if was & 0o077 == 0 {
        return Ok(None);
    }
    // Some file systems report success without a change, so check the result.
    let _ = rustix::fs::fchmod(fd, mode);
    let now = permissions(&stat()?);
    if now & 0o077 != 0 {
        return Err(AccessError::InsecurePermissions {
            path: path.to_owned(),
            mode: now,
        });
    }
    Ok(Some(was))
}

fn check_owner(path: &Path, stat: &Stat) -> Result<(), AccessError> {
    let user = rustix::process::geteuid().as_raw();
    if stat.st_uid == user {
        return Ok(());
    }
    Err(AccessError::ForeignOwner {
        path: path.to_owned(),
        owner: stat.st_uid,
        user,
    })
}

/// Determines which path component caused ENOTDIR or ELOOP.
fn not_a_directory(path: &Path, errno: Errno) -> AccessError {
    if errno != Errno::NOTDIR && errno != Errno::LOOP {
        return AccessError::io("open", path.to_owned(), errno);
    }
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => AccessError::Symlink(path.to_owned()),
        Ok(_) => AccessError::NotADirectory(path.to_owned()),
        Err(_) => {
            let culprit = path
                .ancestors()
                .skip(1)
                .find(|ancestor| ancestor.exists())
                .unwrap_or(path);
            AccessError::NotADirectory(culprit.to_owned())
        }
    }
}

fn ignore_not_found(result: rustix::io::Result<()>) -> rustix::io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Ignores EINVAL: some file systems (FUSE, CIFS) cannot sync a directory.
fn tolerate_unsupported(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
