//! `GET` and `PUT /v1/access`: who may connect to the device's page.

use std::net::IpAddr;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use cloud_facade::remote::{AccessRules, MAX_RULES, UnknownCallers};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::api_error::ApiError;
use super::instance::Instance;
use super::json_body::JsonBody;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Access {
    /// Ranges of addresses; all if empty.
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    deny: Vec<String>,
    #[serde(default)]
    unknown_callers: Unknown,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Unknown {
    #[default]
    ByRules,
    Allow,
    Deny,
}

impl From<&AccessRules> for Access {
    fn from(rules: &AccessRules) -> Self {
        let texts = |ranges: &[IpNet]| ranges.iter().map(ToString::to_string).collect();
        Self {
            allow: texts(rules.allowed()),
            deny: texts(rules.denied()),
            unknown_callers: match rules.unknown() {
                UnknownCallers::Allow => Unknown::Allow,
                UnknownCallers::Deny => Unknown::Deny,
                _ => Unknown::ByRules,
            },
        }
    }
}

fn ranges(field: &str, texts: &[String]) -> Result<Vec<IpNet>, ApiError> {
    if texts.len() > MAX_RULES {
        let message = format!("{field} has more than {MAX_RULES} ranges");
        return Err(ApiError::invalid(message));
    }
    let parse = |text: &String| {
        let address = |_| text.parse::<IpAddr>().map(IpNet::from);
        text.parse().or_else(address).map_err(|_| {
            ApiError::invalid(format!(
                "{field}: {text:?} is neither an address nor a range such as 192.0.2.0/24"
            ))
        })
    };
    texts.iter().map(parse).collect()
}

fn current(instance: &Instance) -> Result<Json<Access>, ApiError> {
    let rules = instance.cloud.access()?.ok_or_else(|| {
        let message = "this instance has no remote access";
        ApiError::new(StatusCode::CONFLICT, "no_remote_access", message)
    })?;
    Ok(Json(Access::from(&rules)))
}

pub(super) async fn get(State(instance): State<Instance>) -> Result<Json<Access>, ApiError> {
    current(&instance)
}

/// Replaces the rules for new connections, until the instance ends.
pub(super) async fn set(
    State(instance): State<Instance>,
    JsonBody(access): JsonBody<Access>,
) -> Result<Json<Access>, ApiError> {
    drop(current(&instance)?);
    let (allow, deny) = (
        ranges("allow", &access.allow)?,
        ranges("deny", &access.deny)?,
    );
    let unknown = match access.unknown_callers {
        Unknown::ByRules => UnknownCallers::ByRules,
        Unknown::Allow => UnknownCallers::Allow,
        Unknown::Deny => UnknownCallers::Deny,
    };
    let rules = AccessRules::new(allow, deny).unknown_callers(unknown);
    instance.cloud.set_access(rules)?;
    tracing::info!("a client of the control socket has replaced the access rules");
    current(&instance)
}
