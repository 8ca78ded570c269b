//! Whether a value from the command line or the environment may be repeated in a message.
//!
//! People put a key where it does not belong: behind the wrong option, as an argument of its own, in the place of a file's
//! name. A message that repeats it hands it to logs and to whoever looks over a shoulder. So a value is shown only if its
//! form rules a key, a token or a password out; what is left are misspelt names, numbers and addresses.

use std::fmt;
use std::path::Path;

/// Too short for a key.
const SHORT: usize = 4;

/// The longest text of words that is shown, and the longest URL. A passphrase has more.
const MAX_TEXT: usize = 24;
const MAX_URL: usize = 64;

/// The longest word of small letters, and of capitals: generated keys have longer runs, or mix letters and digits.
const MAX_WORD: usize = 12;
const MAX_CAPITALS: usize = 4;

/// The longest number: a port has five digits.
const MAX_DIGITS: usize = 5;

/// How many parts of a text may be other than words of small letters, as in `SN 0001`.
const MAX_OTHER_PARTS: usize = 2;

/// How many words a hyphen may join, as in the name of an option, a host or a header.
const MAX_HYPHENATED: usize = 4;

const SEPARATORS: &str = " .:/+#$[]?*";

/// Stands where a value is not shown.
pub(crate) const NOT_SHOWN: &str = "(not shown, as it could be a secret)";

/// Whether a text could be a key, a token or a password.
pub(crate) fn is_possible_secret(text: &str) -> bool {
    if text.len() <= SHORT {
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

/// A number, an IP address or a range of them, perhaps with a port.
fn is_address(text: &str) -> bool {
    let hex = text.contains(':');
    let text = text.strip_prefix('-').unwrap_or(text);
    text.split(['.', ':', '/', '[', ']']).all(|part| {
        is_all(part, MAX_DIGITS, u8::is_ascii_digit)
            || (hex && is_all(part, 4, u8::is_ascii_hexdigit))
    })
}

/// A host, a command, the name of a setting: short words, and few numbers among them.
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

/// Capitals, a number, or a few letters and then a number.
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

/// Whether this can be the name of an option: words of small letters behind two hyphens, or one letter behind one.
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

/// A value as a message may show it: in quotation marks, or not at all.
pub(crate) struct Shown<'a>(pub(crate) &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_possible_secret(self.0) {
            f.write_str(NOT_SHOWN)
        } else {
            write!(f, "'{}'", self.0)
        }
    }
}

/// A topic as a message may show it: with levels, it is one.
pub(crate) struct ShownTopic<'a>(pub(crate) &'a str);

impl fmt::Display for ShownTopic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains('/') {
            f.write_str(self.0)
        } else {
            Shown(self.0).fmt(f)
        }
    }
}

/// A path as a message may show it. One that exists, or leads into a directory that exists, is no key that was put in the
/// place of a path.
pub(crate) struct ShownPath<'a>(pub(crate) &'a Path);

impl ShownPath<'_> {
    pub(crate) fn is_shown(&self) -> bool {
        // The root says nothing: a key in base64 can begin with a slash.
        let named = |path: &&Path| path.file_name().is_some();
        self.0.ancestors().filter(named).any(Path::exists)
            || !self.0.to_str().is_some_and(is_possible_secret)
    }
}

impl fmt::Display for ShownPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_shown() {
            write!(f, "{:?}", self.0)
        } else {
            f.write_str(NOT_SHOWN)
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
            assert!(!is_possible_secret(text), "{text}");
        }
    }

    #[test]
    fn possible_keys_tokens_and_passwords_are_not_shown() {
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
            assert!(is_possible_secret(text), "{text}");
            assert_eq!(Shown(text).to_string(), NOT_SHOWN);
        }
    }

    #[test]
    fn a_path_is_shown_if_it_exists_or_could_not_be_a_key() {
        let shown = |path: &str| ShownPath(Path::new(path)).to_string();
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("cc8498bebd4e5915b0cc5fc21eb6622d");
        assert_eq!(ShownPath(&inside).to_string(), format!("{inside:?}"));
        for path in ["key.txt", "-", "/", "/proc/cc8498bebd4e5915"] {
            assert_eq!(shown(path), format!("{path:?}"));
        }
        for key in [
            "cc8498bebd4e5915b0cc5fc21eb6622d",
            "/9jcc8498bebd4e5915b",
            "ab12/9jcc8498bebd4e59",
        ] {
            assert_eq!(shown(key), NOT_SHOWN);
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
