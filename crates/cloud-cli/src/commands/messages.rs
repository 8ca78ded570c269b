//! `publish`, `request`, `subscribe` and `events`: messages to and from the platform.

use axum::http::Method;
use clap::Args;
use cloud_facade::Action;
use reqwest::Url;
use serde_json::{Value, json};

use crate::commands::device_store;
use crate::commands::session::{interrupted, with_device};
use crate::control_socket::{JsonLines, WaitFor, running_instance};
use crate::error::{CliError, Result};
use crate::options::GlobalOptions;
use crate::output::Output;
use crate::redact::{Redacted, RedactedTopic};
use crate::shutdown::Shutdown;
use crate::value_parsers::json_value;

const REQUEST_DETAILS: &str = shared_help!(
    r#"The platform has to support the action: it does not answer an unknown one, and the request fails after 30 seconds.

Example, if the platform supports an action `weather`:
  clesyde-cloud request weather '{"days": 2}'

The simulator has no such action. Send the response from another terminal, at its control_url, while the request waits:
  curl --json '{"sun": true}' CONTROL_URL/devices/SN0001/actions/weather"#
);

/// Arguments of `publish`.
#[derive(Debug, Args)]
#[command(
    after_help = shared_help!("Example:\n  clesyde-cloud publish c/d/SN0001/status '{\"state\": \"PING\"}'")
)]
pub(crate) struct PublishArgs {
    /// The topic; the platform accepts topics below c/d/SN/
    topic: String,

    /// The message, verbatim
    payload: String,

    /// Do not wait for an acknowledgement (quality of service 0)
    #[arg(long)]
    at_most_once: bool,

    /// Have the broker retain it for later subscribers
    #[arg(long)]
    retain: bool,

    /// The type of the payload, such as application/json
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,

    /// The topic for responses
    #[arg(long, value_name = "TOPIC")]
    response_topic: Option<String>,

    /// Data, in base64, that joins a response with this message
    #[arg(long, value_name = "BASE64")]
    correlation_data: Option<String>,

    /// A property for the receivers; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = user_property)]
    user_property: Vec<(String, String)>,

    /// Drop the message if it cannot be delivered within this many seconds
    #[arg(long, value_name = "SECONDS")]
    expires_in: Option<u32>,

    /// When the command ends, if an instance runs; without one, when the message is acknowledged
    #[arg(long, value_name = "STATE", value_enum, default_value = "acknowledged")]
    wait: WaitFor,
}

/// Parses a name and a value. The error does not repeat them.
fn user_property(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("has no `=`; write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Arguments of `subscribe`.
#[derive(Debug, Args)]
#[command(
    after_help = shared_help!("Example:\n  clesyde-cloud subscribe 'c/d/SN0001/+/note'")
)]
pub(crate) struct SubscribeArgs {
    /// The topic filter; the platform permits topics below c/d/SN/
    filter: String,

    /// Accept messages at quality of service 0 only
    #[arg(long)]
    at_most_once: bool,

    /// End after this many messages
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,
}

/// Details of `events`.
pub(crate) const EVENTS_DETAILS: &str = "\
Each event is a JSON object on a line, with or without --json. Without a running instance there are no events.";

/// Arguments of `request`.
#[derive(Debug, Args)]
#[command(after_help = REQUEST_DETAILS)]
pub(crate) struct RequestArgs {
    /// The action: 1 to 64 characters of A-Z a-z 0-9 _ -
    action: Action,

    /// The request's payload, in JSON
    #[arg(value_name = "JSON", value_parser = json_value)]
    payload: Value,
}

