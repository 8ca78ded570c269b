//! Transfer codings (RFC 9112 §7). hyper undoes `chunked` once, and leaves the others in the body.

use http::header::{HeaderMap, TRANSFER_ENCODING};

/// Returns the codings in the order in which they were applied.
pub(crate) fn transfer_codings(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(TRANSFER_ENCODING)
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|coding| !coding.is_empty())
}

/// Returns whether the body is as it was before all codings.
pub(super) fn is_decoded(headers: &HeaderMap) -> bool {
    let mut codings = transfer_codings(headers);
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    #[test]
    fn only_one_chunked_coding_is_undone() {
        let decoded = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TRANSFER_ENCODING, HeaderValue::from_static(value));
            }
            is_decoded(&headers)
        };
        for values in [&[][..], &["chunked"], &["Chunked"], &["", "chunked,"]] {
            assert!(decoded(values), "{values:?}");
        }
        for values in [
            &["gzip, chunked"][..],
            &["gzip", "chunked"],
            &["chunked, chunked"],
            &["identity, chunked"],
            &["chunked;a=b"],
            &["gzip"],
        ] {
            assert!(!decoded(values), "{values:?}");
        }
    }
}
