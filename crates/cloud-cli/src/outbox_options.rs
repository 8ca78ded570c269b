//! The options of the outbox: where accepted messages are kept, how many, and which are dropped.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use cloud_facade::CloudBuilder;
use cloud_facade::iot::{Limits, Overflow};

/// Values of the options.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Outbox")]
pub(crate) struct OutboxOptions {
    /// Store messages to the platform below this directory until the broker has them, so that they
    /// survive the process, `kill -9` and a power cut [default: in memory]
    #[arg(
        long,
        value_name = "DIR",
        env = "CLESYDE_OUTBOX",
        hide_env_values = true
    )]
    outbox: Option<PathBuf>,

    /// Maximum messages in the outbox
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    outbox_messages: u32,

    /// Maximum size of the outbox in KiB: topics, payloads, and 128 bytes for each message
    #[arg(
        long,
        value_name = "KIB",
        default_value_t = 4096,
        value_parser = clap::value_parser!(u32).range(1..=1_048_576)
    )]
    outbox_size: u32,

    /// What happens to a message when the outbox is full
    #[arg(long, value_name = "POLICY", value_enum, default_value = "refuse")]
    outbox_overflow: OverflowOption,
}

/// The policies.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum OverflowOption {
    /// It is refused; accepted messages stay
    Refuse,
    /// The oldest messages are dropped for it
    DropOldest,
    /// The oldest messages at quality of service 0 are dropped for it; without any, it is refused
    DropAtMostOnce,
}

impl OutboxOptions {
    /// Applies the options to the settings of a device.
    pub(crate) fn apply(&self, settings: CloudBuilder) -> CloudBuilder {
        let size = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        let limits = Limits::new()
            .outbox_messages(size(self.outbox_messages))
            .outbox_bytes(size(self.outbox_size).saturating_mul(1024));
        let overflow = match self.outbox_overflow {
            OverflowOption::Refuse => Overflow::Refuse,
            OverflowOption::DropOldest => Overflow::DropOldest,
            OverflowOption::DropAtMostOnce => Overflow::DropAtMostOnce,
        };
        let settings =
            settings.session(move |config| config.limits(limits.clone()).overflow(overflow));
        match &self.outbox {
            Some(directory) => settings.outbox_directory(directory),
            None => settings,
        }
    }
}
