//! The device that the endpoints act on.

use std::sync::Arc;

use axum::http::StatusCode;
use cloud_facade::ClesydeCloud;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::action_registry::ActionRegistry;
use super::api_error::ApiError;
use super::unacknowledged_messages::UnacknowledgedMessages;
use crate::application_check::ApplicationStates;

/// Maximum open streams of all clients. Each may hold up to 1 MiB of messages.
const MAX_STREAMS: usize = 16;

/// The device that the endpoints act on. Clones share it.
#[derive(Clone)]
pub(crate) struct Instance {
    pub(super) cloud: ClesydeCloud,
    /// The address of its page.
    pub(super) url: Arc<str>,
    pub(super) applications: ApplicationStates,
    /// Whether requests whose responses contain secrets are refused.
    pub(super) keeps_secrets: bool,
    streams: Arc<Semaphore>,
    pub(super) actions: Arc<ActionRegistry>,
    pub(super) unacknowledged: Arc<UnacknowledgedMessages>,
}

impl Instance {
    /// A device that other programs use.
    pub(crate) fn new(cloud: ClesydeCloud, url: String, applications: ApplicationStates) -> Self {
        Self {
            cloud,
            url: url.into(),
            applications,
            keeps_secrets: true,
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            actions: Arc::default(),
            unacknowledged: Arc::default(),
        }
    }

    /// The device of one command, which may show its user any response.
    pub(crate) fn of_command(cloud: ClesydeCloud) -> Self {
        Self {
            keeps_secrets: false,
            ..Self::new(cloud, String::new(), ApplicationStates::fixed(Vec::new()))
        }
    }

    /// Takes one of the places for streams.
    ///
    /// # Errors
    /// All are taken.
    pub(super) fn stream_permit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let permit = Arc::clone(&self.streams).try_acquire_owned();
        permit.map_err(|_| {
            ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many",
                format!("{MAX_STREAMS} streams are open already; close one first"),
            )
        })
    }
}
