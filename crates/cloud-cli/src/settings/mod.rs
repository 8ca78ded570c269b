//! The settings of the program, and where each comes from: an option of the command line, else an
//! environment variable, else the configuration file, else the default.
//!
//! The command line's definition is the only one. The other layers become options that are added to
//! the command line, unless it sets them itself, and clap parses the result. A setting that cannot
//! be used with one of a higher layer is left out: the ways to serve are one choice, and a higher
//! layer replaces the lower one's.

pub(crate) mod definition;
pub(crate) mod file;
mod named_files;
pub(crate) mod reference;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Parser};

use self::definition::{Definition, Form, Refusal, form, from_variable, to_arguments, variable};
use self::file::{Content, Entry, Problem, RouteTable};
use self::named_files::FileProblem;
use crate::error::chain;
use crate::options::default_base_path;
use crate::redact::RedactedPath;
use crate::route::{self, RouteArgs};

/// The commands that do not read the file: they use nothing of a device.
const COMMANDS_WITHOUT_FILE: &[&str] = &["completions", "man", "sim", "demo"];

/// The key whose file would be found by another value.
const BASE_PATH: &str = "base-path";

/// The ways to serve, which are one choice together with the routes.
const WAYS_TO_SERVE: &[&str] = &["ui", "forward", "forward-tcp", "passthrough", "static"];

/// The settings that belong to another, such as a way to serve. The definition of the command line
/// says which they exclude; what they need may come from another layer.
const NEEDS: &[(&str, &str)] = &[
    ("forward-ca-file", "forward"),
    ("forward-pin", "forward"),
    ("title-case-headers", "forward"),
    ("host-header", "forward"),
    ("no-forwarded-headers", "forward"),
    ("proxy-protocol", "forward-tcp"),
    ("alpn", "forward-tcp"),
    ("pass-authorization", "auth"),
    ("health-public", "health"),
    ("health-page", "health"),
    ("health-allow", "health"),
    ("access-log-file", "access-log"),
    ("access-log-query", "access-log"),
];

/// Where a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    Option,
    Variable,
    /// With the line of its key.
    File(usize),
}

impl Origin {
    fn is_file(self) -> bool {
        matches!(self, Self::File(_))
    }
}

/// The value of a setting.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) values: Vec<OsString>,
    pub(crate) origin: Origin,
}

impl Setting {
    /// Whether it is an option without a value that is not in use.
    fn is_off(&self) -> bool {
        self.values.iter().eq(["false"])
    }
}

/// A value may contain a password.
impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Setting([redacted], {:?})", self.origin)
    }
}

/// A route, which comes from the file only.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) line: usize,
    pub(crate) entries: Vec<Entry>,
    pub(crate) arguments: RouteArgs,
}

/// The settings that are given, with their origins.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    values: BTreeMap<String, Setting>,
    pub(crate) routes: Vec<Route>,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
    /// What to warn of once the program logs.
    pub(crate) warnings: Vec<String>,
    /// The command line, for a reload.
    pub(crate) arguments: Vec<OsString>,
}

