//! The configuration file: where it is, and its keys as values of the settings.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::definition::{Definition, Form, Refusal, count, to_arguments};
use crate::redact::{Redacted, may_be_secret};

/// The name of the file in the base path and in [`SYSTEM_DIRECTORY`].
pub(crate) const FILE_NAME: &str = "clesyde-cloud.toml";

/// The directory of the system's configuration.
pub(crate) const SYSTEM_DIRECTORY: &str = "/etc/clesyde";

/// The key of the routes, an array of tables.
pub(crate) const ROUTES: &str = "route";

/// A file with all settings and many address ranges is far smaller.
const MAX_SIZE: u64 = 256 * 1024;

/// Names under which people look for a place for the provisioning key.
const SECRET_KEYS: &[&str] = &["token", "token-file", "provisioning-key", "key", "password"];

/// A problem of the file, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// `None` if it concerns the whole file.
    pub(crate) key: Option<String>,
    /// `None` if it concerns the whole file.
    pub(crate) line: Option<usize>,
    pub(crate) text: String,
}

/// A key with its value, as the values of an option.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: usize,
    pub(crate) values: Vec<OsString>,
}

/// A table of the file for a route.
#[derive(Debug, Clone)]
pub(crate) struct RouteTable {
    pub(crate) line: usize,
    pub(crate) entries: Vec<Entry>,
}

/// The content of the file.
#[derive(Debug, Default)]
pub(crate) struct Content {
    /// In the order of the file.
    pub(crate) entries: Vec<Entry>,
    pub(crate) routes: Vec<RouteTable>,
    pub(crate) problems: Vec<Problem>,
    /// Whether other users can read the file.
    pub(crate) is_public: bool,
}

/// Returns the file to read: the one that is named, otherwise the first that exists.
pub(crate) fn find(named: Option<PathBuf>, base_path: Option<&Path>) -> Option<PathBuf> {
    named.or_else(|| candidates(base_path).into_iter().find(|path| path.exists()))
}

/// Returns where the file is looked for unless it is named.
pub(crate) fn candidates(base_path: Option<&Path>) -> Vec<PathBuf> {
    let directories = base_path.into_iter().chain([Path::new(SYSTEM_DIRECTORY)]);
    directories
        .map(|directory| directory.join(FILE_NAME))
        .collect()
}

/// Reads the file, and checks its syntax, keys and types.
///
/// # Errors
/// It cannot be read.
pub(crate) fn read(path: &Path, definition: &Definition) -> io::Result<Content> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::other("it is a directory"));
    }
    let is_public = metadata.permissions().mode() & 0o044 != 0;
    let mut text = String::new();
    file.take(MAX_SIZE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(io::Error::other(format!(
            "it has more than {MAX_SIZE} bytes"
        )));
    }
    Ok(Content {
        is_public,
        ..parse(&text, definition)
    })
}

/// Parses the text of the file.
pub(crate) fn parse(text: &str, definition: &Definition) -> Content {
    let lines = Lines(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut content = Content::default();
    // The message alone: the error as a text repeats the line, which may contain a secret.
    content.problems.extend(errors.iter().map(|error| Problem {
        key: None,
        line: error.span().map(|span| lines.number(span.start)),
        text: error.message().to_owned(),
    }));
    if content.problems.is_empty() {
        let (routes, keys): (Vec<_>, Vec<_>) = document
            .get_ref()
            .iter()
            .partition(|(key, _)| key.get_ref() == ROUTES);
        for (key, value) in routes {
            let line = lines.number(key.span().start);
            read_routes(value, line, &lines, &mut content);
        }
        content.entries = read_table(keys, definition, &lines, &mut content.problems);
    }
    content.problems.sort_by_key(|problem| problem.line);
    content
}

/// Returns the entries of a table, in the order of the file.
fn read_table<'a, 'i: 'a>(
    table: impl IntoIterator<Item = (&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>)>,
    definition: &Definition,
    lines: &Lines<'_>,
    problems: &mut Vec<Problem>,
) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (key, value) in table {
        let line = lines.number(key.span().start);
        let key: &str = key.get_ref();
        let values = if definition.find(key).is_none() {
            Err(unknown(key, definition))
        } else {
            values(value, definition.form(key)).map_err(|problem| format!("'{key}': {problem}"))
        };
        match values {
            Ok(values) => entries.push(Entry {
                key: key.to_owned(),
                line,
                values,
            }),
            Err(text) => problems.push(Problem {
                key: Some(key.to_owned()),
                line: Some(line),
                text,
            }),
        }
    }
    entries.sort_by_key(|entry| entry.line);
    entries
}

