//! The path of a route, and the ways in which applications read the path of a request.

use std::str::FromStr;

/// A path is decoded this often at most; one that would still change is refused.
const MAX_DECODINGS: usize = 3;

/// The beginning of a path, of whole segments, for [`RouteMatch::path`](crate::RouteMatch::path). A
/// slash at the end makes no difference.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct RoutePath(Box<str>);

/// An error of parsing a [`RoutePath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a path such as /api: it begins with a slash, and has no empty segment, no `.` or `..` segment, and none of \
     % ; \\ ? #"
)]
#[non_exhaustive]
pub struct RoutePathError;

impl FromStr for RoutePath {
    type Err = RoutePathError;

    fn from_str(text: &str) -> Result<Self, RoutePathError> {
        let path = text.strip_suffix('/').unwrap_or(text);
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"%;\\?#".contains(&byte);
        let is_segment =
            |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(is_plain);
        let mut segments = path.split('/');
        let is_absolute = text.starts_with('/') && segments.next() == Some("");
        if is_absolute && segments.all(is_segment) {
            Ok(Self(path.into()))
        } else {
            Err(RoutePathError)
        }
    }
}

impl RoutePath {
    /// Returns the path without a slash at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether a request's path is this one or below it.
    pub(super) fn contains(&self, path: &str) -> bool {
        let rest = path.strip_prefix(&*self.0);
        self.0.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Returns the other paths that an application may read: decoded once or several times, with and
/// without the segments resolved. `None` if there is no end of decoding.
pub(super) fn readings(path: &str) -> Option<Vec<String>> {
    let is_unambiguous =
        !path.contains(['%', ';', '\\']) && !path.contains("//") && !path.contains("/.");
    if is_unambiguous {
        return Some(Vec::new());
    }
    let mut readings = vec![resolved(path)];
    let mut decoded = path.to_owned();
    for _ in 0..MAX_DECODINGS {
        let next = percent_decoded(&decoded);
        if next == decoded {
            return Some(readings);
        }
        readings.push(resolved(&next));
        readings.push(next.clone());
        decoded = next;
    }
    (percent_decoded(&decoded) == decoded).then_some(readings)
}

/// Resolves backslashes, empty segments, dots and the parameters of segments.
fn resolved(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split(['/', '\\']) {
        let name = segment.split(';').next().unwrap_or_default();
        match name {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            name => segments.push(name),
        }
    }
    format!("/{}", segments.join("/"))
}

/// Decodes once. What is no encoding stays, and so do bytes that are not UTF-8, as one character
/// each: they are in no route.
fn percent_decoded(path: &str) -> String {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        let byte = match (first, after) {
            (b'%', [high, low, ..]) => digit(high)
                .zip(digit(low))
                .and_then(|(high, low)| u8::try_from(high * 16 + low).ok()),
            _ => None,
        };
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_are_accepted() {
        for good in ["/", "/api", "/api/", "/a/b-c_d.e/~f", "/:x/@y/a,b"] {
            assert!(good.parse::<RoutePath>().is_ok(), "{good}");
        }
        for bad in [
            "", "api", "//", "/a//b", "/a//", "/..", "/a/./b", "/%61", "/a;b", "/a?b", "/a#b",
            "/a\\b", "/a b", "/é",
        ] {
            assert_eq!(bad.parse::<RoutePath>(), Err(RoutePathError), "{bad}");
        }
    }
}