impl Settings {
    /// Collects the settings for the command line, which is parsed already.
    ///
    /// # Errors
    /// A variable or the file cannot be used. The text names it, and the value unless it may be a
    /// secret.
    pub(crate) fn collect(
        definition: &Definition,
        matches: &ArgMatches,
        arguments: Vec<OsString>,
    ) -> Result<Self, clap::Error> {
        let command = matches.subcommand_name().unwrap_or_default();
        let is_run = matches!(command, "run" | "config");
        let mut layers = Layers::new(definition);
        layers.add_options(innermost(matches));
        layers.add_variables(is_run).map_err(usage_error)?;

        let mut settings = Self {
            arguments,
            ..Self::default()
        };
        if !COMMANDS_WITHOUT_FILE.contains(&command) && !is_config_check(matches) {
            let named = named_file(innermost(matches));
            let base_path = layers.base_path();
            settings.file = file::find(named, base_path.as_deref());
        }
        if let Some(path) = &settings.file {
            let content = read(path, definition).map_err(usage_error)?;
            let is_public = content.is_public;
            let mut problems = layers.add_file(content, path);
            // Other commands need the file's global settings only.
            if !is_run {
                let all = problems.len();
                problems.retain(|problem| {
                    let key = problem.key.as_deref();
                    key.is_none_or(|key| is_global(definition, key))
                });
                if problems.len() < all {
                    settings.warnings.push(format!(
                        "{} has problems, so that `run` cannot use it: see `config check`",
                        RedactedPath(path)
                    ));
                }
            }
            if let Some(text) = one_line(path, &problems) {
                return Err(usage_error(text));
            }
            settings
                .warnings
                .extend(layers.file_warnings(path, is_public));
        }
        let mut unmet = layers.unmet_needs();
        if let Some((key, needed, origin)) = unmet.find(|(.., origin)| !origin.is_file()) {
            let name = match origin {
                Origin::Variable => variable(key),
                _ => format!("--{key}"),
            };
            return Err(usage_error(format!("{name} needs --{needed}")));
        }
        drop(unmet);
        if let Some(key) = layers.replacement_of_routes() {
            let replaced = std::mem::take(&mut layers.routes);
            if let (Some(_), Some(path)) = (replaced.first(), &settings.file) {
                settings.warnings.push(format!(
                    "the routes in {} are not used: '{key}' of the command line or the environment replaces what is served",
                    RedactedPath(path)
                ));
            }
        }
        settings.values = layers.values;
        settings.routes = layers.routes;
        Ok(settings)
    }

    /// Returns the command line with the settings of the other layers.
    pub(crate) fn merged_arguments(&self, definition: &Definition, is_run: bool) -> Vec<OsString> {
        let (mut global, mut more) = (Vec::new(), Vec::new());
        for (key, setting) in &self.values {
            if setting.origin == Origin::Option {
                continue;
            }
            let arguments = to_arguments(key, definition.form(key), &setting.values);
            if is_global(definition, key) {
                global.extend(arguments);
            } else if is_run {
                more.extend(arguments);
            }
        }
        let mut given = self.arguments.iter();
        let mut merged: Vec<_> = given.next().cloned().into_iter().collect();
        merged.extend(global);
        merged.extend(given.cloned());
        // `run` takes nothing after it.
        if is_run && merged.last().is_some_and(|last| last == "--") {
            merged.pop();
        }
        merged.extend(more);
        merged
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Setting> {
        self.values.get(key)
    }

    /// Returns the name by which a setting was given, for messages.
    pub(crate) fn name(&self, key: &str) -> String {
        match (self.get(key).map(|setting| setting.origin), &self.file) {
            (Some(Origin::Variable), _) => variable(key),
            (Some(Origin::File(line)), Some(path)) => {
                format!("'{key}' in line {line} of {}", RedactedPath(path))
            }
            _ => format!("--{key}"),
        }
    }

    /// Returns the keys whose values differ, with that of the routes.
    pub(crate) fn changed_keys<'a>(&'a self, other: &'a Self) -> Vec<&'a str> {
        let routes = |settings: &Self| -> Vec<_> {
            let routes = settings.routes.iter();
            routes
                .map(|route| route_arguments(&route.entries))
                .collect()
        };
        let values = |settings: &'a Self, key: &str| {
            settings.get(key).map(|setting| setting.values.as_slice())
        };
        let mut keys: Vec<_> = self.values.keys().chain(other.values.keys()).collect();
        keys.sort();
        keys.dedup();
        keys.retain(|key| values(self, key) != values(other, key));
        let mut keys: Vec<_> = keys.into_iter().map(String::as_str).collect();
        if routes(self) != routes(other) {
            keys.push(file::ROUTES);
        }
        keys
    }
}

/// Returns all problems of a file and of the files that it names, and its warnings, without regard
/// to the other layers.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn check_file(
    definition: &Definition,
    path: &Path,
) -> Result<(Vec<Problem>, Vec<String>), String> {
    let content = read(path, definition)?;
    let is_public = content.is_public;
    let mut layers = Layers::new(definition);
    let mut problems = layers.add_file(content, path);
    let mut warnings = layers.file_warnings(path, is_public);
    let (unusable, missing) = layers.check_named_files();
    problems.extend(unusable);
    problems.sort_by_key(|problem| problem.line);
    warnings.extend(missing);
    Ok((problems, warnings))
}

