//! The user name and password in a request's `Authorization` header.
//!
//! Specification: RFC 7617, with UTF-8.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap};
use zeroize::Zeroizing;

/// Maximum length in base64. A longer one is no password that people or password managers use.
const MAX_LENGTH: usize = 2_048;

/// See the [module](self). Wiped when dropped.
pub(super) struct BasicCredentials {
    text: Zeroizing<Vec<u8>>,
    colon: usize,
}

impl BasicCredentials {
    /// Returns the credentials of a request; `None` without any, with malformed ones, and with two
    /// headers, because the application could read the other one.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let value = values.next().filter(|_| values.next().is_none())?;
        let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
        let encoded = encoded.trim();
        if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > MAX_LENGTH {
            return None;
        }
        // Of its final length, so that no copy is left behind.
        let mut text = Zeroizing::new(vec![0; base64::decoded_len_estimate(encoded.len())]);
        let length = STANDARD.decode_slice(encoded, &mut text).ok()?;
        text.truncate(length);
        let colon = text.iter().position(|byte| *byte == b':')?;
        Some(Self { text, colon })
    }

    pub(super) fn user(&self) -> &[u8] {
        &self.text[..self.colon]
    }

    pub(super) fn password(&self) -> &[u8] {
        &self.text[self.colon + 1..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(values: &[&str]) -> Option<(String, String)> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        let credentials = BasicCredentials::of(&headers)?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Some((text(credentials.user()), text(credentials.password())))
    }

    #[test]
    fn user_ends_at_the_first_colon() {
        let encode = |text: &str| format!("Basic {}", STANDARD.encode(text));
        for (text, user, password) in [
            ("alice:secret", "alice", "secret"),
            ("alice:a:b:", "alice", "a:b:"),
            ("alice:", "alice", ""),
            (":secret", "", "secret"),
            ("jürgen:pässwört", "jürgen", "pässwört"),
        ] {
            let expected = Some((user.to_owned(), password.to_owned()));
            assert_eq!(parsed(&[&encode(text)]), expected);
        }
        assert!(parsed(&["bAsIc  YTpi"]).is_some());
    }

    #[test]
    fn malformed_or_repeated_credentials_are_none() {
        let long = format!(
            "Basic {}",
            STANDARD.encode(format!("a:{}", "b".repeat(2_048)))
        );
        for values in [
            &[][..],
            &["Basic"],
            &["Basic "],
            &["Basic ***"],
            &["Basic YQ=="],
            &["Bearer YTpi"],
            &["YTpi"],
            &["Basic YTpi", "Basic YTpi"],
            &["Basic YTpi", "Bearer x"],
            &[&long],
        ] {
            assert_eq!(parsed(values), None, "{values:?}");
        }
    }
}
