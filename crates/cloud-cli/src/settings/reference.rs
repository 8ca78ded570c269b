//! The reference of all settings, generated from the command line's definition: a commented file
//! with the defaults, and the table in the documentation.

use std::fmt::Write;

use clap::Arg;

use super::definition::{Definition, Form, form, variable};

/// The width of comments in the file.
const WIDTH: usize = 90;

const HEADER: &str = "\
# Settings of clesyde-cloud, with their defaults or an example. Remove the # of a setting to use it.
# An option of the command line takes precedence over an environment variable, and that over this file.
# The provisioning key is not kept here. `clesyde-cloud config check` checks this file.
";

const ROUTE_HEADER: &str = "
# A route: requests for a host, for a path, or for a path of a host, and the application for them. All other requests
# go to what is set above. There may be several, at the end of the file.
#[[route]]
";

/// Returns the commented file.
pub(crate) fn template(settings: &Definition) -> String {
    let mut text = HEADER.to_owned();
    for (key, arg) in settings.options() {
        let _ = write!(text, "\n{}", comment(&long_help(arg)));
        let _ = writeln!(text, "# Variable: {}", variable(key));
        let _ = writeln!(text, "#{key} = {}", example(arg));
    }
    text.push_str(ROUTE_HEADER);
    for (key, arg) in Definition::route().options() {
        let _ = write!(text, "\n{}", comment(&long_help(arg)));
        let _ = writeln!(text, "#{key} = {}", example(arg));
    }
    text
}

/// Returns the table of the documentation, in Markdown.
#[cfg(test)]
pub(crate) fn table(settings: &Definition) -> String {
    let mut text =
        "| key, option `--…` | variable | value | meaning |\n|---|---|---|---|\n".to_owned();
    for (key, arg) in settings.options() {
        let (value, help) = value_and_help(arg);
        let _ = writeln!(text, "| `{key}` | `{}` | {value} | {help} |", variable(key));
    }
    text
}

/// Returns the table of a route's keys.
#[cfg(test)]
pub(crate) fn route_table() -> String {
    let mut text = "| key of `[[route]]` | value | meaning |\n|---|---|---|\n".to_owned();
    for (key, arg) in Definition::route().options() {
        let (value, help) = value_and_help(arg);
        let _ = writeln!(text, "| `{key}` | {value} | {help} |");
    }
    text
}

#[cfg(test)]
fn value_and_help(arg: &Arg) -> (String, String) {
    let value = match form(arg) {
        Form::Switch | Form::Count => form(arg).expected().to_owned(),
        Form::List => format!("array of {}", value_name(arg)),
        Form::Number | Form::Text => value_name(arg),
    };
    (value, help(arg).replace('|', "\\|"))
}

/// Returns the default, as one text for each value.
pub(crate) fn defaults(arg: &Arg) -> Vec<String> {
    let values = arg.get_default_values().iter();
    values
        .map(|value| value.to_string_lossy().into_owned())
        .collect()
}

fn help(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    match (form(arg), defaults(arg).as_slice()) {
        (Form::Number | Form::Text, [value]) => format!("{help} [default: {value}]"),
        _ => help,
    }
}

fn long_help(arg: &Arg) -> String {
    match arg.get_long_help() {
        Some(help) => help.to_string(),
        None => help(arg),
    }
}

fn value_name(arg: &Arg) -> String {
    let possible = arg.get_possible_values();
    if possible.is_empty() || matches!(form(arg), Form::Switch | Form::Count) {
        let names = arg.get_value_names().unwrap_or_default();
        return names.first().map(ToString::to_string).unwrap_or_default();
    }
    let names: Vec<_> = possible.iter().map(|value| value.get_name()).collect();
    names.join(", ")
}

/// Returns the default as a value of the file, otherwise an example.
fn example(arg: &Arg) -> String {
    let default = defaults(arg).into_iter().next();
    let text = || {
        let possible = arg.get_possible_values();
        let first = possible.first().map(|value| value.get_name().to_owned());
        default.clone().or(first).unwrap_or_else(|| value_name(arg))
    };
    match form(arg) {
        Form::Switch => "false".to_owned(),
        Form::Count => "0".to_owned(),
        Form::Number => default.unwrap_or_else(|| "1".to_owned()),
        Form::List => format!("[\"{}\"]", text()),
        Form::Text => format!("\"{}\"", text()),
    }
}

/// Returns a text as lines of a comment.
fn comment(text: &str) -> String {
    let mut comment = String::new();
    for paragraph in text.lines() {
        let mut width = 0;
        for word in paragraph.split_whitespace() {
            let separator = match width {
                0 => "# ",
                _ if width + word.len() >= WIDTH => {
                    width = 0;
                    "\n# "
                }
                _ => " ",
            };
            comment.push_str(separator);
            comment.push_str(word);
            width += word.len() + 1;
        }
        comment.push_str(if width == 0 { "#\n" } else { "\n" });
    }
    comment
}
