//! A part of an application by the beginning of the request's path, for routes and for the guard.
//!
//! Applications read paths in different ways: encoded letters, doubled slashes, dot segments,
//! backslashes, path parameters. The paths are therefore read twice, as they are written and as the
//! most generous application could read them. If both do not lead to the same part, or if a reading
//! in between could disagree with both, the request is refused instead of guessed at.
//!
//! The most generous reading undoes everything that any application undoes, so a prefix that covers
//! a reading in between covers that one as well. Dot segments are the exception, since what they
//! remove depends on what was undone before: there is no most generous reading of such a path.

use std::borrow::Cow;
use std::str::FromStr;

use icu_normalizer::ComposingNormalizerBorrowed;

/// Rounds of percent-decoding. An application decodes once, a faulty one or a chain of two twice.
const MAX_DECODINGS: usize = 3;

/// The beginning of a path, such as `/` or `/admin`, for [`RouteMatch::path`] and the rules of the
/// [guard](crate::auth).
///
/// It covers whole segments: `/admin` covers `/admin` and `/admin/users`, and not `/administrator`.
/// A slash at the end makes no difference. The guard covers more than a route, since some
/// applications do: it ignores case, and what follows a dot or a colon (`/admin.json`).
///
/// Where a prefix other than `/` matters for a request, a path that an application could read as
/// one of another part (`/%2Fadmin`, `//admin`), a path with dot segments (`/x/../y`) and a path
/// with a malformed percent-encoding are refused with status 400.
///
/// [`RouteMatch::path`]: crate::RouteMatch::path
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PathPrefix(Box<str>);

/// An error of parsing a [`PathPrefix`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a path such as /admin: it begins with a slash, no segment is empty or ends in a dot, and the characters \
     are letters, digits and - _ ~ . : @ ! $ & ' ( ) * + , = only"
)]
#[non_exhaustive]
pub struct PathPrefixError;

impl PathPrefix {
    /// Returns the prefix `/`, which covers all paths.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Returns the path without a slash at its end: for `/`, the empty string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether this is `/`, which covers all paths.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the length: of the prefixes that cover a path, the longest holds.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the prefix in the form that is equal for all that the guard takes for equal.
    pub(crate) fn ignoring_case(mut self) -> Self {
        self.0.make_ascii_lowercase();
        self
    }

    fn covers(&self, segments: &[Cow<'_, str>], matching: Matching) -> bool {
        let mut segments = segments.iter();
        let mut own = self.0.split('/').skip(1).peekable();
        while let Some(expected) = own.next() {
            let is_last = own.peek().is_none();
            let covers = |found: &Cow<'_, str>| matching.covers(expected, found, is_last);
            if !segments.next().is_some_and(covers) {
                return false;
            }
        }
        true
    }
}

impl FromStr for PathPrefix {
    type Err = PathPrefixError;

    fn from_str(text: &str) -> Result<Self, PathPrefixError> {
        if text == "/" {
            return Ok(Self::root());
        }
        let path = text.strip_suffix('/').unwrap_or(text);
        let segments = path.strip_prefix('/').ok_or(PathPrefixError)?;
        // The characters of RFC 3986, without those of encodings and parameters.
        let is_plain =
            |byte: u8| byte.is_ascii_alphanumeric() || b"-_~.:@!$&'()*+,=".contains(&byte);
        let is_segment = |segment: &str| {
            // Some systems ignore a dot at the end.
            !segment.is_empty() && !segment.ends_with('.') && segment.bytes().all(is_plain)
        };
        if segments.split('/').all(is_segment) {
            Ok(Self(path.into()))
        } else {
            Err(PathPrefixError)
        }
    }
}

impl std::fmt::Display for PathPrefix {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(if self.is_root() { "/" } else { &self.0 })
    }
}

/// How the segments of a prefix and of a path are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Matching {
    /// Letter by letter, for routes.
    Exact,
    /// As the most generous application does it, for the guard.
    Generous,
}

impl Matching {
    fn covers(self, expected: &str, found: &str, is_last: bool) -> bool {
        match self {
            Self::Exact => expected == found,
            Self::Generous => {
                let (same, rest) = match found.split_at_checked(expected.len()) {
                    Some(parts) => parts,
                    None => return false,
                };
                // An extension, or a stream or a verb after a colon.
                same.eq_ignore_ascii_case(expected)
                    && (rest.is_empty() || is_last && rest.starts_with(['.', ':']))
            }
        }
    }
}

