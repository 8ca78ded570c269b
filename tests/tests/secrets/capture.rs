//! Everything that anybody logs in this process, at every level: events and spans of `tracing`,
//! records of `log`.

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

/// What was logged or shown, and by whom.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// The module that logged it; `value` for what the test itself printed.
    pub(crate) target: String,
    /// The message and all fields.
    pub(crate) text: String,
}

/// Collects [`Line`]s. Clones collect into the same heap.
#[derive(Debug, Clone, Default)]
pub(crate) struct Capture(Arc<Mutex<Vec<Line>>>);

impl Capture {
    /// Becomes the one collector of the process.
    pub(crate) fn install() -> anyhow::Result<Self> {
        let capture = Self::default();
        tracing::subscriber::set_global_default(
            tracing_subscriber::registry().with(capture.clone()),
        )?;
        log::set_logger(Box::leak(Box::new(capture.clone())))
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        log::set_max_level(log::LevelFilter::Trace);
        Ok(capture)
    }

    /// Takes a value as a host would print it: `Debug`, pretty or not.
    pub(crate) fn show(&self, value: &impl Debug) {
        self.add("value", format!("{value:?}\n{value:#?}"));
    }

    /// Takes an error: `Debug`, and `Display` with its causes.
    pub(crate) fn show_error(&self, error: &dyn std::error::Error) {
        let mut text = format!("{error:?}\n{error:#?}\n{error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            let _ = write!(text, ": {error}");
            cause = error.source();
        }
        self.add("value", text);
    }

    /// All that has come in so far.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.0.lock().unwrap().clone()
    }

    fn add(&self, target: &str, text: String) {
        self.0.lock().unwrap().push(Line {
            target: target.to_owned(),
            text,
        });
    }

    fn add_fields(&self, metadata: &Metadata<'_>, record: impl FnOnce(&mut Fields)) {
        let mut fields = Fields(metadata.name().to_owned());
        record(&mut fields);
        self.add(metadata.target(), fields.0);
    }
}

/// Fields as text. Every kind of value ends up in `record_debug`.
struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = write!(self.0, " {field}={value}");
    }
}

impl<S> Layer<S> for Capture
where
    S: Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    fn on_new_span(&self, span: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        self.add_fields(span.metadata(), |fields| span.record(fields));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            self.add_fields(span.metadata(), |fields| values.record(fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.add_fields(event.metadata(), |fields| event.record(fields));
    }
}

impl log::Log for Capture {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.add(record.target(), record.args().to_string());
    }

    fn flush(&self) {}
}
