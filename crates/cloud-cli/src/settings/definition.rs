//! The settings, as the command line defines them: every option of `run` and every global option is
//! an option, an environment variable and a key of the file, by the same name.

use std::any::TypeId;
use std::ffi::OsString;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, CommandFactory};

use crate::redact::{Redacted, may_be_secret};
use crate::route::RouteArgs;

/// The option that names the file is no setting of the file.
const FILE_OPTION: &str = "config";

/// The name of a duration's value in the help; it is written as an integer in the file.
const SECONDS: &str = "SECONDS";

/// The highest number of repetitions of an option that counts.
const MAX_COUNT: u8 = 9;

/// A command whose options are settings, or keys of one table of the file.
#[derive(Debug, Clone)]
pub(crate) struct Definition(Command);

/// The form of a setting's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// An option without a value.
    Switch,
    /// An option without a value that is counted.
    Count,
    List,
    Number,
    Text,
}

impl Form {
    /// What a file has to contain, for messages.
    pub(crate) fn expected(self) -> &'static str {
        match self {
            Self::Switch => "true or false",
            Self::Count | Self::Number => "an integer",
            Self::List => "an array of strings, such as [\"a\", \"b\"]",
            Self::Text => "a string",
        }
    }
}

/// Why a setting is refused.
#[derive(Debug)]
pub(crate) enum Refusal {
    Unknown {
        suggestion: Option<String>,
    },
    Value(String),
    /// It cannot be used with these settings.
    Conflict(Vec<String>),
}

impl Definition {
    /// Returns the settings of the program: its global options and those of `run`.
    pub(crate) fn settings(program: &Command) -> Self {
        let run = program.find_subcommand("run");
        let global = program.get_arguments().filter(|arg| arg.is_global_set());
        let own = run.into_iter().flat_map(Command::get_arguments);
        let groups = run.into_iter().flat_map(Command::get_groups);
        let command = Command::new("settings")
            .no_binary_name(true)
            .disable_help_flag(true)
            .args(global.chain(own))
            .groups(groups);
        Self(command)
    }

    /// Returns the keys of a route.
    pub(crate) fn route() -> Self {
        Self(RouteArgs::command())
    }

    /// Returns the options, without the one that names the file.
    pub(crate) fn options(&self) -> impl Iterator<Item = (&str, &Arg)> {
        self.0
            .get_arguments()
            .filter_map(|arg| Some((arg.get_long()?, arg)))
            .filter(|(key, _)| *key != FILE_OPTION)
    }

    pub(crate) fn find(&self, key: &str) -> Option<&Arg> {
        self.options()
            .find_map(|(name, arg)| (name == key).then_some(arg))
    }

    pub(crate) fn form(&self, key: &str) -> Form {
        self.find(key).map_or(Form::Text, form)
    }

    /// Checks a setting beside others, all as arguments.
    pub(crate) fn check(
        &self,
        key: &str,
        others: &[OsString],
        arguments: &[OsString],
    ) -> Result<(), Refusal> {
        let line = others.iter().chain(arguments);
        let Err(error) = self.0.clone().try_get_matches_from(line) else {
            return Ok(());
        };
        Err(match error.kind() {
            ErrorKind::UnknownArgument => Refusal::Unknown {
                suggestion: names(&error, ContextKind::SuggestedArg).into_iter().next(),
            },
            ErrorKind::ArgumentConflict => {
                let mut keys = names(&error, ContextKind::InvalidArg);
                keys.extend(names(&error, ContextKind::PriorArg));
                keys.retain(|other| other != key);
                Refusal::Conflict(keys)
            }
            _ => Refusal::Value(value_problem(&error)),
        })
    }
}

