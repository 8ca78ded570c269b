//! Usage errors without the values that may be secrets.
//!
//! clap repeats unknown arguments and invalid values. If such a value may be a key, a token or a
//! password, this module builds the error again from its kind and names, without the value.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::redact::{REDACTED, is_option_name, may_be_secret};

const KEY_HINT: &str = "the provisioning key is not accepted on the command line, where other users can see it: give it with \
     --token-file FILE (- is standard input) or in CLESYDE_TOKEN";

/// Returns the error without values that may be secrets.
pub(crate) fn redact_values(error: clap::Error) -> clap::Error {
    let kind = error.kind();
    let message = match kind {
        ErrorKind::UnknownArgument => unknown_argument(&error),
        ErrorKind::InvalidSubcommand => text(&error, ContextKind::InvalidSubcommand)
            .filter(|name| may_be_secret(name))
            .map(|_| format!("there is no such command {REDACTED}")),
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
        "unexpected argument"
    };
    Some(format!("{what} {REDACTED}; {KEY_HINT}"))
}

fn value(error: &clap::Error) -> Option<String> {
    let option = text(error, ContextKind::InvalidArg)?;
    let value = text(error, ContextKind::InvalidValue)?;
    if !may_be_secret(value) {
        return None;
    }
    if error.kind() == ErrorKind::TooManyValues {
        return Some(format!("'{option}' takes no value {REDACTED}"));
    }
    let reason = std::error::Error::source(error).map_or_else(String::new, |source| {
        // clap's own parsers repeat the value in their errors.
        format!(": {}", source.to_string().replace(value, "it"))
    });
    let possible = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) if !values.is_empty() => {
            format!("\n  [possible values: {}]", values.join(", "))
        }
        _ => String::new(),
    };
    Some(format!(
        "invalid value {REDACTED} for '{option}'{reason}{possible}"
    ))
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text),
        _ => None,
    }
}
