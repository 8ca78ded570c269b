//! Text from outside, escaped where it enters.

use std::borrow::Cow;
use std::fmt::{self, Write};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longer text is cut: a log line or an error message needs no more.
const MAX_CHARS: usize = 256;

/// Text that a peer, a file or a caller supplied, made safe to log and to show on a terminal.
///
/// The constructors escape every character that is not printable (control characters of C0 and C1,
/// DEL, bidirectional overrides, line and paragraph separators, unassigned code points) as `\n`,
/// `\t`, `\r` or `\u{…}`, and a backslash as `\\`, so that no text imitates an escape. Bytes that
/// are not UTF-8 become U+FFFD. Text beyond 256 characters is cut; the number of bytes left out is
/// appended.
///
/// There is no way back to the original: code that needs it keeps it, and code that shows it keeps
/// this.
///
/// ```
/// use cloud_net::UntrustedText;
///
/// let reason = UntrustedText::new("quota\u{1b}[2Jexceeded\r\nINFO all is well");
/// assert_eq!(reason.to_string(), r"quota\u{1b}[2Jexceeded\r\nINFO all is well");
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct UntrustedText(Box<str>);

impl UntrustedText {
    /// Escapes `text`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut escaped = String::with_capacity(text.len().min(MAX_CHARS));
        let mut left = text.char_indices();
        for (index, character) in left.by_ref().take(MAX_CHARS) {
            push_escaped(&mut escaped, character, index == 0);
        }
        let rest = left.as_str().len();
        if rest > 0 {
            // Writing to a `String` cannot fail.
            let _ = write!(escaped, "… ({rest} more bytes)");
        }
        Self(escaped.into_boxed_str())
    }

    /// Escapes `bytes`, which are UTF-8 as a rule.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        // A character has at most four bytes, so this keeps all that `new` would show.
        let shown = &bytes[..bytes.len().min(4 * MAX_CHARS + 4)];
        match String::from_utf8_lossy(shown) {
            Cow::Borrowed(text) if shown.len() == bytes.len() => Self::new(text),
            text => {
                let mut escaped = Self::new(&text).0.into_string();
                let rest = bytes.len() - shown.len();
                if rest > 0 {
                    let _ = write!(escaped, "… ({rest} more bytes)");
                }
                Self(escaped.into_boxed_str())
            }
        }
    }

    /// Escapes what `value` displays.
    #[must_use]
    pub fn of(value: &impl fmt::Display) -> Self {
        Self::new(&value.to_string())
    }

    /// The escaped text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether there is no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// As `str::escape_debug`, but for quotation marks, which are left as they are.
fn push_escaped(escaped: &mut String, character: char, first: bool) {
    if matches!(character, '"' | '\'') {
        escaped.push(character);
    } else if first {
        escaped.extend(character.escape_debug());
    } else {
        // A combining mark belongs to the character before it; `char::escape_debug` would escape
        // it, `str`'s does not.
        let mut buffer = [0; 5];
        buffer[0] = b'a';
        let length = 1 + character.encode_utf8(&mut buffer[1..]).len();
        match std::str::from_utf8(&buffer[..length]) {
            Ok(pair) => escaped.extend(pair.escape_debug().skip(1)),
            Err(_) => escaped.extend(character.escape_debug()),
        }
    }
}

impl fmt::Display for UntrustedText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for UntrustedText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "\"{}\"", self.0)
    }
}

impl From<&str> for UntrustedText {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for UntrustedText {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

/// Escapes the text that is read.
impl<'de> Deserialize<'de> for UntrustedText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

impl Serialize for UntrustedText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> String {
        UntrustedText::new(text).to_string()
    }

    #[test]
    fn printable_text_is_unchanged() {
        for text in [
            "",
            "not authorized",
            "it's \"so\"",
            "Zugriff verweigert: ä ö ü ß",
            "日本語",
            "e\u{301}",
        ] {
            assert_eq!(shown(text), text);
        }
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(shown("a\x1b]0;x\x07b"), r"a\u{1b}]0;x\u{7}b");
        assert_eq!(shown("\u{9b}2J\x7f\0"), r"\u{9b}2J\u{7f}\0");
        assert_eq!(shown("one\r\ntwo\tthree"), r"one\r\ntwo\tthree");
        assert_eq!(shown("\u{202e}gpj\u{2028}"), r"\u{202e}gpj\u{2028}");
        assert_eq!(shown(r"\u{1b}"), r"\\u{1b}");
        assert_eq!(shown("\u{301}"), r"\u{301}");
    }

    #[test]
    fn long_text_is_cut() {
        let text = "ä".repeat(MAX_CHARS + 10);
        let expected = format!("{}… (20 more bytes)", "ä".repeat(MAX_CHARS));
        assert_eq!(shown(&text), expected);
        let bytes = vec![b'a'; 1 << 20];
        let short = UntrustedText::from_bytes(&bytes);
        assert!(short.as_str().len() < 2 * MAX_CHARS, "{short}");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced() {
        let text = UntrustedText::from_bytes(b"caf\xe9\x1b");
        assert_eq!(text.to_string(), "caf\u{fffd}\\u{1b}");
        assert_eq!(format!("{text:?}"), "\"caf\u{fffd}\\u{1b}\"");
        assert_eq!(
            serde_json::to_string(&text).unwrap(),
            "\"caf\u{fffd}\\\\u{1b}\""
        );
    }

    #[test]
    fn deserialized_text_is_escaped() {
        let text: UntrustedText = serde_json::from_str(r#""no\u001b[2J""#).unwrap();
        assert_eq!(text.as_str(), r"no\u{1b}[2J");
    }

    proptest! {
        #[test]
        fn nothing_unprintable_remains(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let text = UntrustedText::from_bytes(&bytes);
            prop_assert!(!text.as_str().chars().any(char::is_control));
            prop_assert!(text.as_str().chars().count() <= MAX_CHARS * 10 + 64);
        }
    }
}
