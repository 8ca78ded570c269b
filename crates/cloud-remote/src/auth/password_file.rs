//! A file of users and the hashes of their passwords, in the format of Apache's `htpasswd`.
//!
//! A line is `NAME:HASH`; what follows another colon, empty lines and lines that begin with `#` are
//! ignored.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use cloud_net::UntrustedText;
use zeroize::Zeroizing;

use super::password_hash::{PasswordHash, PasswordHashError};

/// Maximum size of a file: about ten thousand users.
pub const MAX_PASSWORD_FILE_SIZE: usize = 1024 * 1024;
/// Maximum length of a name in bytes, as in `htpasswd`.
const MAX_NAME: usize = 255;

/// A keyed hash of a user's name and password.
pub(super) type CredentialTag = Zeroizing<[u8; 32]>;

/// The users of a password file. Clones share them.
///
/// The entries are hashes of bcrypt, as `htpasswd -B FILE NAME` writes them, or of Argon2. Faster
/// hashes and plain text are refused: a reader of the file could guess the passwords.
#[derive(Clone)]
pub struct PasswordFile(Arc<Users>);

struct Users {
    users: Vec<User>,
    by_name: HashMap<Arc<str>, usize>,
}

/// An entry of the file.
pub(super) struct User {
    pub(super) name: Arc<str>,
    pub(super) hash: PasswordHash,
    /// The tag of the right password, once it was verified by its hash.
    pub(super) verified: OnceLock<CredentialTag>,
}

/// An error of parsing a [`PasswordFile`]. Shows neither a password nor a hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordFileError {
    /// The file is too large.
    #[error("it has more than {MAX_PASSWORD_FILE_SIZE} bytes")]
    TooLarge,
    /// The file has no entries.
    #[error("it has no users; add one with: htpasswd -B FILE NAME")]
    NoUsers,
    /// A line is not an entry.
    #[error("line {line} is not of the form NAME:HASH; add an entry with: htpasswd -B FILE NAME")]
    NotAnEntry {
        /// The line's number, from 1.
        line: usize,
    },
    /// Two entries have the same name.
    #[error("line {line} has a second entry for {name}; remove one of them")]
    Duplicate {
        /// The line's number, from 1.
        line: usize,
        /// The user's name.
        name: UntrustedText,
    },
    /// The hash of an entry is refused.
    #[error("line {line}, the entry of {name}: {reason}; replace it with: htpasswd -B FILE NAME")]
    Hash {
        /// The line's number, from 1.
        line: usize,
        /// The user's name.
        name: UntrustedText,
        /// The reason.
        reason: PasswordHashError,
    },
}

