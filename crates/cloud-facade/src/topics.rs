//! The platform's MQTT topics for one device, and keys of its configuration shadow.

use std::fmt;
use std::str::FromStr;

use cloud_config::SerialNumber;

/// Broadcasts of the platform to all devices.
pub(crate) const PLATFORM: &str = "c/platform";

/// Payload of the status topic once the device is online.
pub(crate) const ONLINE: &str = r#"{"state":"ONLINE"}"#;
/// Payload of the status topic before a clean disconnect, and of the last will.
pub(crate) const OFFLINE: &str = r#"{"state":"OFFLINE"}"#;

/// The action that requests a tunnel token.
pub(crate) const TOKEN: Action = Action(std::borrow::Cow::Borrowed("remotetoken"));
/// The action that requests a certificate for remote access.
pub(crate) const CERTIFICATE: Action = Action(std::borrow::Cow::Borrowed("remotecr"));

/// The action that requests a client certificate.
pub(crate) const IOT_CERTIFICATE: Action = Action(std::borrow::Cow::Borrowed("iotcr"));

/// Actions whose messages contain secrets: they are not passed to the host.
const SECRET_ACTIONS: [Action; 3] = [TOKEN, CERTIFICATE, IOT_CERTIFICATE];

/// The name of the configuration shadow.
pub(crate) const CONFIG_SHADOW: &str = "config";

/// The shadow's key of the remote-access certificate, in `desired` and `reported`.
pub(crate) const CERTIFICATE_KEY: &str = "remoteCertSn";

/// The shadow's key of the client certificate, in `desired` and `reported`, and of the request for
/// one.
pub(crate) const IOT_CERTIFICATE_KEY: &str = "iotCertSn";

/// Maximum length of an action name: keeps a topic within AWS's 256 bytes with the longest serial
/// number.
const MAX_ACTION_LEN: usize = 64;

/// The name of an action: 1–64 characters of `A-Z a-z 0-9 _ -`.
///
/// ```
/// use cloud_facade::Action;
///
/// assert_eq!("remotetoken".parse::<Action>()?.as_str(), "remotetoken");
/// assert!("a/b".parse::<Action>().is_err());
/// # Ok::<(), cloud_facade::InvalidAction>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Action(std::borrow::Cow<'static, str>);

/// The error of an invalid action name: a forbidden character, or a wrong length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an action name is 1 to {MAX_ACTION_LEN} characters of A-Z a-z 0-9 _ -")]
pub struct InvalidAction;

impl Action {
    /// Returns whether messages of the action contain keys, tokens or certificates' keys.
    pub(crate) fn is_secret(&self) -> bool {
        SECRET_ACTIONS.contains(self)
    }

    /// Returns the name as in the topic.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Action {
    type Err = InvalidAction;

    fn from_str(name: &str) -> Result<Self, InvalidAction> {
        let fits = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
        if name.is_empty() || name.len() > MAX_ACTION_LEN || !name.bytes().all(fits) {
            return Err(InvalidAction);
        }
        Ok(Self(name.to_owned().into()))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Topics below `c/d/<sn>/`.
#[derive(Debug, Clone)]
pub(crate) struct DeviceTopics {
    prefix: String,
}

impl DeviceTopics {
    pub(crate) fn new(serial_number: &SerialNumber) -> Self {
        Self {
            prefix: format!("c/d/{serial_number}"),
        }
    }

    pub(crate) fn status(&self) -> String {
        format!("{}/status", self.prefix)
    }

    pub(crate) fn request(&self, action: &Action) -> String {
        format!("{}/{action}/req", self.prefix)
    }

    pub(crate) fn answer(&self, action: &Action) -> String {
        format!("{}/{action}/res", self.prefix)
    }

    /// The topics of messages with secrets.
    pub(crate) fn secret(&self) -> [String; 6] {
        let [a, b, c] = SECRET_ACTIONS;
        let (request, answer) = (|action| self.request(action), |action| self.answer(action));
        [
            request(&a),
            request(&b),
            request(&c),
            answer(&a),
            answer(&b),
            answer(&c),
        ]
    }

    /// The filter for the responses to all actions.
    pub(crate) fn answers(&self) -> String {
        format!("{}/+/res", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_contain_serial_number() {
        let topics = DeviceTopics::new(&"SN-1".parse().unwrap());
        assert_eq!(topics.status(), "c/d/SN-1/status");
        assert_eq!(topics.request(&TOKEN), "c/d/SN-1/remotetoken/req");
        assert_eq!(topics.answer(&CERTIFICATE), "c/d/SN-1/remotecr/res");
        assert_eq!(topics.answers(), "c/d/SN-1/+/res");
    }

    #[test]
    fn action_is_one_topic_level() {
        for bad in ["", "a/b", "+", "#", "a b", "ä", &"x".repeat(65)] {
            assert_eq!(bad.parse::<Action>(), Err(InvalidAction), "{bad:?}");
        }
        assert!("Aa-9_".parse::<Action>().is_ok());
    }
}
