//! Escapes control characters, and characters that reorder text, in all output of the program.
//!
//! Untrusted text is escaped where it enters ([`cloud_net::UntrustedText`]). JSON results keep
//! their values exactly, and errors repeat arguments; so standard output and standard error are
//! written through [`text`], [`line`] or [`LogWriter`]. An escape has JSON's form `\uXXXX`, so that
//! escaped JSON keeps its value.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;

use clap::builder::styling::{AnsiColor, Style};

/// Escapes text of several lines; line breaks and tabs stay.
pub(crate) fn text(text: &str) -> Cow<'_, str> {
    escape(text, |character| matches!(character, '\n' | '\t'))
}

/// Escapes text of one line.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    escape(text, |_| false)
}

/// Whether a character is a C0 control (escape, carriage return, …), DEL, a C1 control, a line or
/// paragraph separator, or changes the direction of text.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_raw = |character| !is_unsafe(character) || keep(character);
    if text.chars().all(is_raw) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_raw(character) {
            escaped.push(character);
        } else {
            push_escaped(&mut escaped, character);
        }
    }
    escaped.into()
}

fn push_escaped(escaped: &mut String, character: char) {
    for unit in character.encode_utf16(&mut [0; 2]) {
        // Writing to a `String` cannot fail.
        let _ = write!(escaped, "\\u{unit:04x}");
    }
}

/// Standard error for log lines. Each write is one line with its line break.
///
/// `tracing-subscriber` escapes some controls in some fields: no line breaks, in its JSON form only
/// what JSON requires, and with colours not every field. So its lines come without colours, and are
/// coloured here, once they are escaped.
#[derive(Debug)]
pub(crate) struct LogWriter<W> {
    inner: W,
    colour: bool,
}

impl<W> LogWriter<W> {
    pub(crate) fn new(inner: W, colour: bool) -> Self {
        Self { inner, colour }
    }
}

impl<W: io::Write> io::Write for LogWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let (text, end) = match text.strip_suffix('\n') {
            Some(text) => (text, "\n"),
            None => (&*text, ""),
        };
        let escaped = line(text);
        let coloured = if self.colour {
            coloured(&escaped)
        } else {
            None
        };
        let written = coloured.as_deref().unwrap_or(&escaped);
        self.inner.write_all(format!("{written}{end}").as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Colours the beginning of a log line, `TIME LEVEL rest`; `None` if that is not its form.
fn coloured(line: &str) -> Option<String> {
    let (time, rest) = line.split_once(' ')?;
    let (level, rest) = rest.split_at_checked(LEVEL_WIDTH)?;
    let colour = match level.trim_start() {
        "ERROR" => AnsiColor::Red,
        "WARN" => AnsiColor::Yellow,
        "INFO" => AnsiColor::Green,
        "DEBUG" => AnsiColor::Blue,
        "TRACE" => AnsiColor::Magenta,
        _ => return None,
    };
    let (dim, colour) = (Style::new().dimmed(), colour.on_default());
    Some(format!(
        "{dim}{time}{dim:#} {colour}{level}{colour:#}{rest}"
    ))
}

/// The width of the level, aligned to the right.
const LEVEL_WIDTH: usize = 5;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const HOSTILE: &str = "a\u{1b}[2J\u{9b}2J\u{7f}\r\n\u{202e}\u{2028}\u{2066}\u{61c}b";

    fn logged(text: &str, colour: bool) -> String {
        let mut bytes = Vec::new();
        LogWriter::new(&mut bytes, colour)
            .write_all(text.as_bytes())
            .unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn unsafe_characters_are_escaped_as_in_json() {
        assert_eq!(
            line(HOSTILE),
            r"a\u001b[2J\u009b2J\u007f\u000d\u000a\u202e\u2028\u2066\u061cb"
        );
        assert_eq!(text("one\n\ttwo\r\n"), "one\n\ttwo\\u000d\n");
        for harmless in ["", "plain", "Grüße, 日本語, 👋", r"C:\u001b"] {
            assert!(matches!(line(harmless), Cow::Borrowed(same) if same == harmless));
        }
    }

    #[test]
    fn escaped_json_is_the_same_json() {
        let value = serde_json::json!({ HOSTILE: [HOSTILE, 1.5, null] });
        for json in [value.to_string(), format!("{value:#}")] {
            let escaped = text(&json);
            assert!(
                !escaped.contains(|c| is_unsafe(c) && c != '\n'),
                "{escaped}"
            );
            assert_eq!(
                serde_json::from_str::<serde_json::Value>(&escaped).unwrap(),
                value
            );
        }
    }

    #[test]
    fn log_line_stays_one_line() {
        assert_eq!(
            logged("time  INFO a\nb\u{1b}[31mred\u{1b}\n", false),
            "time  INFO a\\u000ab\\u001b[31mred\\u001b\n"
        );
        assert_eq!(logged("\u{1b}[31", true), "\\u001b[31");
    }

    #[test]
    fn only_time_and_level_are_coloured() {
        assert_eq!(
            logged("time  WARN cloud: \u{1b}[8mhidden\n", true),
            "\u{1b}[2mtime\u{1b}[0m \u{1b}[33m WARN\u{1b}[0m cloud: \\u001b[8mhidden\n"
        );
        for other in ["time", "time WARNING x", "a ä"] {
            let shown = logged(other, true);
            assert!(!shown.contains('\u{1b}'), "{shown:?}");
        }
    }
}
