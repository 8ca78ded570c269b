//! How a command can end other than well, and the exit code that says so.
//!
//! A message is one or two lines: what failed, why, what to do. It never holds a secret: those who make it put in
//! errors of our crates, which print none, and names of files, never their content.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::possible_secret::{NOT_SHOWN, ShownPath};

/// Why a command ended.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Tried and failed: exit 1.
    Failed(String),
    /// Asked for in a way that cannot be: exit 2, nothing sent or written.
    Usage(String),
    /// There is no configuration in this directory: exit 3.
    NotProvisioned(PathBuf),
    /// Whoever read our standard output has gone. That is their right, so: exit 0, and not a word.
    OutputClosed,
}

/// What every command returns.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure with its causes, in one line.
    pub(crate) fn because(what: impl fmt::Display, cause: &(dyn Error + 'static)) -> Self {
        Self::Failed(format!("{what}: {}", chain(cause)))
    }

    /// A failure of the file system, naming the path.
    pub(crate) fn at(what: &str, path: &Path, cause: &(dyn Error + 'static)) -> Self {
        Self::because(format_args!("{what} {}", ShownPath(path)), cause)
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::OutputClosed => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::NotProvisioned(_) => 3,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(message) | Self::Usage(message) => f.write_str(message),
            Self::NotProvisioned(directory) => write!(
                f,
                "this device is not provisioned: there is no configuration in {}\n\
                 provision it with: clesyde-cloud provision --sn SN --api-url URL --token-file FILE",
                shown_directory(directory)
            ),
            Self::OutputClosed => f.write_str("standard output was closed"),
        }
    }
}

/// Whether a message may show a device's directory: what was given is its base path.
pub(crate) fn is_directory_shown(directory: &Path) -> bool {
    ShownPath(directory.parent().unwrap_or(directory)).is_shown()
}

/// A device's directory as a message may show it.
pub(crate) fn shown_directory(directory: &Path) -> String {
    if is_directory_shown(directory) {
        format!("{directory:?}")
    } else {
        NOT_SHOWN.to_owned()
    }
}

/// An error and its causes, without saying the same thing twice: some errors print their cause themselves.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    fn layers(texts: &[&'static str]) -> Layer {
        let (text, rest) = texts.split_first().unwrap();
        Layer {
            text,
            source: (!rest.is_empty()).then(|| Box::new(layers(rest))),
        }
    }

    #[test]
    fn causes_are_told_once() {
        assert_eq!(
            chain(&layers(&["no answer", "refused", "os error 111"])),
            "no answer: refused: os error 111"
        );
        assert_eq!(
            chain(&layers(&["no answer: refused", "refused"])),
            "no answer: refused"
        );
    }
}