impl PasswordFile {
    /// Parses the content of a file.
    ///
    /// # Errors
    /// [`PasswordFileError`] for the first line that is refused.
    pub fn parse(text: &str) -> Result<Self, PasswordFileError> {
        if text.len() > MAX_PASSWORD_FILE_SIZE {
            return Err(PasswordFileError::TooLarge);
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut users = Vec::new();
        let mut by_name = HashMap::new();
        for (line, entry) in (1..).zip(text.lines()) {
            if entry.trim().is_empty() || entry.starts_with('#') {
                continue;
            }
            let mut fields = entry.split(':');
            let (name, hash) = match (fields.next(), fields.next()) {
                (Some(name), Some(hash)) if is_name(name) => (name, hash.trim_end()),
                _ => return Err(PasswordFileError::NotAnEntry { line }),
            };
            let hash = PasswordHash::parse(hash).map_err(|reason| PasswordFileError::Hash {
                line,
                name: UntrustedText::new(name),
                reason,
            })?;
            let shown = name;
            let name: Arc<str> = name.into();
            if by_name.insert(Arc::clone(&name), users.len()).is_some() {
                let name = UntrustedText::new(shown);
                return Err(PasswordFileError::Duplicate { line, name });
            }
            users.push(User {
                name,
                hash,
                verified: OnceLock::new(),
            });
        }
        if users.is_empty() {
            return Err(PasswordFileError::NoUsers);
        }
        Ok(Self(Arc::new(Users { users, by_name })))
    }

    /// Returns the place of a user.
    pub(super) fn position(&self, name: &[u8]) -> Option<usize> {
        let name = std::str::from_utf8(name).ok()?;
        self.0.by_name.get(name).copied()
    }

    /// Returns the user at a place; places beyond the last one begin again at the first.
    pub(super) fn user(&self, position: usize) -> Option<&User> {
        self.0.users.get(position % self.0.users.len().max(1))
    }

    /// Returns whether this is the same value, not only the same content.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Keeps what was verified for users whose entries are the same in `earlier`.
    pub(super) fn adopt_verified(&self, earlier: &Self) {
        for user in &self.0.users {
            let before = earlier.position(user.name.as_bytes());
            let before = before.and_then(|position| earlier.user(position));
            let tag = before
                .filter(|before| before.hash == user.hash)
                .and_then(|before| before.verified.get());
            if let Some(tag) = tag {
                let _ = user.verified.set(tag.clone());
            }
        }
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control)
}

impl fmt::Debug for PasswordFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PasswordFile({} users)", self.0.users.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(password: &str) -> String {
        bcrypt::hash(password, 4).unwrap()
    }

    #[test]
    fn entries_are_read_beside_comments_and_empty_lines() {
        let (one, other) = (hash("one"), hash("other"));
        let text = format!("\u{feff}# users\r\n\r\nalice:{one}\r\nbob jr:{other}:a comment\n");
        let file = PasswordFile::parse(&text).unwrap();
        for (name, password) in [("alice", "one"), ("bob jr", "other")] {
            let user = file.user(file.position(name.as_bytes()).unwrap()).unwrap();
            assert!(user.hash.verify(password.as_bytes()), "{name}");
        }
        assert_eq!(file.position(b"Alice"), None);
        assert_eq!(file.position(b"\xff"), None);
        assert_eq!(format!("{file:?}"), "PasswordFile(2 users)");
    }

    #[test]
    fn refused_line_is_named_without_its_secret() {
        let good = hash("one");
        for (text, line, part) in [
            ("alice:hunter2".to_owned(), 1, "plain text"),
            (format!("a:{good}\nb:{{SHA}}W6ph5Mm5"), 2, "SHA-1"),
            ("# users\nhunter2".to_owned(), 2, "NAME:HASH"),
            (format!(":{good}"), 1, "NAME:HASH"),
            (format!("a\u{1b}[2J:{good}"), 1, "NAME:HASH"),
            (format!("a:{good}\na:{good}"), 2, "second entry for a"),
        ] {
            let error = PasswordFile::parse(&text).unwrap_err().to_string();
            assert!(error.contains(&format!("line {line}")), "{error}");
            assert!(error.contains(part), "{error}");
            assert!(
                !error.contains("hunter2") && !error.contains(&good),
                "{error}"
            );
        }
        for empty in ["", "\n# none\n"] {
            let error = PasswordFile::parse(empty).unwrap_err();
            assert_eq!(error, PasswordFileError::NoUsers);
        }
        let large = "#".repeat(MAX_PASSWORD_FILE_SIZE + 1);
        let error = PasswordFile::parse(&large).unwrap_err();
        assert_eq!(error, PasswordFileError::TooLarge);
    }

    #[test]
    fn unchanged_entries_stay_verified() {
        let (alice, bob) = (hash("one"), hash("two"));
        let before = PasswordFile::parse(&format!("alice:{alice}\nbob:{bob}")).unwrap();
        for position in 0..2 {
            let user = before.user(position).unwrap();
            user.verified.set(Zeroizing::new([7; 32])).unwrap();
        }
        let text = format!("bob:{}\nalice:{alice}", hash("three"));
        let after = PasswordFile::parse(&text).unwrap();
        after.adopt_verified(&before);
        let is_verified = |name: &[u8]| {
            let user = after.user(after.position(name).unwrap()).unwrap();
            user.verified.get().is_some()
        };
        assert!(is_verified(b"alice") && !is_verified(b"bob"));
    }
}
