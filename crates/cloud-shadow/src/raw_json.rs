//! JSON read value by value: a value that cannot be kept costs itself, not its document.
//!
//! serde_json refuses a whole document for one string with half a surrogate pair or a byte that is
//! not UTF-8, one number beyond the range of a double, or deep nesting, and changes integers beyond
//! 64 bits. Here such a value is left out and named, and every number that is kept is the number
//! that was sent.

use std::borrow::Cow;
use std::fmt;

use cloud_net::UntrustedText;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Number, Value};

use crate::document::Object;
use crate::error::Malformed;

/// Maximum nesting of a received value; AWS's documents permit 8 at most. Each level is scanned
/// again for each level above it.
const MAX_NESTING: usize = 32;

/// Paths that are named; more of them do not help a reader.
const MAX_PATHS: usize = 4;

/// Values that were left out, by their paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LeftOut {
    paths: Vec<UntrustedText>,
    count: usize,
    last: Option<Unreadable>,
}

impl LeftOut {
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the first path and the reason why its value cannot be kept.
    pub(crate) fn first(&self) -> Option<&UntrustedText> {
        self.paths.first()
    }

    fn add(&mut self, path: &[&str], reason: Unreadable) {
        self.count += 1;
        self.last = Some(reason);
        if self.paths.len() < MAX_PATHS {
            let path = format!("{}: {reason}", path.join("."));
            self.paths.push(path.into());
        }
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, path) in self.paths.iter().enumerate() {
            write!(f, "{}{path}", if index == 0 { "" } else { "; " })?;
        }
        match self.count - self.paths.len() {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

/// Why a value cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Unreadable {
    #[error("a number that cannot be represented")]
    Number,
    #[error("text that is not Unicode")]
    Text,
    #[error("nested more than {MAX_NESTING} levels deep")]
    Nesting,
}

/// What takes the place of a value that cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instead {
    /// Nothing: the document does not have the key.
    Nothing,
    /// `null`: the change removes the key, whose previous value is no longer true.
    Null,
}

/// Why text is not a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// It is not a JSON object.
    #[error(transparent)]
    NotAnObject(#[from] Malformed),
    /// A value cannot be kept as it is written; it is named by its path.
    #[error("a value cannot be kept as it is written: {0}")]
    NotKept(UntrustedText),
}

/// Parses a state, and refuses values that would change on their way to the shadow: numbers that
/// neither 64 bits nor a double hold, half a surrogate pair, and very deep nesting.
///
/// ```
/// let state = cloud_shadow::parse_state(r#"{"temperature": 21.5}"#)?;
/// assert_eq!(state["temperature"], 21.5);
/// let error = cloud_shadow::parse_state(r#"{"serial": 12345678901234567890123}"#);
/// assert!(error.unwrap_err().to_string().contains("serial"));
/// # Ok::<(), cloud_shadow::StateError>(())
/// ```
///
/// # Errors
///
/// [`StateError`], which names the value.
pub fn parse_state(json: &str) -> Result<Object, StateError> {
    let raw = serde_json::from_str(json).map_err(Malformed::from)?;
    let mut left_out = LeftOut::default();
    let state = read_object(raw, Instead::Nothing, &mut left_out)?;
    match left_out.first() {
        None => Ok(state),
        Some(path) => Err(StateError::NotKept(path.clone())),
    }
}

/// Reads an object.
///
/// # Errors
///
/// [`Malformed`] if it is another kind of value.
pub(crate) fn read_object(
    raw: &RawValue,
    instead: Instead,
    left_out: &mut LeftOut,
) -> Result<Object, Malformed> {
    let mut reader = Reader {
        instead,
        left_out,
        path: Vec::new(),
    };
    reader.object(&entries(raw)?)
}

/// Replaces bytes that are not UTF-8 by an escape that is no text either, so that they cost the
/// value that contains them and not the whole message.
pub(crate) fn escape_invalid_utf8(payload: &[u8]) -> Cow<'_, [u8]> {
    if str::from_utf8(payload).is_ok() {
        return Cow::Borrowed(payload);
    }
    let mut escaped = Vec::with_capacity(payload.len());
    for chunk in payload.utf8_chunks() {
        escaped.extend_from_slice(chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            // Two, because one could complete a surrogate pair with an escape before it.
            escaped.extend_from_slice(br"\udc00\udc00");
        }
    }
    Cow::Owned(escaped)
}

