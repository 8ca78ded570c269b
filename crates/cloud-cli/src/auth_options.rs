//! `--auth`: what callers have to show before a request reaches the application.
//!
//! [`AuthOptions::read`] reads the files; a reload calls it again and passes the result to
//! `ClesydeCloud::set_auth`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use cloud_facade::remote::auth::{AuthRules, ClientRoots, MAX_PASSWORD_FILE_SIZE, PasswordFile};
use cloud_facade::remote::{PathPrefix, PathPrefixError};

use crate::error::{CliError, Result};

/// Authentication of callers.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Authentication")]
pub(crate) struct AuthOptions {
    /// Ask callers for a password (basic=FILE) or a client certificate (mtls=FILE), below PATH or
    /// everywhere; may be given several times
    ///
    /// basic=FILE names a file of users, as `htpasswd -B FILE NAME` writes it; entries are hashed
    /// with bcrypt or Argon2. mtls=FILE names the certificates, in PEM, of the authorities that
    /// issue the certificates of clients. The relay can open neither.
    ///
    /// /admin:basic=FILE asks below /admin only. Of several PATHs, the longest one that fits holds,
    /// for passwords and for certificates apart. Where both are given, callers need both. Where a
    /// request's path can be read in several ways, it is refused with status 400.
    ///
    /// The application gets the user's name in Remote-User, and the certificate in X-Client-Subject
    /// and Client-Cert; callers cannot forge them. Callers with too many wrong passwords get status
    /// 429 for a while.
    ///
    /// With --forward-tcp, TLS demands the certificate; passwords need HTTP. --passthrough leaves
    /// TLS to the application.
    #[arg(long, value_name = "[PATH:]METHOD=FILE", value_delimiter = ',')]
    auth: Vec<AuthOption>,

    /// Pass the header Authorization with a password of --auth on to the application
    #[arg(long)]
    pass_authorization: bool,
}

/// The protocol that the tunnel serves, on which depends what can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServedAs {
    Http,
    PlainTcp,
    Passthrough,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct AuthOption {
    prefix: PathPrefix,
    method: Method,
    file: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Basic,
    Mtls,
}

/// The error of an invalid value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum AuthOptionError {
    #[error(
        "is neither basic=FILE nor mtls=FILE, such as basic=users.htpasswd or /admin:mtls=admins.pem"
    )]
    Method,
    #[error("names no file")]
    NoFile,
    #[error("has a PATH that {0}")]
    Path(#[from] PathPrefixError),
}

impl FromStr for AuthOption {
    type Err = AuthOptionError;

    fn from_str(text: &str) -> Result<Self, AuthOptionError> {
        let (prefix, rest) = match text.split_once(':') {
            Some((path, rest)) if path.starts_with('/') => (path.parse()?, rest),
            _ => (PathPrefix::root(), text),
        };
        let (method, file) = match rest.split_once('=') {
            Some(("basic", file)) => (Method::Basic, file),
            Some(("mtls", file)) => (Method::Mtls, file),
            _ => return Err(AuthOptionError::Method),
        };
        if file.is_empty() {
            return Err(AuthOptionError::NoFile);
        }
        Ok(Self {
            prefix,
            method,
            file: file.into(),
        })
    }
}

impl AuthOptions {
    /// Reads the files that the options name.
    ///
    /// # Errors
    /// Usage error if the rules cannot be enforced for what is served; failure if a file cannot be
    /// used. The message names the file and the line.
    pub(crate) fn read(&self, served_as: ServedAs) -> Result<AuthRules> {
        let mut rules = AuthRules::new().pass_authorization(self.pass_authorization);
        for (index, option) in self.auth.iter().enumerate() {
            option.check(served_as)?;
            let (prefix, file) = (&option.prefix, &option.file);
            let is_same = |other: &AuthOption| {
                let (one, another) = (other.prefix.as_str(), option.prefix.as_str());
                one.eq_ignore_ascii_case(another) && other.method == option.method
            };
            if self.auth[..index].iter().any(is_same) {
                return Err(CliError::Usage(format!(
                    "--auth names two files for one method and PATH ({prefix}); put all entries into one file"
                )));
            }
            rules = match option.method {
                Method::Basic => rules.passwords(prefix.clone(), read_passwords(file)?),
                Method::Mtls => rules
                    .client_certificates(prefix.clone(), read_client_roots(file)?)
                    .map_err(|error| CliError::with_path("could not use", file, &error))?,
            };
        }
        Ok(rules)
    }
}

impl AuthOption {
    fn check(&self, served_as: ServedAs) -> Result {
        let reason = match (served_as, self.method) {
            (ServedAs::Passthrough, _) => {
                "--auth needs TLS to end here, and --passthrough leaves it to the local server, which has to ask \
                 callers itself; use --forward or --forward-tcp"
            }
            (ServedAs::PlainTcp, Method::Basic) => {
                "--auth basic=FILE needs HTTP, which --forward-tcp does not read; use --forward, or --auth mtls=FILE"
            }
            (ServedAs::PlainTcp, Method::Mtls) if !self.prefix.is_root() => {
                "--auth with a PATH needs HTTP, which --forward-tcp does not read; use --forward, or leave out the PATH"
            }
            _ => return Ok(()),
        };
        Err(CliError::Usage(reason.to_owned()))
    }
}

