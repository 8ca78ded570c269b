//! `GET /v1/events`: the events of the device, as `run --json` prints them.

use axum::extract::State;
use axum::response::Response;
use cloud_facade::Event;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::api_error::ApiError;
use super::instance::Instance;
use super::json_lines::{Lines, json_lines};
use crate::application_check::ApplicationChanges;
use crate::event_json::event_json;
use crate::time_fmt::now;

struct Events {
    events: broadcast::Receiver<Event>,
    applications: ApplicationChanges,
}

impl Lines for Events {
    async fn next(&mut self) -> Option<Value> {
        tokio::select! {
            event = self.events.recv() => match event {
                Ok(event) => Some(event_json(&event)),
                Err(RecvError::Lagged(lines)) => {
                    Some(json!({ "event": "missed", "lines": lines, "ts": now() }))
                }
                Err(RecvError::Closed) => None,
            },
            state = self.applications.next() => Some(state.json()),
        }
    }
}

pub(super) async fn events(State(instance): State<Instance>) -> Result<Response, ApiError> {
    let permit = instance.stream_permit()?;
    let events = Events {
        events: instance.cloud.events(),
        applications: ApplicationChanges::new(instance.applications.clone()),
    };
    Ok(json_lines(permit, events))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application_check::ApplicationStates;

    #[tokio::test]
    async fn slow_reader_gets_count_of_missed_lines() {
        let (sender, events) = broadcast::channel(4);
        let mut events = Events {
            events,
            applications: ApplicationChanges::new(ApplicationStates::fixed(Vec::new())),
        };
        for _ in 0..10 {
            sender.send(Event::IotConnected).unwrap();
        }
        let missed = events.next().await.unwrap();
        assert_eq!(
            (&missed["event"], &missed["lines"]),
            (&"missed".into(), &6.into())
        );
        for _ in 0..4 {
            assert_eq!(events.next().await.unwrap()["event"], "iot.connected");
        }
        drop(sender);
        assert_eq!(events.next().await, None);
    }
}
