//! Redacts values from the command line or the environment that may be secrets.
//!
//! Users put keys in wrong places: after the wrong option, as a separate argument, instead of a
//! file name. A message that repeats such a value exposes it in logs and on screens. So a value is
//! shown only if its form excludes a key, a token or a password; the rest are misspelt names,
//! numbers and addresses.

use std::fmt;
use std::path::Path;

/// Maximum length of a text that is too short for a key.
const MAX_SHORT: usize = 4;

/// Maximum length of a text of words, and of a URL. A passphrase is longer.
const MAX_TEXT: usize = 24;
const MAX_URL: usize = 64;

/// Maximum length of a lower-case word, and of capitals: generated keys have longer runs, or mix
/// letters and digits.
const MAX_WORD: usize = 12;
const MAX_CAPITALS: usize = 4;

/// Maximum digits of a number: a port has five.
const MAX_DIGITS: usize = 5;

/// Maximum parts of a text that are not lower-case words, as in `SN 0001`.
const MAX_OTHER_PARTS: usize = 2;

/// Maximum words joined by hyphens, as in the name of an option, a host or a header.
const MAX_HYPHENATED: usize = 4;

const SEPARATORS: &str = " .:/+#$[]?*";

/// The replacement for a value that may be a secret.
pub(crate) const REDACTED: &str = "(not shown, as it could be a secret)";

/// Whether a text may be a key, a token or a password.
pub(crate) fn may_be_secret(text: &str) -> bool {
    if text.len() <= MAX_SHORT {
        return false;
    }
    let url = ["https://", "http://"]
        .into_iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let (text, limit) = match url {
        Some(rest) => (rest, MAX_URL),
        None => (text, MAX_TEXT),
    };
    text.len() > limit || !(is_address(text) || is_words(text))
}

/// Whether a text is a number, an IP address or a range of them, perhaps with a port.
fn is_address(text: &str) -> bool {
    let hex = text.contains(':');
    let text = text.strip_prefix('-').unwrap_or(text);
    text.split(['.', ':', '/', '[', ']']).all(|part| {
        is_all(part, MAX_DIGITS, u8::is_ascii_digit)
            || (hex && is_all(part, 4, u8::is_ascii_hexdigit))
    })
}

/// Whether a text is a host, a command or the name of a setting: short words, and few numbers.
fn is_words(text: &str) -> bool {
    let others: Vec<_> = text
        .split(|separator| SEPARATORS.contains(separator))
        .filter(|part| !is_hyphenated(part))
        .collect();
    others.len() <= MAX_OTHER_PARTS && others.into_iter().all(is_short)
}

fn is_hyphenated(text: &str) -> bool {
    let is_word = |word: &str| {
        let rest = word.strip_prefix(|first: char| first.is_ascii_uppercase());
        is_all(rest.unwrap_or(word), MAX_WORD, u8::is_ascii_lowercase)
    };
    text.split(['-', '_']).count() <= MAX_HYPHENATED && text.split(['-', '_']).all(is_word)
}

/// Whether a part is capitals, a number, or a few letters followed by a number.
fn is_short(part: &str) -> bool {
    let (letters, digits) = part.split_at(
        part.find(|c: char| c.is_ascii_digit())
            .unwrap_or(part.len()),
    );
    is_all(digits, MAX_DIGITS, u8::is_ascii_digit)
        && (is_all(letters, MAX_CAPITALS, u8::is_ascii_uppercase)
            || is_all(letters, MAX_CAPITALS, u8::is_ascii_lowercase))
}

fn is_all(text: &str, limit: usize, kind: impl Fn(&u8) -> bool) -> bool {
    text.len() <= limit && text.bytes().all(|byte| kind(&byte))
}

/// Whether a text can be the name of an option: lower-case words after two hyphens, or one letter
/// after one.
pub(crate) fn is_option_name(text: &str) -> bool {
    match text.strip_prefix("--") {
        Some(name) => {
            let fits = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
            !name.is_empty()
                && name.len() <= MAX_TEXT
                && name.bytes().all(fits)
                && is_hyphenated(name)
        }
        None => text.len() == 2 && text.starts_with('-'),
    }
}