pub(crate) async fn publish(
    global: &GlobalOptions,
    arguments: &PublishArgs,
    output: &Output,
) -> Result {
    let topic = &arguments.topic;
    with_device(global, interrupted(), async |device| {
        // The command's own session ends with the command.
        let wait = match device.is_instance() {
            true => arguments.wait,
            false => WaitFor::Acknowledged,
        };
        let message = json!({
            "topic": topic,
            "payload": arguments.payload,
            "qos": if arguments.at_most_once { 0 } else { 1 },
            "retain": arguments.retain,
            "content_type": arguments.content_type,
            "response_topic": arguments.response_topic,
            "correlation_data": arguments.correlation_data,
            "user_properties": arguments.user_property,
            "expires_in": arguments.expires_in,
            "wait": wait,
        });
        let line = device.call::<Value>(Method::POST, "publish", Some(&message));
        let line = line.await.map_err(|error| {
            let topic = RedactedTopic(topic);
            CliError::Failed(format!("the message to {topic} was not delivered: {error}"))
        })?;
        let done = line["event"].as_str().unwrap_or_default();
        output.result(&line, format_args!("{done} to {topic}"))
    })
    .await
}

pub(crate) async fn request(
    global: &GlobalOptions,
    arguments: &RequestArgs,
    output: &Output,
) -> Result {
    let RequestArgs { action, payload } = arguments;
    with_device(global, interrupted(), async |device| {
        let request = json!({ "action": action.as_str(), "payload": payload });
        let line = device.call::<Value>(Method::POST, "request", Some(&request));
        let line = line.await.map_err(|error| {
            let action = Redacted(action.as_str());
            CliError::Failed(format!("the request {action} failed: {error}"))
        })?;
        let text = match &line["answer"] {
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        output.result(&line, text)
    })
    .await
}

pub(crate) async fn subscribe(
    global: &GlobalOptions,
    arguments: &SubscribeArgs,
    output: &Output,
) -> Result {
    let mut left = arguments.count.unwrap_or(u64::MAX);
    with_device(global, Ok(()), async |device| {
        let qos = if arguments.at_most_once { "0" } else { "1" };
        let query = [("filter", arguments.filter.as_str()), ("qos", qos)];
        let mut messages = device
            .stream(&format!("subscribe?{}", encode(&query)?))
            .await?;
        while left > 0 {
            let line = next_line(&mut messages, output).await?;
            left -= u64::from(line["event"] == "message");
            output.result(&line, message_text(&line))?;
        }
        Ok(())
    })
    .await
}

/// Encodes the query of a URL.
fn encode(query: &[(&str, &str)]) -> Result<String> {
    let url = Url::parse_with_params("http://localhost/", query)
        .map_err(|error| CliError::with_cause("the topic filter", &error))?;
    Ok(url.query().unwrap_or_default().to_owned())
}

fn message_text(line: &Value) -> String {
    let text = |name: &str| line[name].as_str();
    match text("event") {
        Some("message") => {
            let payload = text("payload").or(text("base64")).unwrap_or_default();
            format!("{} {payload}", text("topic").unwrap_or_default())
        }
        Some("missed") => format!("{} messages were lost", line["messages"]),
        _ => format!("subscribed to {}", text("filter").unwrap_or_default()),
    }
}

pub(crate) async fn events(global: &GlobalOptions, output: &Output) -> Result {
    let mut shutdown = Shutdown::install()?;
    device_store(global)?;
    let instance = running_instance(&global.base_path()?).ok_or_else(|| {
        CliError::Failed(
            "no instance runs on this directory: start one with `clesyde-cloud run`, whose --json prints the same events"
                .to_owned(),
        )
    })?;
    let mut events = instance.stream("events").await?;
    loop {
        tokio::select! {
            line = next_line(&mut events, output) => output.always_json(&line?)?,
            () = shutdown.requested() => return Ok(()),
        }
    }
}

/// Prints each line of a stream, as JSON or as the text that `text` makes of it.
pub(crate) async fn print_lines(
    lines: &mut JsonLines,
    output: &Output,
    text: impl Fn(&Value) -> String,
) -> Result {
    loop {
        let line = next_line(lines, output).await?;
        output.result(&line, text(&line))?;
    }
}

/// Returns the next line.
///
/// # Errors
/// Standard output was closed, or the stream failed.
async fn next_line(lines: &mut JsonLines, output: &Output) -> Result<Value> {
    tokio::select! {
        line = lines.next() => Ok(line?),
        () = output.closed() => Err(CliError::OutputClosed),
    }
}
