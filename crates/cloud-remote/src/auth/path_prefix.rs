//! The part of the application that a rule guards: a prefix of the request's path.
//!
//! Applications read paths in different ways: encoded letters, doubled slashes, dot segments, upper
//! case, backslashes, path parameters. A prefix is therefore compared in two ways, as the path is
//! written and as the most generous application could read it. If they disagree, or if a reading in
//! between could disagree with both, the request is refused instead of guessed at.

use std::borrow::Cow;
use std::str::FromStr;

/// Rounds of percent-decoding. An application decodes once, a faulty one or a chain of two twice.
const MAX_DECODING: usize = 3;

/// The prefix of the paths that a rule guards, such as `/` or `/admin`.
///
/// It covers whole segments, with an extension or without: `/admin` covers `/admin`, `/admin/users`
/// and `/admin.json`, and not `/administrator`. Case is ignored. A path that an application could
/// read in such a way that another rule holds for it (`/%2Fadmin`, `/x/../admin`) is refused with
/// status 400.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PathPrefix(Vec<String>);

/// An error of parsing a [`PathPrefix`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a path such as /admin: it begins with a slash, and its segments have letters, digits and - _ ~ . only"
)]
#[non_exhaustive]
pub struct PathPrefixError;

impl PathPrefix {
    /// Returns the prefix `/`, which covers all paths.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the number of segments: the longest matching prefix is the one that holds.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn covers(&self, segments: &[Cow<'_, str>]) -> bool {
        let Some((last, before)) = self.0.split_last() else {
            return true;
        };
        let Some((found, rest)) = segments.get(..self.len()).and_then(<[_]>::split_last) else {
            return false;
        };
        before.iter().zip(rest).all(|(one, other)| one == other)
            && found
                .strip_prefix(last.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl FromStr for PathPrefix {
    type Err = PathPrefixError;

    fn from_str(text: &str) -> Result<Self, PathPrefixError> {
        if text == "/" {
            return Ok(Self::root());
        }
        let path = text.strip_prefix('/').ok_or(PathPrefixError)?;
        let path = path.strip_suffix('/').unwrap_or(path);
        let segments: Vec<String> = path.split('/').map(str::to_ascii_lowercase).collect();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_~.".contains(&byte);
        let is_segment = |segment: &String| {
            // Some systems ignore a dot at the end.
            !segment.is_empty() && !segment.ends_with('.') && segment.bytes().all(is_plain)
        };
        if segments.iter().all(is_segment) {
            Ok(Self(segments))
        } else {
            Err(PathPrefixError)
        }
    }
}

impl std::fmt::Display for PathPrefix {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "/{}", self.0.join("/"))
    }
}

/// A path that applications may read in different ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AmbiguousPath;

/// The path of a request, in both readings.
#[derive(Debug)]
pub(super) struct RequestPath<'a> {
    written: Vec<Cow<'a, str>>,
    generous: Option<Vec<Cow<'a, str>>>,
}

impl<'a> RequestPath<'a> {
    pub(super) fn new(path: &'a str) -> Self {
        let path = path.strip_prefix('/').unwrap_or(path);
        let written = path.split('/').map(lower_case).collect();
        Self {
            generous: generous(path),
            written,
        }
    }

    /// Returns the rule with the longest prefix that covers the path.
    pub(super) fn select<'r, T>(
        &self,
        rules: &'r [(PathPrefix, T)],
    ) -> Result<Option<&'r T>, AmbiguousPath> {
        if rules.iter().all(|(prefix, _)| prefix.is_root()) {
            // The path does not matter.
            return Ok(rules.last().map(|(_, rule)| rule));
        }
        let longest = |segments: &[Cow<'_, str>]| {
            let covering = rules.iter().enumerate();
            covering
                .filter(|(_, (prefix, _))| prefix.covers(segments))
                .max_by_key(|(_, (prefix, _))| prefix.len())
                .map(|(index, _)| index)
        };
        let generous = self.generous.as_ref().ok_or(AmbiguousPath)?;
        let index = longest(&self.written);
        if index != longest(generous) {
            return Err(AmbiguousPath);
        }
        Ok(index
            .and_then(|index| rules.get(index))
            .map(|(_, rule)| rule))
    }
}

fn lower_case(segment: &str) -> Cow<'_, str> {
    match segment.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(segment.to_ascii_lowercase()),
        false => Cow::Borrowed(segment),
    }
}

