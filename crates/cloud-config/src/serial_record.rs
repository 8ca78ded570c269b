//! `serial_number.json`: the serial number of a device whose thing name differs from it.
//!
//! The platform normally uses the serial number as thing name, so `cloud_config.json`, which must
//! not have further keys, contains both. If they differ, this file contains the serial number; the
//! Python library ignores it. The file also names its thing: it has no effect beside the
//! `cloud_config.json` of another thing, which that library may have written since.

use serde_json::{Value, json};

use crate::device::{DeviceConfig, name};
use crate::document::DocumentError;
use crate::error::Damage;
use crate::names::{SerialNumber, ThingName};

const SERIAL_NUMBER: &str = "serial_number";
const THING_NAME: &str = "iot_thing_name";

/// Renders the file.
pub(crate) fn render<R>(device: &DeviceConfig<R>) -> String {
    json!({
        SERIAL_NUMBER: device.serial_number.as_str(),
        THING_NAME: device.iot_thing_name.as_str(),
    })
    .to_string()
}

/// Returns the serial number if the file belongs to this thing.
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
    fn record_of_another_thing_is_ignored() {
        let text = r#"{"serial_number": "SN1", "iot_thing_name": "thing-1"}"#;
        let read = |thing: &str| parse(text, &thing.parse().unwrap()).unwrap();
        assert_eq!(read("thing-1").unwrap().as_str(), "SN1");
        assert_eq!(read("thing-2"), None);
    }

    #[test]
    fn damaged_record_error_names_the_key() {
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