/// Returns the file that a value of --auth names.
pub(crate) fn file_of(value: &str) -> Option<&Path> {
    value.split_once('=').map(|(_, file)| Path::new(file))
}

/// Checks the file that a value of --auth names.
///
/// # Errors
/// It cannot be used. The message names the file and the line.
pub(crate) fn check_file(value: &str) -> Result {
    match value.parse() {
        Ok(AuthOption { method, file, .. }) => match method {
            Method::Basic => read_passwords(&file).map(drop),
            Method::Mtls => read_client_roots(&file).map(drop),
        },
        // The value itself is checked elsewhere.
        Err(_) => Ok(()),
    }
}

fn read_passwords(path: &Path) -> Result<PasswordFile> {
    let text = read(path, "could not read the passwords in")?;
    PasswordFile::parse(&text)
        .map_err(|error| CliError::with_path("could not use the passwords in", path, &error))
}

fn read_client_roots(path: &Path) -> Result<ClientRoots> {
    let text = read(path, "could not read the authorities in")?;
    ClientRoots::from_pem(&text)
        .map_err(|error| CliError::with_path("could not use the authorities in", path, &error))
}

/// Reads a text file. Both kinds have the same bound, which is far above what they need.
fn read(path: &Path, context: &str) -> Result<String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| {
            let limit = MAX_PASSWORD_FILE_SIZE as u64 + 1;
            file.take(limit).read_to_string(&mut text)
        })
        .and_then(|length| match length > MAX_PASSWORD_FILE_SIZE {
            true => Err(io::Error::other("the file is too large")),
            false => Ok(()),
        })
        .map_err(|error| CliError::with_path(context, path, &error))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct TestCli {
        #[command(flatten)]
        auth: AuthOptions,
    }

    fn parse(options: &[&str]) -> Result<AuthOptions, clap::Error> {
        TestCli::try_parse_from([&["run"], options].concat()).map(|cli| cli.auth)
    }

    #[test]
    fn value_is_method_file_and_optional_path() {
        for (text, prefix, method, file) in [
            ("basic=users", "/", Method::Basic, "users"),
            ("mtls=a=b:c", "/", Method::Mtls, "a=b:c"),
            ("/admin:basic=/etc/u", "/admin", Method::Basic, "/etc/u"),
            ("/:mtls=ca.pem", "/", Method::Mtls, "ca.pem"),
        ] {
            let expected = AuthOption {
                prefix: prefix.parse().unwrap(),
                method,
                file: file.into(),
            };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for (text, part) in [
            ("", "basic=FILE"),
            ("users", "basic=FILE"),
            ("Basic=users", "basic=FILE"),
            ("oidc=x", "basic=FILE"),
            ("basic=", "no file"),
            ("admin:basic=users", "basic=FILE"),
            ("/a b:basic=users", "has a PATH"),
        ] {
            let error = text.parse::<AuthOption>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn rules_that_cannot_be_enforced_are_usage_errors() {
        for (option, served_as, part) in [
            ("basic=x", ServedAs::PlainTcp, "needs HTTP"),
            ("/a:mtls=x", ServedAs::PlainTcp, "with a PATH needs HTTP"),
            ("basic=x", ServedAs::Passthrough, "--passthrough"),
            ("mtls=x", ServedAs::Passthrough, "--passthrough"),
        ] {
            let error = parse(&["--auth", option]).unwrap().read(served_as);
            match error {
                Err(CliError::Usage(text)) => assert!(text.contains(part), "{text}"),
                other => panic!("{option}: {other:?}"),
            }
        }
        let none = parse(&[]).unwrap().read(ServedAs::Passthrough).unwrap();
        assert!(none.is_empty());
    }

    #[test]
    fn unusable_file_is_named_with_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("users");
        let read = |method: &str| {
            let option = format!("{method}={}", file.display());
            let options = parse(&["--auth", &option]).unwrap();
            options
                .read(ServedAs::Http)
                .map_err(|error| error.to_string())
        };
        let name = file.display().to_string();
        assert!(read("basic").unwrap_err().contains(&name));
        for (content, method, part) in [
            ("alice:secret\n", "basic", "line 1, the entry of alice"),
            ("", "basic", "no users"),
            ("secret", "mtls", "no certificate"),
        ] {
            std::fs::write(&file, content).unwrap();
            let error = read(method).unwrap_err();
            assert!(error.contains(part) && error.contains(&name), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        std::fs::write(
            &file,
            "alice:$2y$04$Iy2T0wCRbhlbRMOPjPlxrOw9fNBhhOBeBMvkkXzTPu8YMCHxEvGNm",
        )
        .unwrap();
        assert!(read("basic").is_ok());
        let option = format!("basic={name}");
        let twice = parse(&["--auth", &option, "--auth", &option]).unwrap();
        assert!(matches!(
            twice.read(ServedAs::Http),
            Err(CliError::Usage(_))
        ));
    }
}