/// Returns keys and values of an object.
pub(crate) fn entries(raw: &RawValue) -> Result<Vec<(&RawValue, &RawValue)>, Malformed> {
    let Entries(entries) = serde_json::from_str(raw.get())?;
    Ok(entries)
}

/// Returns the value of a key of an object.
pub(crate) fn get<'a>(entries: &[(&RawValue, &'a RawValue)], key: &str) -> Option<&'a RawValue> {
    let found = entries
        .iter()
        .rev()
        .find(|(name, _)| text(name).as_deref() == Some(key));
    found.map(|(_, value)| *value)
}

struct Reader<'a, 'l> {
    instead: Instead,
    left_out: &'l mut LeftOut,
    path: Vec<&'a str>,
}

impl<'a> Reader<'a, '_> {
    fn object(&mut self, entries: &[(&'a RawValue, &'a RawValue)]) -> Result<Object, Malformed> {
        let mut object = Object::new();
        for (raw_key, raw_value) in entries {
            self.path.push(raw_key.get().trim_matches('"'));
            let value = match text(raw_key) {
                Some(key) => self.value(raw_value)?.map(|value| (key, value)),
                None => Err(Unreadable::Text),
            };
            match value {
                Ok((key, value)) => {
                    object.insert(key, value);
                }
                Err(reason) => {
                    self.left_out.add(&self.path, reason);
                    let key = text(raw_key).filter(|_| self.instead == Instead::Null);
                    object.extend(key.map(|key| (key, Value::Null)));
                }
            }
            self.path.pop();
        }
        Ok(object)
    }

    /// Reads a value. In an array every element counts, so an array is kept whole or not at all.
    fn value(&mut self, raw: &'a RawValue) -> Result<Result<Value, Unreadable>, Malformed> {
        let source = raw.get();
        Ok(match source.as_bytes().first() {
            Some(b'{' | b'[') if self.path.len() > MAX_NESTING => Err(Unreadable::Nesting),
            Some(b'{') => Ok(Value::Object(self.object(&entries(raw)?)?)),
            Some(b'[') => return self.array(source),
            Some(b'"') => text(raw).map(Value::String).ok_or(Unreadable::Text),
            Some(b'-' | b'0'..=b'9') => number(source).map(Value::Number).ok_or(Unreadable::Number),
            _ => Ok(serde_json::from_str(source)?),
        })
    }

    fn array(&mut self, source: &'a str) -> Result<Result<Value, Unreadable>, Malformed> {
        let elements: Vec<&RawValue> = serde_json::from_str(source)?;
        let mut array = Vec::with_capacity(elements.len());
        for element in elements {
            self.path.push("[]");
            let before = self.left_out.count;
            let value = self.value(element)?;
            self.path.pop();
            match value {
                Ok(value) if self.left_out.count == before => array.push(value),
                // An object in it has lost a value.
                Ok(_) => return Ok(Err(self.left_out.last.unwrap_or(Unreadable::Text))),
                Err(reason) => return Ok(Err(reason)),
            }
        }
        Ok(Ok(Value::Array(array)))
    }
}

/// Returns the text of a JSON string, or `None` if it has half a surrogate pair.
pub(crate) fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

/// Returns the number, or `None` if it would change.
fn number(source: &str) -> Option<Number> {
    let is_integer = !source.contains(['.', 'e', 'E']);
    if is_integer {
        if let Ok(number) = source.parse::<i64>() {
            return Some(number.into());
        }
        if let Ok(number) = source.parse::<u64>() {
            return Some(number.into());
        }
    }
    let double: f64 = source.parse().ok()?;
    let digits = source.split(['e', 'E']).next().unwrap_or_default();
    let is_zero = !digits.contains(|digit| matches!(digit, '1'..='9'));
    // A zero instead of a tiny number, or another integer.
    let changed = (double == 0.0) != is_zero || is_integer && format!("{double:.0}") != source;
    Number::from_f64(double).filter(|_| !changed)
}

/// Keys and values of a JSON object.
struct Entries<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;

        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(ObjectVisitor)
    }
}