/// Returns a URL without its password.
pub(crate) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://[redacted]@{host}"),
        None => url.to_owned(),
    }
}

/// The settings while they are collected, from the highest layer to the lowest.
struct Layers<'a> {
    definition: &'a Definition,
    values: BTreeMap<String, Setting>,
    routes: Vec<Route>,
    /// The accepted settings as options.
    accepted: Vec<OsString>,
}

impl<'a> Layers<'a> {
    fn new(definition: &'a Definition) -> Self {
        Self {
            definition,
            values: BTreeMap::new(),
            routes: Vec::new(),
            accepted: Vec::new(),
        }
    }

    fn add_options(&mut self, matches: &ArgMatches) {
        for (key, arg) in self.definition.options() {
            let id = arg.get_id().as_str();
            if !matches!(matches.try_contains_id(id), Ok(true))
                || matches.value_source(id) != Some(ValueSource::CommandLine)
            {
                continue;
            }
            let values = matches.get_raw(id).into_iter().flatten();
            let values: Vec<_> = values.map(OsStr::to_owned).collect();
            self.insert(key, form(arg), values, Origin::Option);
        }
    }

    /// Adds the variables of the global settings, and of the others as well if `all`. An empty
    /// variable counts as unset: systemd's `EnvironmentFile=` and the environment files of
    /// container tools cannot unset one.
    fn add_variables(&mut self, all: bool) -> Result<(), String> {
        for (key, arg) in self.definition.options() {
            let name = variable(key);
            let value = std::env::var_os(&name).filter(|value| !value.is_empty());
            let Some(value) = value.filter(|_| all || arg.is_global_set()) else {
                continue;
            };
            let form = form(arg);
            let problem = match from_variable(form, value) {
                Err(problem) => Some(problem),
                Ok(value) => self.add(key, form, vec![value], Origin::Variable),
            };
            if let Some(problem) = problem {
                return Err(format!("{name}, for --{key}: {problem}"));
            }
        }
        Ok(())
    }

    /// Adds the file's settings. Returns its problems.
    fn add_file(&mut self, content: Content, path: &Path) -> Vec<Problem> {
        let mut problems = content.problems;
        let in_base_path = self.base_path().map(|base| base.join(file::FILE_NAME));
        for Entry { key, line, values } in content.entries {
            let problem = if key == BASE_PATH && in_base_path.as_deref() == Some(path) {
                Some("it is not used in a file that is found in the base path".to_owned())
            } else {
                let form = self.definition.form(&key);
                self.add(&key, form, values, Origin::File(line))
            };
            if let Some(problem) = problem {
                problems.push(Problem {
                    line: Some(line),
                    text: format!("'{key}': {problem}"),
                    key: Some(key),
                });
            }
        }
        let unmet = self.unmet_needs().filter_map(|(key, needed, origin)| {
            let Origin::File(line) = origin else {
                return None;
            };
            Some(Problem {
                key: Some(key.to_owned()),
                line: Some(line),
                text: format!("'{key}' needs '{needed}'"),
            })
        });
        problems.extend(unmet);
        for table in content.routes {
            problems.extend(self.add_route(table));
        }
        let arguments: Vec<_> = self.routes.iter().map(|route| &route.arguments).collect();
        if let Err((index, error)) = route::check(&arguments) {
            let line = self.routes.get(index).map(|route| route.line);
            let text = format!("'{}': {error}", file::ROUTES);
            problems.push(route_problem(line, text));
        }
        let of_bytes = ["forward-tcp", "passthrough"];
        let of_bytes = of_bytes.into_iter().find(|key| {
            let origin = self.values.get(*key).map(|setting| setting.origin);
            origin.is_some_and(Origin::is_file)
        });
        if let (Some(key), Some(first)) = (of_bytes, self.routes.first()) {
            let line = Some(first.line);
            let text = format!("routes take HTTP: they cannot be used with '{key}'");
            problems.push(route_problem(line, text));
        }
        problems.sort_by_key(|problem| problem.line);
        problems
    }

