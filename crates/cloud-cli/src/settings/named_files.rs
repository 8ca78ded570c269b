//! The files and directories that settings name: whether they are there, and whether `run` can use
//! their content.

use std::ffi::OsStr;
use std::path::Path;

use crate::api::read_roots;
use crate::auth_options;
use crate::error::{CliError, Result};
use crate::public_client;
use crate::redact::RedactedPath;
use crate::static_files;
use crate::status_page;

/// What is wrong with a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FileProblem {
    /// It is not there, such as on a machine that is not the device.
    Missing(String),
    /// `run` cannot use it.
    Unusable(String),
}

/// Returns what is wrong with the file that the value of a setting names, if it names one.
pub(super) fn problem(key: &str, value: &OsStr) -> Option<FileProblem> {
    let path = Path::new(value);
    let (path, check): (&Path, &dyn Fn(&Path) -> Result) = match key {
        "auth" => (auth_options::file_of(value.to_str()?)?, &|_| {
            auth_options::check_file(value.to_str().unwrap_or_default())
        }),
        "forward-ca-file" => (path, &|path| {
            let pem = read_roots(path)?;
            public_client::roots(Some(&pem))
                .map(drop)
                .map_err(|error| CliError::Failed(format!("{}: {error}", RedactedPath(path))))
        }),
        "static" => (path, &|path| static_files::application(path, "").map(drop)),
        "device-logo" => (path, &status_page::check_logo),
        // Both are created when they are needed.
        "access-log-file" => return wrong_kind(path, path.is_dir(), "is a directory"),
        "outbox" => {
            let is_file = path.exists() && !path.is_dir();
            return wrong_kind(path, is_file, "is not a directory");
        }
        _ => return None,
    };
    if !path.exists() {
        let path = RedactedPath(path);
        return Some(FileProblem::Missing(format!("{path} does not exist")));
    }
    let error = check(path).err()?;
    Some(FileProblem::Unusable(error.to_string()))
}

fn wrong_kind(path: &Path, is_wrong: bool, text: &str) -> Option<FileProblem> {
    let problem = || FileProblem::Unusable(format!("{} {text}", RedactedPath(path)));
    is_wrong.then(problem)
}
