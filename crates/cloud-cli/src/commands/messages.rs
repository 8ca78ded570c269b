//! `publish` and `request`: one message to the platform, and one question with its answer.

use std::time::Duration;

use clap::Args;
use cloud_facade::iot::{DeliveryError, QoS, RequestError};
use cloud_facade::{Action, SendError};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::cli::GlobalOptions;
use crate::commands::online::{online, unfinished};
use crate::failure::{Failure, Outcome, chain};
use crate::output::Output;
use crate::possible_secret::{Shown, ShownTopic};
use crate::values::json_value;

/// How long the platform is given to acknowledge or to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

const REQUEST_DETAILS: &str = alone!(
    r#"The platform has to know the action: what it does not know it leaves unanswered, and the request fails after 30 seconds.

Example, where the platform knows an action `weather`:
  clesyde-cloud request weather '{"days": 2}'

The simulator knows no such action. Answer in its place from another terminal, at its control_url, while the request waits:
  curl --json '{"sun": true}' CONTROL_URL/devices/SN0001/actions/weather"#
);

/// What `publish` takes.
#[derive(Debug, Args)]
#[command(
    after_help = alone!("Example:\n  clesyde-cloud publish c/d/SN0001/status '{\"state\": \"PING\"}'")
)]
pub(crate) struct PublishArgs {
    /// The topic; the platform takes what is below c/d/SN/
    topic: String,

    /// The message, as it is
    payload: String,

    /// Do not wait until the platform has it (quality of service 0)
    #[arg(long)]
    at_most_once: bool,
}

/// What `request` takes.
#[derive(Debug, Args)]
#[command(after_help = REQUEST_DETAILS)]
pub(crate) struct RequestArgs {
    /// The action: 1 to 64 characters of A-Z a-z 0-9 _ -
    action: Action,

    /// The question, in JSON
    #[arg(value_name = "JSON", value_parser = json_value)]
    payload: Value,
}

pub(crate) async fn publish(
    global: &GlobalOptions,
    arguments: &PublishArgs,
    output: Output,
) -> Outcome {
    let PublishArgs {
        topic,
        payload,
        at_most_once,
    } = arguments;
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Failure::because(
            format_args!("the message to {} was not delivered", ShownTopic(topic)),
            error,
        )
    };
    online(
        global,
        std::convert::identity,
        unfinished(),
        async |cloud| {
            let qos = if *at_most_once {
                QoS::AtMostOnce
            } else {
                QoS::AtLeastOnce
            };
            let receipt = cloud
                .publish(topic.as_str(), payload.clone(), qos, false)
                .map_err(|error| failed(&error))?;
            timeout(ANSWER_LIMIT, receipt)
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
    output: Output,
) -> Outcome {
    let RequestArgs { action, payload } = arguments;
    online(
        global,
        std::convert::identity,
        unfinished(),
        async |cloud| {
            let answer = cloud
                .request(action, payload.to_string(), ANSWER_LIMIT)
                .await
                .map_err(|error| {
                    let topic = match &error {
                        SendError::Request(RequestError::Delivery(DeliveryError::Refused(_))) => {
                            format!(" on c/d/{}/{action}/req", cloud.serial_number())
                        }
                        _ => String::new(),
                    };
                    Failure::Failed(format!(
                        "the request {}{topic} failed: {}",
                        Shown(action.as_str()),
                        chain(&error)
                    ))
                })?;
            let text = String::from_utf8_lossy(&answer);
            let (value, text) = match serde_json::from_slice(&answer) {
                // Between its values only: within them JSON has no raw one.
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
