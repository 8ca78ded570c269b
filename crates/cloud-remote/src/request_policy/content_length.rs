//! One `Content-Length` for each message (RFC 9110 §8.6).
//!
//! HTTP/2 and hyper accept several equal lengths; an application may parse `5` and `05`
//! differently, or fail to parse a list.

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};

/// The lengths differ, or one is not a number.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InvalidLength;

/// Replaces several equal lengths by one in its shortest decimal form.
pub(crate) fn normalize(headers: &mut HeaderMap) -> Result<(), InvalidLength> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    match (values.next(), values.next()) {
        (None, _) => return Ok(()),
        (Some(only), None) if is_shortest(only.as_bytes()) => return Ok(()),
        _ => {}
    }
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for part in value.as_bytes().split(|byte| *byte == b',') {
            let part = parse(part.trim_ascii()).ok_or(InvalidLength)?;
            if *length.get_or_insert(part) != part {
                return Err(InvalidLength);
            }
        }
    }
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(())
}

/// Returns whether this is a number without zeros before it.
fn is_shortest(text: &[u8]) -> bool {
    (text == b"0" || !text.starts_with(b"0")) && parse(text).is_some()
}

/// Only digits: `u64::from_str` also accepts a sign.
fn parse(text: &[u8]) -> Option<u64> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(lengths: &[&'static str]) -> Result<Vec<String>, InvalidLength> {
        let mut headers = HeaderMap::new();
        for length in lengths {
            headers.append(CONTENT_LENGTH, HeaderValue::from_static(length));
        }
        normalize(&mut headers)?;
        let left = headers.get_all(CONTENT_LENGTH).iter();
        Ok(left
            .map(|value| value.to_str().unwrap().to_owned())
            .collect())
    }

    #[test]
    fn equal_lengths_become_one() {
        assert_eq!(normalized(&[]), Ok(vec![]));
        for lengths in [
            &["5"][..],
            &["05"],
            &["5", "5"],
            &["5", "05"],
            &["5, 5"],
            &["5,5", "5"],
        ] {
            assert_eq!(normalized(lengths), Ok(vec!["5".to_owned()]), "{lengths:?}");
        }
    }

    #[test]
    fn different_and_malformed_lengths_are_refused() {
        for lengths in [
            &["5", "6"][..],
            &["5, 6"],
            &["", "5"],
            &["5,"],
            &["+5"],
            &["-5"],
            &["0x5"],
            &["5 5"],
            &["18446744073709551616"],
        ] {
            assert_eq!(normalized(lengths), Err(InvalidLength), "{lengths:?}");
        }
    }
}
