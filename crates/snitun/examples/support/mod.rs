//! What the examples share: how an option is read, how an error is told, how a program is stopped.

use std::error::Error;
use std::fmt::{self, Display};
use std::num::NonZeroU32;
use std::process::ExitCode;

use snitun::ProtocolVersion;

/// Why a program ends early. Whatever has a source is told with it.
pub(crate) enum Failure {
    /// The options cannot be used.
    Usage(String),
    /// All else.
    Failed(String),
}

impl Failure {
    /// What was tried, or what it was tried with, in front of the error.
    pub(crate) fn of<E: Error + 'static>(about: impl Display) -> impl FnOnce(E) -> Self {
        move |error| Self::Failed(format!("{about}: {}", Chain(&error)))
    }

    /// The same for an option.
    pub(crate) fn of_option<E: Error + 'static>(option: impl Display) -> impl FnOnce(E) -> Self {
        move |error| Self::Usage(format!("{option}: {}", Chain(&error)))
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(Chain(&error).to_string())
    }
}

/// How the program ends: in words on standard error, unless all is well. The code for wrong usage is the one that the parser of
/// the options has for it.
pub(crate) fn end(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(what)) => {
            eprintln!("error: {what}");
            ExitCode::FAILURE
        }
        Err(Failure::Usage(what)) => {
            eprintln!("error: {what}\n\nFor more information, try '--help'.");
            ExitCode::from(2)
        }
    }
}

/// An error with its sources.
struct Chain<'a>(&'a dyn Error);

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// A host, by name or address, with a port: looked up when it is used, and not here.
pub(crate) fn address(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(text.to_owned())
        }
        _ => Err("use HOST:PORT, such as relay.example.com:8443 or [2001:db8::1]:8443".to_owned()),
    }
}

pub(crate) fn version(text: &str) -> Result<ProtocolVersion, String> {
    let number: u8 = text.parse().map_err(|_| "use 0, 1 or 2")?;
    ProtocolVersion::try_from(number).map_err(|error| error.to_string())
}

pub(crate) fn throttling(text: &str) -> Result<NonZeroU32, String> {
    text.parse()
        .map_err(|_| "use a number from 1 on, or leave the option out for no limit".to_owned())
}

/// SIGTERM or Ctrl-C, from the call on.
pub(crate) fn stop_signal() -> std::io::Result<impl Future<Output = std::io::Result<()>>> {
    #[cfg(unix)]
    let mut terminate = {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate())?
    };
    Ok(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            interrupted = tokio::signal::ctrl_c() => interrupted,
        }
        #[cfg(not(unix))]
        tokio::signal::ctrl_c().await
    })
}
