//! A file that is replaced at a maximum size, keeping a number of old ones.
//!
//! `file-rotate` does this too, but needs a date library and a compressor. A file that another
//! program has moved is opened again without a signal: SIGHUP reads the configuration again.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Addresses of callers are personal data: only the owner may read them.
const MODE: u32 = 0o600;

/// See the [module](self). Each write is one line, and stays in one file.
#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    max_size: u64,
    keep: u32,
    file: File,
    size: u64,
    /// Device and inode.
    identity: (u64, u64),
}

impl RotatingFile {
    /// Opens the file for appending.
    pub(super) fn open(path: PathBuf, max_size: u64, keep: u32) -> io::Result<Self> {
        let file = append(&path)?;
        let metadata = file.metadata()?;
        Ok(Self {
            path,
            max_size,
            keep,
            size: metadata.len(),
            identity: (metadata.dev(), metadata.ino()),
            file,
        })
    }

    /// Opens the file again if it is no longer at its path, and replaces it if it is full.
    fn prepare(&mut self, line: usize) -> io::Result<()> {
        let is_there = fs::metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        let is_full = self.size > 0 && self.size.saturating_add(line as u64) > self.max_size;
        if is_there && !is_full {
            return Ok(());
        }
        if is_there {
            self.rotate()?;
        }
        *self = Self::open(self.path.clone(), self.max_size, self.keep)?;
        Ok(())
    }

    /// Moves each file to the next number. The last one is overwritten.
    fn rotate(&self) -> io::Result<()> {
        for number in (1..self.keep).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, self.numbered(1))
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        name.into()
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(MODE)
        .open(path)
}

impl Write for RotatingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.prepare(bytes.len())?;
        let written = self.file.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn full_file_is_replaced_and_old_ones_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let mut file = RotatingFile::open(path.clone(), 10, 2).unwrap();
        for line in [
            "one\n",
            "two\n",
            "three\n",
            "four\n",
            "a longer line\n",
            "5\n",
        ] {
            file.write_all(line.as_bytes()).unwrap();
        }
        let old = |number| read(&directory.path().join(format!("access.log.{number}")));
        assert_eq!(read(&path), "5\n");
        assert_eq!(old(1), "a longer line\n");
        assert_eq!(old(2), "four\n");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
        let mode = fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, MODE);

        // The next process continues the file.
        let mut file = RotatingFile::open(path.clone(), 10, 2).unwrap();
        file.write_all(b"6\n").unwrap();
        assert_eq!(read(&path), "5\n6\n");
    }

    #[test]
    fn moved_file_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let mut file = RotatingFile::open(path.clone(), 100, 2).unwrap();
        file.write_all(b"one\n").unwrap();
        let moved = directory.path().join("access.log-20261130");
        fs::rename(&path, &moved).unwrap();
        file.write_all(b"two\n").unwrap();
        assert_eq!(
            (read(&moved), read(&path)),
            ("one\n".into(), "two\n".into())
        );
    }
}
