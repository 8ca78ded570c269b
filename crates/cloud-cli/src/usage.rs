//! What is wrong with a command line, without the values in it that could be secrets.
//!
//! clap repeats what it does not understand. Where that could be a key, a token or a password, its error is made again
//! here, from its kind and the names in it, and the value is left out.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::possible_secret::{NOT_SHOWN, is_option_name, is_possible_secret};

const KEY_HINT: &str = "the provisioning key is not taken from the command line, where other users can see it: give it with \
     --token-file FILE (- is standard input) or in CLESYDE_TOKEN";

/// The error, with everything in it that may be repeated.
pub(crate) fn without_secrets(error: clap::Error) -> clap::Error {
    let kind = error.kind();
    let message = match kind {
        ErrorKind::UnknownArgument => unknown_argument(&error),
        ErrorKind::InvalidSubcommand => text(&error, ContextKind::InvalidSubcommand)
            .filter(|name| is_possible_secret(name))
            .map(|_| format!("there is no such command {NOT_SHOWN}")),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::TooManyValues => {
            value(&error)
        }
        _ => None,
    };
    match message {
        Some(message) => {
            let usage = match error.get(ContextKind::Usage) {
                Some(ContextValue::StyledStr(usage)) => format!("\n\n{usage}"),
                _ => String::new(),
            };
            let message = format!("{message}{usage}\n\nFor more information, try '--help'.\n");
            clap::Error::raw(kind, message)
        }
        None => error,
    }
}

fn unknown_argument(error: &clap::Error) -> Option<String> {
    let argument = text(error, ContextKind::InvalidArg)?;
    if is_option_name(argument) {
        return None;
    }
    let what = if argument.starts_with('-') {
        "there is no such option"
    } else {
        "one argument too many"
    };
    Some(format!("{what} {NOT_SHOWN}; {KEY_HINT}"))
}

fn value(error: &clap::Error) -> Option<String> {
    let option = text(error, ContextKind::InvalidArg)?;
    let value = text(error, ContextKind::InvalidValue)?;
    if !is_possible_secret(value) {
        return None;
    }
    if error.kind() == ErrorKind::TooManyValues {
        return Some(format!("'{option}' takes no value {NOT_SHOWN}"));
    }
    let reason = std::error::Error::source(error).map_or_else(String::new, |source| {
        // clap's own checks repeat the value there, too.
        format!(": {}", source.to_string().replace(value, "it"))
    });
    let possible = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) if !values.is_empty() => {
            format!("\n  [possible values: {}]", values.join(", "))
        }
        _ => String::new(),
    };
    Some(format!(
        "invalid value {NOT_SHOWN} for '{option}'{reason}{possible}"
    ))
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text),
        _ => None,
    }
}
