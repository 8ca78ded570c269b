//! The option of the session with the broker: how long the broker keeps it.

use std::time::Duration;

use clap::Args;
use cloud_facade::CloudBuilder;

/// Values of the option.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Messaging")]
pub(crate) struct SessionOptions {
    /// Let the broker keep subscriptions, and messages at quality of service 1, for this time while
    /// the device is away; programs on the control socket can then acknowledge messages themselves
    /// [default: it keeps none]
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    session_expiry: Option<u32>,
}

impl SessionOptions {
    /// Applies the option to the settings of a device.
    pub(crate) fn apply(&self, settings: CloudBuilder) -> CloudBuilder {
        match self.session_expiry {
            Some(expiry) => settings.hold_messages(Duration::from_secs(expiry.into())),
            None => settings,
        }
    }
}