    /// Adds a route, or returns its problems.
    fn add_route(&mut self, table: RouteTable) -> Vec<Problem> {
        let definition = Definition::route();
        let (mut problems, mut accepted) = (Vec::new(), Vec::new());
        for Entry { key, line, values } in &table.entries {
            let arguments = to_arguments(key, definition.form(key), values);
            let problem = match definition.check(key, &accepted, &arguments) {
                Ok(()) => {
                    accepted.extend(arguments);
                    continue;
                }
                Err(Refusal::Value(problem)) => problem,
                Err(Refusal::Conflict(keys)) => {
                    format!("cannot be used with '{}'", keys.join("' and '"))
                }
                Err(Refusal::Unknown { .. }) => "is unknown".to_owned(),
            };
            let text = format!("route: '{key}': {problem}");
            problems.push(route_problem(Some(*line), text));
        }
        if !problems.is_empty() {
            return problems;
        }
        let parsed = RouteArgs::try_parse_from(accepted);
        let parsed = parsed.map_err(|error| error.kind().to_string());
        let checked = parsed.and_then(|arguments| match arguments.problem() {
            Some(problem) => Err(problem.to_owned()),
            None => Ok(arguments),
        });
        match checked {
            Ok(arguments) => {
                self.routes.push(Route {
                    line: table.line,
                    entries: table.entries,
                    arguments,
                });
                Vec::new()
            }
            Err(text) => vec![route_problem(Some(table.line), text)],
        }
    }

    /// Returns the settings without what they need, that, and their origins.
    fn unmet_needs(&self) -> impl Iterator<Item = (&'static str, &'static str, Origin)> {
        NEEDS.iter().filter_map(|(key, needed)| {
            let setting = self.values.get(*key)?;
            let is_met = setting.is_off() || self.values.contains_key(*needed);
            (!is_met).then_some((*key, *needed, setting.origin))
        })
    }

    /// Returns the key of a higher layer than the file that replaces what is served.
    fn replacement_of_routes(&self) -> Option<&'static str> {
        WAYS_TO_SERVE.iter().copied().find(|key| {
            let setting = self.values.get(*key);
            setting.is_some_and(|setting| !setting.origin.is_file() && !setting.is_off())
        })
    }

    /// Adds a setting, unless a higher layer has it or one that excludes it. Returns its problem.
    fn add(
        &mut self,
        key: &str,
        form: Form,
        values: Vec<OsString>,
        origin: Origin,
    ) -> Option<String> {
        let arguments = to_arguments(key, form, &values);
        if self.values.contains_key(key) {
            // Its value is checked nevertheless.
            return match self.definition.check(key, &[], &arguments) {
                Err(Refusal::Value(problem)) => Some(problem),
                _ => None,
            };
        }
        match self.definition.check(key, &self.accepted, &arguments) {
            Ok(()) => {
                self.insert(key, form, values, origin);
                None
            }
            Err(Refusal::Value(problem)) => Some(problem),
            Err(Refusal::Unknown { .. }) => None,
            Err(Refusal::Conflict(keys)) => {
                let is_of_layer = |key: &String| {
                    let other = self.values.get(key).map(|setting| setting.origin);
                    matches!(
                        (other, origin),
                        (Some(Origin::Variable), Origin::Variable)
                            | (Some(Origin::File(_)), Origin::File(_))
                    )
                };
                let others: Vec<_> = keys.into_iter().filter(is_of_layer).collect();
                let others = others.join("' and '");
                (!others.is_empty()).then(|| format!("cannot be used with '{others}'"))
            }
        }
    }

    fn insert(&mut self, key: &str, form: Form, values: Vec<OsString>, origin: Origin) {
        self.accepted.extend(to_arguments(key, form, &values));
        let setting = Setting { values, origin };
        self.values.insert(key.to_owned(), setting);
    }

    /// Returns the base path of the layers so far, if there is one.
    fn base_path(&self) -> Option<PathBuf> {
        match self.values.get(BASE_PATH) {
            Some(setting) => setting.values.first().map(PathBuf::from),
            None => default_base_path(),
        }
    }

    /// Returns the files that cannot be used, and warnings of those that are not there.
    fn check_named_files(&self) -> (Vec<Problem>, Vec<String>) {
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        let own = self.values.iter().filter_map(|(key, setting)| {
            let Origin::File(line) = setting.origin else {
                return None;
            };
            Some((key.as_str(), line, &setting.values))
        });
        let entries = self.routes.iter().flat_map(|route| &route.entries);
        let of_routes = entries.map(|entry| (entry.key.as_str(), entry.line, &entry.values));
        for (key, line, values) in own.chain(of_routes) {
            for value in values {
                match named_files::problem(key, value) {
                    None => {}
                    Some(FileProblem::Missing(text)) => {
                        warnings.push(format!("line {line}: '{key}': {text}"));
                    }
                    Some(FileProblem::Unusable(text)) => problems.push(Problem {
                        key: Some(key.to_owned()),
                        line: Some(line),
                        text: format!("'{key}': {text}"),
                    }),
                }
            }
        }
        (problems, warnings)
    }

    /// Warns of a password that other users can read.
    fn file_warnings(&self, path: &Path, is_public: bool) -> Vec<String> {
        let has_password = self.values.values().any(|setting| {
            let mut texts = setting.values.iter().filter_map(|value| value.to_str());
            matches!(setting.origin, Origin::File(_))
                && texts.any(|text| without_password(text) != text)
        });
        let warning = || {
            let path = RedactedPath(path);
            format!(
                "{path} contains a password, and other users can read it: make it readable for its owner only (chmod 600)"
            )
        };
        (is_public && has_password)
            .then(warning)
            .into_iter()
            .collect()
    }
}