/// Formats a value for a message: in quotation marks, or redacted.
pub(crate) struct Redacted<'a>(pub(crate) &'a str);

impl fmt::Display for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if may_be_secret(self.0) {
            f.write_str(REDACTED)
        } else {
            write!(f, "'{}'", self.0)
        }
    }
}

/// Formats a topic for a message: a text with levels is not a key.
pub(crate) struct RedactedTopic<'a>(pub(crate) &'a str);

impl fmt::Display for RedactedTopic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains('/') {
            f.write_str(self.0)
        } else {
            Redacted(self.0).fmt(f)
        }
    }
}

/// Formats a path for a message. A path that exists, or whose parent exists, is not a misplaced
/// key.
pub(crate) struct RedactedPath<'a>(pub(crate) &'a Path);

impl RedactedPath<'_> {
    pub(crate) fn is_shown(&self) -> bool {
        // The root does not count: a key in base64 can begin with a slash.
        let named = |path: &&Path| path.file_name().is_some();
        self.0.ancestors().filter(named).any(Path::exists)
            || !self.0.to_str().is_some_and(may_be_secret)
    }
}

impl fmt::Display for RedactedPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_shown() {
            write!(f, "{:?}", self.0)
        } else {
            f.write_str(REDACTED)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_addresses_are_shown() {
        for text in [
            "frobnicate",
            "a/b#",
            "a b",
            "SN 0001",
            "SN/1",
            "xml",
            "v3",
            "rot13",
            "65536",
            "-1",
            "localhost",
            "localhost:65536",
            "my-host.local:0",
            "remotetoken",
            "X_Forwarded_For",
            "*.example.com",
            "127.0.0.1:80",
            "192.0.2.0/33",
            "2001:db8::/129",
            "[::1]:0",
            "http://api.example.com",
            "http://10.0.0.1:8080",
            "https://api.staging.example.com?x",
        ] {
            assert!(!may_be_secret(text), "{text}");
        }
    }

    #[test]
    fn possible_keys_tokens_and_passwords_are_redacted() {
        for text in [
            "cc8498bebd4e5915b0cc5fc21eb6622d",
            "550e8400-e29b-41d4-a716-446655440000",
            "pk-1234",
            "s3cret",
            "hunter2",
            "PASSWORD",
            "ABCD-1234-EFGH-5678",
            "1234567890",
            "1234-5678-9012",
            "sk_live_4eC39HqLyjW",
            "gAAAAAB0token=",
            "eyJhbGciOiJIUzI1NiJ9.e30.x",
            "correct horse battery staple",
            "correct-horse-battery-staple-again",
            "http://user:word@api.example.com",
            "http://word@proxy",
            "me:word@proxy:3128",
            "https://a.example?token=word",
            "https://cc8498bebd4e5915b0cc5fc21eb6622d",
            "{\"key\": \"word\"}",
            "pässwört",
        ] {
            assert!(may_be_secret(text), "{text}");
            assert_eq!(Redacted(text).to_string(), REDACTED);
        }
    }

    #[test]
    fn path_is_shown_if_it_exists_or_cannot_be_key() {
        let shown = |path: &str| RedactedPath(Path::new(path)).to_string();
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("cc8498bebd4e5915b0cc5fc21eb6622d");
        assert_eq!(RedactedPath(&inside).to_string(), format!("{inside:?}"));
        for path in ["key.txt", "-", "/", "/proc/cc8498bebd4e5915"] {
            assert_eq!(shown(path), format!("{path:?}"));
        }
        for key in [
            "cc8498bebd4e5915b0cc5fc21eb6622d",
            "/9jcc8498bebd4e5915b",
            "ab12/9jcc8498bebd4e59",
        ] {
            assert_eq!(shown(key), REDACTED);
        }
    }

    #[test]
    fn option_names_are_words() {
        for name in ["--frobnicate", "--no-such-option", "-x"] {
            assert!(is_option_name(name), "{name}");
        }
        for other in ["--", "--pk-1234", "--token=a", "-xyz", "xyz", "--Token"] {
            assert!(!is_option_name(other), "{other}");
        }
    }
}
