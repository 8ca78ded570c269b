//! Option parsing, error output and signals for the examples.

use std::error::Error;
use std::fmt::Display;
use std::num::NonZeroU32;
use std::process::ExitCode;

use cloud_net::error_chain;
use snitun::ProtocolVersion;

/// An error that ends a program. Its text includes its sources.
pub(crate) enum ExampleError {
    /// The options are invalid.
    Usage(String),
    /// Any other error.
    Failed(String),
}

impl ExampleError {
    /// Adds context to an error.
    pub(crate) fn context<E: Error + 'static>(about: impl Display) -> impl FnOnce(E) -> Self {
        move |error| Self::Failed(format!("{about}: {}", error_chain(&error)))
    }

    /// Adds the option's name to an error.
    pub(crate) fn option<E: Error + 'static>(option: impl Display) -> impl FnOnce(E) -> Self {
        move |error| Self::Usage(format!("{option}: {}", error_chain(&error)))
    }
}

impl<E: Error + 'static> From<E> for ExampleError {
    fn from(error: E) -> Self {
        Self::Failed(error_chain(&error))
    }
}

/// Converts the result into an exit code and prints the error. The exit code for wrong usage is the
/// option parser's.
pub(crate) fn end(result: Result<(), ExampleError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(ExampleError::Failed(what)) => {
            eprintln!("error: {what}");
            ExitCode::FAILURE
        }
        Err(ExampleError::Usage(what)) => {
            eprintln!("error: {what}\n\nFor more information, try '--help'.");
            ExitCode::from(2)
        }
    }
}

/// Checks the syntax of a host name or address with a port; resolves it on use.
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

/// Waits for SIGTERM or Ctrl-C, from the call on.
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