/// An error of a path that applications may read in different ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AmbiguousPath;

/// The path of a request, in both readings.
#[derive(Debug)]
pub(crate) struct RequestPath<'a> {
    written: Vec<Cow<'a, str>>,
    generous: Option<Vec<Cow<'a, str>>>,
}

impl<'a> RequestPath<'a> {
    pub(crate) fn new(path: &'a str) -> Self {
        let path = path.strip_prefix('/').unwrap_or(path);
        Self {
            written: path.split('/').map(Cow::Borrowed).collect(),
            generous: generous(path),
        }
    }

    /// Returns the greatest of the ranks whose prefix covers the path.
    pub(crate) fn select<'p, R: Ord + Copy>(
        &self,
        candidates: impl Iterator<Item = (&'p PathPrefix, R)> + Clone,
        matching: Matching,
    ) -> Result<Option<R>, AmbiguousPath> {
        let roots = candidates.clone().filter(|(prefix, _)| prefix.is_root());
        let root = roots.map(|(_, rank)| rank).max();
        let candidates = candidates.filter(|(_, rank)| Some(*rank) > root);
        if candidates.clone().next().is_none() {
            // The path does not matter.
            return Ok(root);
        }
        let best = |segments: &[Cow<'_, str>]| {
            let covering = candidates.clone();
            let covering = covering.filter(|(prefix, _)| prefix.covers(segments, matching));
            covering.map(|(_, rank)| rank).max().or(root)
        };
        let generous = self.generous.as_ref().ok_or(AmbiguousPath)?;
        let selected = best(&self.written);
        if selected == best(generous) {
            Ok(selected)
        } else {
            Err(AmbiguousPath)
        }
    }
}

/// Returns the segments with all that an application may undo undone; `None` if the path is
/// malformed or has dot segments, whose meaning depends on the order in which they are undone.
fn generous(path: &str) -> Option<Vec<Cow<'_, str>>> {
    let mut path = without_compatibility(Cow::Borrowed(path));
    for round in 0..=MAX_DECODINGS {
        if !path.contains('%') {
            break;
        }
        let Decoded { text, is_malformed } = decode(&path)?;
        if is_malformed && round == 0 {
            return None;
        }
        let decoded = without_compatibility(Cow::Owned(text));
        if decoded == path {
            // A percent sign was encoded.
            break;
        }
        if round == MAX_DECODINGS {
            return None;
        }
        path = Cow::Owned(decoded.into_owned());
    }
    if path.chars().any(char::is_control) {
        return None;
    }
    let mut segments = Vec::new();
    for segment in path.split(['/', '\\']) {
        // A path parameter; spaces and dots at the end, which Windows ignores.
        let segment = segment.split(';').next().unwrap_or_default();
        let name = segment.trim_end_matches(['.', ' ']);
        if !name.is_empty() {
            segments.push(name.to_owned().into());
        } else if segment.contains('.') {
            return None;
        }
    }
    Some(segments)
}

