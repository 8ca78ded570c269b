//! One `Content-Length` for each message (RFC 9110 §8.6).
//!
//! HTTP/2 and hyper accept several that are equal as numbers; an application may read another one of `5` and `05`, or add
//! them to a list that it does not understand.

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};

/// The lengths differ, or one is not a number.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InvalidLength;

/// Leaves one length in its shortest decimal form in place of several that are equal.
pub(crate) fn normalize(headers: &mut HeaderMap) -> Result<(), InvalidLength> {
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

/// Digits alone: `u64::from_str` takes a sign too.
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
