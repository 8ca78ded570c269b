//! `serial_number.json`: the serial number of a device whose thing name is another text.
//!
//! Today's platform gives a device its serial number as its thing name, so `cloud_config.json`, to which nothing may be
//! added, says both. Where they differ, the serial number is kept in this file, which the Python library does not look at.
//! It names the thing that it belongs to, too: beside another thing's `cloud_config.json`, which that library may have
//! written since, it says nothing.
//!
//! Protocol: `docs/protocol.md`, "On disk".

use serde_json::{Value, json};

use crate::device::{DeviceConfig, name};
use crate::document::DocumentError;
use crate::error::Damage;
use crate::names::{SerialNumber, ThingName};

const SERIAL_NUMBER: &str = "serial_number";
const THING_NAME: &str = "iot_thing_name";

/// The file's content.
pub(crate) fn render<R>(device: &DeviceConfig<R>) -> String {
    json!({
        SERIAL_NUMBER: device.serial_number.as_str(),
        THING_NAME: device.iot_thing_name.as_str(),
    })
    .to_string()
}

/// The serial number of this thing, if the file is about it.
pub(crate) fn parse(text: &str, thing: &ThingName) -> Result<Option<SerialNumber>, Damage> {
    let value: Value = serde_json::from_str(text).map_err(|error| DocumentError::NotJson {
        line: error.line(),
        column: error.column(),
    })?;
    let text = |key: &'static str| match value.get(key) {
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(DocumentError::NotAString(key)),
        None => Err(DocumentError::MissingKey(key)),
    };
    let (serial_number, about) = (text(SERIAL_NUMBER)?, text(THING_NAME)?);
    if about == thing.as_str() {
        Ok(Some(name(SERIAL_NUMBER, serial_number)?))
    } else {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_of_another_thing_says_nothing() {
        let text = r#"{"serial_number": "SN1", "iot_thing_name": "thing-1"}"#;
        let read = |thing: &str| parse(text, &thing.parse().unwrap()).unwrap();
        assert_eq!(read("thing-1").unwrap().as_str(), "SN1");
        assert_eq!(read("thing-2"), None);
    }

    #[test]
    fn damaged_record_is_an_error_that_names_the_key() {
        let thing = "t".parse().unwrap();
        for (text, expected) in [
            ("", "is not JSON"),
            (r#"{"serial_number": "a"}"#, "iot_thing_name"),
            (
                r#"{"serial_number": 1, "iot_thing_name": "t"}"#,
                "serial_number",
            ),
            (
                r#"{"serial_number": "a/b", "iot_thing_name": "t"}"#,
                "serial_number",
            ),
        ] {
            let error = parse(text, &thing).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
