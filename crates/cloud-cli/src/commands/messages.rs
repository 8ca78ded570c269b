//! `publish` and `request`: one message to the platform, and one request with its response.

use std::time::Duration;

use clap::Args;
use cloud_facade::iot::{DeliveryError, Message, QoS, RequestError};
use cloud_facade::{Action, SendError};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::commands::session::{interrupted, with_session};
use crate::error::{CliError, Result, chain};
use crate::options::GlobalOptions;
use crate::output::Output;
use crate::redact::{Redacted, RedactedTopic};
use crate::value_parsers::json_value;

/// Time limit for the platform's acknowledgement or response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

const REQUEST_DETAILS: &str = exclusive_help!(
    r#"The platform has to support the action: it does not answer an unknown one, and the request fails after 30 seconds.

Example, if the platform supports an action `weather`:
  clesyde-cloud request weather '{"days": 2}'

The simulator has no such action. Send the response from another terminal, at its control_url, while the request waits:
  curl --json '{"sun": true}' CONTROL_URL/devices/SN0001/actions/weather"#
);

/// Arguments of `publish`.
#[derive(Debug, Args)]
#[command(
    after_help = exclusive_help!("Example:\n  clesyde-cloud publish c/d/SN0001/status '{\"state\": \"PING\"}'")
)]
pub(crate) struct PublishArgs {
    /// The topic; the platform accepts topics below c/d/SN/
    topic: String,

    /// The message, verbatim
    payload: String,

    /// Do not wait for an acknowledgement (quality of service 0)
    #[arg(long)]
    at_most_once: bool,
}

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
    let PublishArgs {
        topic,
        payload,
        at_most_once,
    } = arguments;
    let failed = |error: &(dyn std::error::Error + 'static)| {
        CliError::with_cause(
            format_args!("the message to {} was not delivered", RedactedTopic(topic)),
            error,
        )
    };
    with_session(
        global,
        std::convert::identity,
        interrupted(),
        async |cloud| {
            let qos = if *at_most_once {
                QoS::AtMostOnce
            } else {
                QoS::AtLeastOnce
            };
            let receipt = cloud
                .publish(Message::new(topic.as_str(), payload.clone()).qos(qos))
                .map_err(|error| failed(&error))?;
            timeout(RESPONSE_TIMEOUT, receipt)
                .await
                .map_err(|error| failed(&error))?
                .map_err(|error| failed(&error))?;
            output.result(
                &json!({ "event": "published", "topic": topic }),
                format_args!("published to {topic}"),
            )
        },
    )
    .await
}

pub(crate) async fn request(
    global: &GlobalOptions,
    arguments: &RequestArgs,
    output: &Output,
) -> Result {
    let RequestArgs { action, payload } = arguments;
    with_session(
        global,
        std::convert::identity,
        interrupted(),
        async |cloud| {
            let answer = cloud
                .request(action, payload.to_string(), RESPONSE_TIMEOUT)
                .await
                .map_err(|error| {
                    let topic = match &error {
                        SendError::Request(RequestError::Delivery(DeliveryError::Refused(_))) => {
                            format!(" on c/d/{}/{action}/req", cloud.serial_number())
                        }
                        _ => String::new(),
                    };
                    CliError::Failed(format!(
                        "the request {}{topic} failed: {}",
                        Redacted(action.as_str()),
                        chain(&error)
                    ))
                })?;
            let text = String::from_utf8_lossy(&answer);
            let (value, text) = match serde_json::from_slice(&answer) {
                // Only between values: within strings JSON has no raw carriage return.
                Ok(value) => (value, text.replace('\r', " ")),
                Err(_) => (Value::from(text.as_ref()), text.into_owned()),
            };
            output.result(
                &json!({ "event": "answer", "action": action.as_str(), "answer": value }),
                text,
            )
        },
    )
    .await
}