pub(crate) fn form(arg: &Arg) -> Form {
    let is_number = |arg: &Arg| {
        let parsed = arg.get_value_parser().type_id();
        let integers = [
            TypeId::of::<u16>(),
            TypeId::of::<u32>(),
            TypeId::of::<u64>(),
            TypeId::of::<usize>(),
            TypeId::of::<NonZeroU32>(),
            TypeId::of::<NonZeroU64>(),
            TypeId::of::<NonZeroUsize>(),
        ];
        let names = arg.get_value_names().unwrap_or_default();
        integers.iter().any(|integer| parsed == *integer)
            || names.iter().any(|name| name == SECONDS)
    };
    match arg.get_action() {
        ArgAction::SetTrue => Form::Switch,
        ArgAction::Count => Form::Count,
        ArgAction::Append => Form::List,
        _ if is_number(arg) => Form::Number,
        _ => Form::Text,
    }
}

/// Returns the name of a setting's environment variable.
pub(crate) fn variable(key: &str) -> String {
    format!("CLESYDE_{}", key.replace('-', "_").to_ascii_uppercase())
}

/// Adds the names of the variables to the help of the program's settings.
pub(crate) fn with_variables(program: Command) -> Command {
    let describe = |command: Command| {
        command.mut_args(|arg| match arg.get_long() {
            Some(key) => {
                let name = variable(key);
                arg.env(name).hide_env_values(true)
            }
            None => arg,
        })
    };
    describe(program).mut_subcommand("run", describe)
}

/// Returns the arguments that set `key` to these values, as they are in a [`Form`].
pub(crate) fn to_arguments(key: &str, form: Form, values: &[OsString]) -> Vec<OsString> {
    let option = OsString::from(format!("--{key}"));
    let first = values.first().and_then(|value| value.to_str());
    match form {
        Form::Switch if first == Some("true") => vec![option],
        Form::Switch => Vec::new(),
        Form::Count => {
            let count = first.and_then(|value| value.parse().ok()).unwrap_or(0);
            vec![option; count]
        }
        _ => {
            let argument = |value: &OsString| {
                let mut argument = option.clone();
                argument.push("=");
                argument.push(value);
                argument
            };
            values.iter().map(argument).collect()
        }
    }
}

/// Returns the value of a variable in the form of its setting.
pub(crate) fn from_variable(form: Form, value: OsString) -> Result<OsString, String> {
    let text = value.to_str().unwrap_or_default();
    match form {
        Form::Switch => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok("true".into()),
            "false" | "0" | "no" | "off" => Ok("false".into()),
            _ => Err(format!("expected true or false, not {}", Redacted(text))),
        },
        Form::Count => count(text).map(OsString::from),
        _ => Ok(value),
    }
}

/// Parses the number of repetitions of an option.
pub(crate) fn count(text: &str) -> Result<String, String> {
    match text.parse::<u8>() {
        Ok(count) if count <= MAX_COUNT => Ok(count.to_string()),
        _ => Err(format!(
            "expected an integer from 0 to {MAX_COUNT}, not {}",
            Redacted(text)
        )),
    }
}

/// Describes the error of a value, without the value if it may be a secret.
fn value_problem(error: &clap::Error) -> String {
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => value.as_str(),
        _ => "",
    };
    let shown = Redacted(value);
    match (
        error.get(ContextKind::ValidValue),
        std::error::Error::source(error),
    ) {
        (Some(ContextValue::Strings(valid)), _) if !valid.is_empty() => {
            format!("invalid value {shown}; it is one of {}", valid.join(", "))
        }
        (_, Some(source)) => {
            // clap's own parsers repeat the value in their errors.
            let source = source.to_string();
            let source = match may_be_secret(value) {
                true => source.replace(value, "it"),
                false => source,
            };
            format!("invalid value {shown}: {source}")
        }
        _ => format!("invalid value {shown}"),
    }
}

/// Returns the names of options in an error.
fn names(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    let texts = match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        _ => Vec::new(),
    };
    let name = |text: String| {
        let text = text.strip_prefix("--").unwrap_or(&text);
        let end = text.find([' ', '=', '[', '.']).unwrap_or(text.len());
        text[..end].to_owned()
    };
    texts.into_iter().map(name).collect()
}