fn read(path: &Path, definition: &Definition) -> Result<Content, String> {
    file::read(path, definition).map_err(|error| {
        let path = RedactedPath(path);
        format!(
            "could not read the configuration file {path}: {}",
            chain(&error)
        )
    })
}

/// Describes the first of a file's problems, and how to see the others.
fn one_line(path: &Path, problems: &[Problem]) -> Option<String> {
    let first = problems.first()?;
    let path = RedactedPath(path);
    let line = first
        .line
        .map_or_else(String::new, |line| format!(", line {line}"));
    let more = match problems.len() {
        1 => String::new(),
        all => format!(" ({} more: see `clesyde-cloud config check`)", all - 1),
    };
    Some(format!("{path}{line}: {}{more}", first.text))
}

fn is_global(definition: &Definition, key: &str) -> bool {
    definition.find(key).is_some_and(clap::Arg::is_global_set)
}

/// Returns the file that is named by option or variable.
fn named_file(matches: &ArgMatches) -> Option<PathBuf> {
    let option = matches.try_get_one::<PathBuf>("config").ok().flatten();
    let variable = || std::env::var_os(variable("config")).filter(|value| !value.is_empty());
    option.cloned().or_else(|| variable().map(PathBuf::from))
}

fn is_config_check(matches: &ArgMatches) -> bool {
    let config = matches.subcommand_matches("config");
    config.is_some_and(|config| config.subcommand_name() != Some("show"))
}

/// Returns the matches of the innermost command, which has the global options.
fn innermost(matches: &ArgMatches) -> &ArgMatches {
    match matches.subcommand() {
        Some((_, inner)) => innermost(inner),
        None => matches,
    }
}

fn route_problem(line: Option<usize>, text: String) -> Problem {
    Problem {
        key: Some(file::ROUTES.to_owned()),
        line,
        text,
    }
}

/// Returns a route as options.
fn route_arguments(entries: &[Entry]) -> Vec<OsString> {
    let definition = Definition::route();
    let arguments =
        |entry: &Entry| to_arguments(&entry.key, definition.form(&entry.key), &entry.values);
    entries.iter().flat_map(arguments).collect()
}

fn usage_error(text: String) -> clap::Error {
    clap::Error::raw(ErrorKind::InvalidValue, format!("{text}\n"))
}