/// Replaces characters by the ASCII that some applications take them for, such as the full-width
/// letters and the Kelvin sign.
fn without_compatibility(path: Cow<'_, str>) -> Cow<'_, str> {
    if path.is_ascii() {
        return path;
    }
    let path = ComposingNormalizerBorrowed::new_nfkc().normalize(&path);
    let similar = |letter| match letter {
        // Their upper or lower case is an I.
        '\u{131}' | '\u{130}' => 'i',
        // Slashes of fractions and divisions.
        '\u{2044}' | '\u{2215}' => '/',
        other => other,
    };
    Cow::Owned(path.chars().map(similar).collect())
}

struct Decoded {
    text: String,
    /// Whether there is a percent sign that encodes nothing; it stays.
    is_malformed: bool,
}

/// Undoes percent-encoding once. Bytes that are not UTF-8 become U+FFFD; `None` if they are ASCII
/// in too many bytes, which faulty decoders take.
fn decode(path: &str) -> Option<Decoded> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut is_malformed = false;
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        let byte = match (first, after) {
            (b'%', [high, low, ..]) => digit(high)
                .zip(digit(low))
                .and_then(|(high, low)| u8::try_from(high * 16 + low).ok()),
            _ => None,
        };
        is_malformed |= *first == b'%' && byte.is_none();
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    let is_overlong = |pair: &[u8]| {
        matches!(
            pair,
            [0xC0 | 0xC1, _] | [0xE0, 0x80..=0x9F] | [0xF0, 0x80..=0x8F]
        )
    };
    (!decoded.windows(2).any(is_overlong)).then(|| Decoded {
        text: String::from_utf8_lossy(&decoded).into_owned(),
        is_malformed,
    })
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// Returns the longest of the prefixes that covers the path, as the index in them.
    fn selected(
        prefixes: &[&str],
        path: &str,
        matching: Matching,
    ) -> Result<Option<usize>, AmbiguousPath> {
        let prefixes: Vec<PathPrefix> = prefixes.iter().map(|text| text.parse().unwrap()).collect();
        let ranked = prefixes.iter().enumerate();
        let ranked = ranked.map(|(index, prefix)| (prefix, (prefix.len(), index)));
        let selected = RequestPath::new(path).select(ranked, matching)?;
        Ok(selected.map(|(_, index)| index))
    }

    /// As the guard selects its rule.
    fn guarded<'p>(prefixes: &[&'p str], path: &str) -> Result<Option<&'p str>, AmbiguousPath> {
        let index = selected(prefixes, path, Matching::Generous)?;
        Ok(index.map(|index| prefixes[index]))
    }

    #[test]
    fn longest_prefix_of_whole_segments_holds() {
        let rules = ["/", "/admin", "/admin/logs"];
        for (path, expected) in [
            ("/", "/"),
            ("/administrator", "/"),
            ("/x/admin", "/"),
            ("/admin", "/admin"),
            ("/admin/", "/admin"),
            ("/ADMIN/x", "/admin"),
            ("/admin.json", "/admin"),
            ("/admin:export", "/admin"),
            ("/admin/logs.txt", "/admin/logs"),
            ("/admin/logs/1", "/admin/logs"),
            ("*", "/"),
        ] {
            assert_eq!(guarded(&rules, path), Ok(Some(expected)), "{path}");
        }
    }

    #[test]
    fn longer_of_two_prefixes_that_cover_one_segment_holds() {
        let rules = ["/admin.json", "/admin"];
        for (path, expected) in [
            ("/admin.json", "/admin.json"),
            ("/ADMIN.JSON/x", "/admin.json"),
            ("/admin.txt", "/admin"),
        ] {
            assert_eq!(guarded(&rules, path), Ok(Some(expected)), "{path}");
        }
    }

    #[test]
    fn path_that_may_mean_a_guarded_one_is_refused() {
        let rules = ["/admin/panel"];
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
            // Twice decoded, by a decoder that leaves what is malformed.
            "/%25zz/%252e%252e/admin/panel",
            "/%25zz%252f..%252fadmin/panel",
            "/%2561dmin%25zz/../admin/panel",
            // Windows ignores spaces and dots at the end.
            "/x/.. /admin/panel",
            "/x/..%20/admin/panel",
            "/x/%2e%2e%20./admin/panel",
            "/.../admin/panel",
            // A parameter of a dot segment.
            "/x/..;/admin/panel",
            "/x/..;v=1%2Fadmin/panel",
            // A dot or slash in too many bytes.
            "/x/%c0%ae%c0%ae/admin/panel",
            "/admin%c0%afpanel",
            "/x/%e0%80%ae%e0%80%ae/admin/panel",
            "/admin%f0%80%80%afpanel",
            "/admin%25c0%25afpanel",
            // Letters and signs that some applications take for ASCII.
            "/\u{FF41}dmin/panel",
            "/%EF%BD%81dmin/panel",
            "/adm%C4%B1n/panel",
            "/ADM%C4%B0N/panel",
            "/admin%EF%BC%8Fpanel",
            "/admin%E2%81%84panel",
            "/x/%EF%BC%8E%EF%BC%8E/admin/panel",
            "/%EF%BC%8561dmin/panel",
            "/admin/panel%0d%0a",
            "/admin/panel%7f",
        ] {
            assert_eq!(guarded(&rules, path), Err(AmbiguousPath), "{path}");
        }
    }

    #[test]
    fn encoded_path_that_means_no_guarded_one_passes() {
        let rules = ["/admin"];
        for path in [
            "/",
            "/my%20files/%C3%A4",
            "/api/projects/a%2Fb",
            "/a//b",
            "/a;v=1/b",
            "/100%25",
            "/%FF",
            "/100%2525",
            "/%E2%82%AC/\u{FF41}",
            "/...x/.hidden",
            "/admin-2",
            "/xadmin",
        ] {
            assert_eq!(guarded(&rules, path), Ok(None), "{path}");
        }
        for path in [
            "/admin/my%20files",
            "/admin/a%2Fb",
            "/admin//x",
            "/Admin/%C3%A4",
        ] {
            assert_eq!(guarded(&rules, path), Ok(Some("/admin")), "{path}");
        }
    }

    #[test]
    fn any_path_is_guarded_by_the_root() {
        let rules = ["/"];
        for path in ["/", "//admin", "/x/../y", "/%zz", "*", ""] {
            assert_eq!(guarded(&rules, path), Ok(Some("/")), "{path}");
        }
        assert_eq!(guarded(&[], "/%zz"), Ok(None));
    }

    #[test]
    fn prefix_has_plain_segments() {
        for (text, shown) in [("/", "/"), ("/admin", "/admin"), ("/A/b.c/", "/A/b.c")] {
            assert_eq!(text.parse::<PathPrefix>().unwrap().to_string(), shown);
        }
        let prefix: PathPrefix = "/A/b.c/".parse().unwrap();
        assert_eq!(prefix.ignoring_case().to_string(), "/a/b.c");
        for good in ["/", "/api", "/api/", "/a.b-c/d_e/~f", "/:x/@y/a,b"] {
            assert!(good.parse::<PathPrefix>().is_ok(), "{good}");
        }
        for text in [
            "", "admin", "//", "/a//b", "/a//", "/a b", "/%61", "/..", "/a/./b", "/ä", "/a.",
            "/a;b", "/a?b", "/a#b", "/a\\b", "/a\"b",
        ] {
            assert_eq!(text.parse::<PathPrefix>(), Err(PathPrefixError), "{text:?}");
        }
    }

    /// What applications and what is in front of them do to a path, each of it once.
    fn undo(path: &str, step: u32) -> String {
        let join = |segments: Vec<&str>| format!("/{}", segments.join("/"));
        let segments = path.split('/').skip(1);
        match step {
            0 | 1 => decode(path).map_or_else(String::new, |decoded| decoded.text),
            2 => join(segments.filter(|segment| !segment.is_empty()).collect()),
            3 => path.replace('\\', "/"),
            4 => join(
                segments
                    .map(|segment| segment.split(';').next().unwrap())
                    .collect(),
            ),
            5 => join(
                segments
                    .map(|segment| segment.trim_end_matches([' ']))
                    .collect(),
            ),
            6 => path.to_lowercase(),
            _ => {
                let mut kept = Vec::new();
                for segment in segments {
                    match segment {
                        "." => {}
                        ".." => drop(kept.pop()),
                        segment => kept.push(segment),
                    }
                }
                join(kept)
            }
        }
    }

    #[test]
    fn no_order_of_readings_leads_around_the_guard() {
        const TOKENS: &[&str] = &[
            "/",
            "/",
            "admin",
            "panel",
            "ADMIN",
            "x",
            "..",
            ".",
            ";",
            "\\",
            " ",
            "%2f",
            "%252f",
            "%5c",
            "%2e%2e",
            "%252e",
            "%61dmin",
            "%2561dmin",
            "%zz",
            "%25zz",
            "%",
            "%20",
            "%3b",
            "%c0%ae",
            ".json",
        ];
        let mut random = StdRng::seed_from_u64(7);
        let (mut refused, mut open) = (0, 0);
        for _ in 0..100_000 {
            let path: String = (0..random.random_range(1..10))
                .map(|_| TOKENS[random.random_range(0..TOKENS.len())])
                .collect();
            let path = format!("/{path}");
            match guarded(&["/admin/panel"], &path) {
                Err(AmbiguousPath) => refused += 1,
                Ok(Some(_)) => {}
                Ok(None) => {
                    open += 1;
                    let mut read = path.clone();
                    let mut decodings = 0;
                    for _ in 0..8 {
                        let step = random.random_range(0..8u32);
                        decodings += u32::from(step < 2);
                        if decodings <= 3 {
                            read = undo(&read, step);
                        }
                        assert!(
                            read != "/admin/panel" && !read.starts_with("/admin/panel/"),
                            "{path} reads as {read}"
                        );
                    }
                }
            }
        }
        assert!(
            refused > 1_000 && open > 1_000,
            "{refused} refused, {open} open"
        );
    }
}