/// Returns the segments with all that an application may undo undone; `None` if the path is
/// malformed or has dot segments, whose meaning depends on the order in which they are undone.
fn generous(path: &str) -> Option<Vec<Cow<'_, str>>> {
    let mut path = Cow::Borrowed(path);
    let mut rounds = 0;
    while path.contains('%') {
        path = match decode(&path) {
            Some(_) if rounds == MAX_DECODING => return None,
            Some(decoded) => Cow::Owned(decoded),
            None if rounds == 0 => return None,
            // An encoded percent sign.
            None => break,
        };
        rounds += 1;
    }
    if path.chars().any(char::is_control) {
        return None;
    }
    let mut segments = Vec::new();
    for segment in path.split(['/', '\\']) {
        // A path parameter; spaces and dots at the end, which Windows ignores.
        let segment = segment.split(';').next().unwrap_or_default();
        if segment == "." || segment == ".." {
            return None;
        }
        let segment = segment.trim_end_matches(['.', ' ']);
        if !segment.is_empty() {
            segments.push(lower_case(segment).into_owned().into());
        }
    }
    Some(segments)
}

/// Undoes percent-encoding once. Bytes that are not UTF-8 become U+FFFD.
fn decode(path: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut parts = path.split('%');
    decoded.extend_from_slice(parts.next()?.as_bytes());
    for part in parts {
        let digits = part.get(..2)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        decoded.push(u8::from_str_radix(digits, 16).ok()?);
        decoded.extend_from_slice(&part.as_bytes()[2..]);
    }
    Some(String::from_utf8_lossy(&decoded).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(prefixes: &[&'static str]) -> Vec<(PathPrefix, &'static str)> {
        prefixes
            .iter()
            .map(|prefix| (prefix.parse().unwrap(), *prefix))
            .collect()
    }

    fn selected(
        rules: &[(PathPrefix, &'static str)],
        path: &str,
    ) -> Result<Option<&'static str>, AmbiguousPath> {
        RequestPath::new(path)
            .select(rules)
            .map(Option::<&_>::copied)
    }

    #[test]
    fn longest_prefix_of_whole_segments_holds() {
        let rules = rules(&["/", "/admin", "/admin/logs"]);
        for (path, expected) in [
            ("/", "/"),
            ("/administrator", "/"),
            ("/x/admin", "/"),
            ("/admin", "/admin"),
            ("/admin/", "/admin"),
            ("/ADMIN/x", "/admin"),
            ("/admin.json", "/admin"),
            ("/admin/logs.txt", "/admin/logs"),
            ("/admin/logs/1", "/admin/logs"),
            ("*", "/"),
        ] {
            assert_eq!(selected(&rules, path), Ok(Some(expected)), "{path}");
        }
    }

    #[test]
    fn path_that_may_mean_a_guarded_one_is_refused() {
        let rules = rules(&["/admin/panel"]);
        for path in [
            "//admin/panel",
            "/admin//panel",
            "/%61dmin/panel",
            "/%2561dmin/panel",
            "/%252561dmin/panel",
            "/%25252561dmin/panel",
            "/admin%2Fpanel",
            "/admin%2fpanel",
            "/admin%5Cpanel",
            "/admin\\panel",
            "/x/../admin/panel",
            "/x/%2e%2e/admin/panel",
            "/./admin/panel",
            "/admin/./panel",
            "/admin/panel/../x",
            "/admin;x=1/panel",
            "/;/admin/panel",
            "/admin/panel%20",
            "/admin./panel",
            "/admin/panel%00",
            "/admin/%70anel",
            "/%u0061dmin/panel",
            "/100%",
        ] {
            assert_eq!(selected(&rules, path), Err(AmbiguousPath), "{path}");
        }
    }

    #[test]
    fn encoded_path_that_means_no_guarded_one_passes() {
        let rules = rules(&["/admin"]);
        for path in [
            "/",
            "/my%20files/%C3%A4",
            "/api/projects/a%2Fb",
            "/a//b",
            "/a;v=1/b",
            "/100%25",
            "/%FF",
            "/admin-2",
            "/xadmin",
        ] {
            assert_eq!(selected(&rules, path), Ok(None), "{path}");
        }
        for path in [
            "/admin/my%20files",
            "/admin/a%2Fb",
            "/admin//x",
            "/Admin/%C3%A4",
        ] {
            assert_eq!(selected(&rules, path), Ok(Some("/admin")), "{path}");
        }
    }

    #[test]
    fn any_path_is_guarded_by_the_root() {
        let rules = rules(&["/"]);
        for path in ["/", "//admin", "/x/../y", "/%zz", "*", ""] {
            assert_eq!(selected(&rules, path), Ok(Some("/")), "{path}");
        }
        assert_eq!(selected(&[], "/%zz"), Ok(None));
    }

    #[test]
    fn prefix_has_plain_segments() {
        for (text, shown) in [("/", "/"), ("/admin", "/admin"), ("/A/b.c/", "/a/b.c")] {
            assert_eq!(text.parse::<PathPrefix>().unwrap().to_string(), shown);
        }
        for text in [
            "", "admin", "//", "/a//b", "/a b", "/%61", "/..", "/a/./b", "/ä", "/a.",
        ] {
            assert_eq!(text.parse::<PathPrefix>(), Err(PathPrefixError), "{text:?}");
        }
    }
}
