//! `config`: the settings and where they come from, a check of the file, and a file with all
//! settings.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::error::{CliError, Result};
use crate::options::{GlobalOptions, default_base_path};
use crate::output::{Output, write_raw};
use crate::redact::{REDACTED, RedactedPath, may_be_secret};
use crate::settings::definition::{Definition, Form, form, variable};
use crate::settings::reference::{defaults, template};
use crate::settings::{Origin, Settings, check_file, file, without_password};

/// Subcommands of `config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show each setting of `run`, its value, and where it comes from
    #[command(after_help = "The options of `run` are not accepted here: set them as variables.")]
    Show,
    /// Check a configuration file and show all of its problems
    #[command(after_help = "Exit codes: 0 the file can be used, 1 it cannot.")]
    Check {
        /// The file [default: the one that `run` would read]
        file: Option<PathBuf>,
    },
    /// Print a configuration file with all settings, their defaults and their help, as comments
    Template,
}

pub(crate) fn run(
    global: &GlobalOptions,
    settings: &Settings,
    definition: &Definition,
    command: &ConfigCommand,
    output: &Output,
) -> Result {
    match command {
        ConfigCommand::Show => show(global, settings, definition, output),
        ConfigCommand::Check { file } => check(global, definition, file.clone(), output),
        ConfigCommand::Template => write_raw(template(definition).as_bytes()),
    }
}

fn show(
    global: &GlobalOptions,
    settings: &Settings,
    definition: &Definition,
    output: &Output,
) -> Result {
    let path = settings.file.as_ref();
    let path = path.map(|path| path.display().to_string());
    match &path {
        Some(path) => output.text(format_args!("Configuration file {path}\n"))?,
        None => output.text("No configuration file\n")?,
    }
    let mut all = serde_json::Map::new();
    for (key, arg) in definition.options() {
        let setting = settings.get(key);
        let values = match setting {
            Some(setting) => setting
                .values
                .iter()
                .map(|value| shown_value(&value.to_string_lossy()))
                .collect(),
            None if key == "base-path" => global
                .base_path()
                .map(|path| vec![path.display().to_string()])
                .unwrap_or_default(),
            None => defaults(arg),
        };
        let value = json_value(form(arg), values);
        let (source, name) = match setting.map(|setting| setting.origin) {
            Some(Origin::Option) => ("option", Some(format!("--{key}"))),
            Some(Origin::Variable) => ("environment", Some(variable(key))),
            Some(Origin::File(line)) => {
                let path = path.as_deref().unwrap_or_default();
                ("file", Some(format!("{path}:{line}")))
            }
            None => ("default", None),
        };
        let shown = match &value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let origin = name.as_deref().unwrap_or(source);
        output.text(format_args!("{key:<28} {shown:<32} {origin}"))?;
        all.insert(
            key.to_owned(),
            json!({ "value": value, "source": source, "name": name }),
        );
    }
    let mut routes = Vec::new();
    for route in &settings.routes {
        let definition = Definition::route();
        let keys = route.entries.iter().map(|entry| {
            let values = entry.values.iter();
            let values = values
                .map(|value| shown_value(&value.to_string_lossy()))
                .collect();
            let form = definition.form(&entry.key);
            (entry.key.clone(), json_value(form, values))
        });
        let keys: serde_json::Map<_, _> = keys.collect();
        let path = path.as_deref().unwrap_or_default();
        let shown = Value::Object(keys.clone());
        output.text(format_args!(
            "{:<28} {shown} {path}:{}",
            file::ROUTES,
            route.line
        ))?;
        routes.push(keys);
    }
    output.json(&json!({ "file": path, "settings": all, "routes": routes }))
}

/// Returns a value without a password, and without what looks like a key instead of a value.
fn shown_value(value: &str) -> String {
    let is_word = value.len() > MAX_SHOWN_WORD && !value.contains(['.', ':', '/']);
    if is_word && may_be_secret(value) {
        REDACTED.to_owned()
    } else {
        without_password(value)
    }
}

/// Serial numbers are shorter; keys are longer.
const MAX_SHOWN_WORD: usize = 20;

fn json_value(form: Form, values: Vec<String>) -> Value {
    let first = values.first().map(String::as_str);
    match form {
        Form::Switch => Value::Bool(first == Some("true")),
        Form::Count => first
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
            .into(),
        Form::List => {
            let items = values.iter().flat_map(|value| value.split(','));
            items.collect()
        }
        Form::Number => first.map_or(Value::Null, |text| {
            text.parse::<u64>()
                .map_or_else(|_| text.into(), Value::from)
        }),
        Form::Text => first.into(),
    }
}

fn check(
    global: &GlobalOptions,
    definition: &Definition,
    named: Option<PathBuf>,
    output: &Output,
) -> Result {
    let named = named.or_else(|| global.config_file());
    let base_path = global.base_path().ok().or_else(default_base_path);
    let Some(path) = file::find(named, base_path.as_deref()) else {
        let places = file::candidates(base_path.as_deref());
        let places = places.iter().map(|path| RedactedPath(path).to_string());
        let places: Vec<_> = places.collect();
        return output.result(
            &json!({ "file": null, "usable": true, "problems": [], "warnings": [] }),
            format_args!(
                "no configuration file: there is neither {}",
                places.join(" nor ")
            ),
        );
    };
    let (problems, warnings) = check_file(definition, &path).map_err(CliError::Failed)?;
    for warning in &warnings {
        output.text(format_args!("warning: {warning}"))?;
    }
    for problem in &problems {
        let line = problem
            .line
            .map_or_else(String::new, |line| format!("line {line}: "));
        output.text(format_args!("{line}{}", problem.text))?;
    }
    let listed: Vec<_> = problems
        .iter()
        .map(|problem| json!({ "line": problem.line, "problem": problem.text }))
        .collect();
    output.json(&json!({
        "file": path.display().to_string(),
        "usable": problems.is_empty(),
        "problems": listed,
        "warnings": warnings,
    }))?;
    let path = RedactedPath(&path);
    match problems.len() {
        0 => output.text(format_args!("{path} can be used")),
        1 => Err(CliError::Failed(format!("{path} has a problem"))),
        count => Err(CliError::Failed(format!("{path} has {count} problems"))),
    }
}