/// Reads the tables of the routes.
fn read_routes(
    value: &Spanned<DeValue<'_>>,
    line: usize,
    lines: &Lines<'_>,
    content: &mut Content,
) {
    let definition = Definition::route();
    let DeValue::Array(items) = value.get_ref() else {
        content.problems.push(Problem {
            key: Some(ROUTES.to_owned()),
            line: Some(line),
            text: "write [[route]], with two brackets: there may be several routes".to_owned(),
        });
        return;
    };
    for item in items.iter() {
        let line = lines.number(item.span().start);
        match item.get_ref() {
            DeValue::Table(table) => {
                let entries = read_table(table.iter(), &definition, lines, &mut content.problems);
                content.routes.push(RouteTable { line, entries });
            }
            _ => content.problems.push(Problem {
                key: Some(ROUTES.to_owned()),
                line: Some(line),
                text: "a route is a table: write [[route]]".to_owned(),
            }),
        }
    }
}

/// Describes an unknown key, with the nearest known one.
fn unknown(key: &str, definition: &Definition) -> String {
    if SECRET_KEYS.contains(&key.replace('_', "-").as_str()) {
        return format!(
            "'{key}' is refused: no key is kept in this file; give it to `clesyde-cloud provision` with --token-file \
             FILE or in CLESYDE_TOKEN"
        );
    }
    let arguments = to_arguments(key, Form::Text, &["x".into()]);
    let suggestion = match definition.check(key, &[], &arguments) {
        Err(Refusal::Unknown { suggestion }) => suggestion,
        _ => None,
    };
    let known = |name: &String| definition.find(name).is_some();
    match suggestion.filter(known) {
        Some(name) => format!("unknown key {}; did you mean '{name}'?", Redacted(key)),
        None => format!("unknown key {}", Redacted(key)),
    }
}

/// Returns the values of an option for a value in the file.
fn values(value: &Spanned<DeValue<'_>>, form: Form) -> Result<Vec<OsString>, String> {
    let value = value.get_ref();
    let wrong = |value: &DeValue<'_>, expected: &str| {
        let shown = match value {
            DeValue::String(text) if !may_be_secret(text) => format!(" '{text}'"),
            DeValue::Integer(number) => format!(" {number}"),
            DeValue::Boolean(value) => format!(" {value}"),
            _ => String::new(),
        };
        let article = match value.type_str() {
            name @ ("array" | "integer") => format!("an {name}"),
            name => format!("a {name}"),
        };
        format!("expected {expected}, not {article}{shown}")
    };
    match (form, value) {
        (Form::Switch, DeValue::Boolean(value)) => Ok(vec![value.to_string().into()]),
        (Form::Count, DeValue::Integer(number)) if number.radix() == 10 => {
            Ok(vec![count(number.as_str())?.into()])
        }
        (Form::Number, DeValue::Integer(number)) if number.radix() == 10 => {
            Ok(vec![number.as_str().into()])
        }
        (Form::Text, DeValue::String(text)) => Ok(vec![text.as_ref().into()]),
        (Form::List, DeValue::Array(items)) => items
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::String(text) => Ok(text.as_ref().into()),
                other => Err(wrong(other, form.expected())),
            })
            .collect(),
        (form, other) => Err(wrong(other, form.expected())),
    }
}

/// The lines of a text.
struct Lines<'a>(&'a str);

impl Lines<'_> {
    /// Returns the number of the line with this byte, from 1.
    fn number(&self, offset: usize) -> usize {
        let before = self.0.as_bytes().iter().take(offset);
        before.filter(|byte| **byte == b'\n').count() + 1
    }
}
