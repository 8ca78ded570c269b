//! The devices that the cloud knows, and what it remembers of each.
//!
//! A bounded table, no more: who may do what is decided by the broker and the platform.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::certificates::{Certificates, SavedCertificate};
use crate::faults::Service;
use crate::names;
use cloud_net::LogThrottle;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Devices held at once: a gateway's thousand and some more; and within what the shadow service
/// holds.
const MAX_DEVICES: usize = 1_200;

/// States remembered of each device; the oldest go first.
const MAX_HISTORY: usize = 100;

/// Longest state kept; the ones of the protocol have 4 to 7 characters.
const MAX_STATE: usize = 64;

/// What the control API tells of a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeviceStatus {
    /// Serial number.
    pub sn: String,
    /// Name of the thing, which is also the client id.
    pub thing_name: String,
    /// Whether it has been provisioned; a device that was forgotten is not listed.
    pub registered: bool,
    /// Whether it has an MQTT connection and the last state that it published is not OFFLINE.
    pub online: bool,
    /// Whether its tunnel is connected to the relay.
    pub tunnel: bool,
    /// Host name under which the public reaches its page.
    pub access_point: String,
    /// The states on its status topic, the will included, oldest first; the last 100 of them.
    pub status_history: Vec<String>,
    /// The `reported` section of its shadow `config`, if there is one.
    pub reported: Option<Value>,
    /// The `desired` section of its shadow `config`, if there is one.
    pub desired: Option<Value>,
    /// Good tokens handed out since the start.
    pub tokens_issued: u64,
    /// Serial number, in decimal text, of the certificate that its page should have.
    pub remote_cert_serial: String,
    /// Serial number, in decimal text, of the client certificate that it should have.
    #[serde(default)]
    pub iot_cert_serial: String,
    /// The serial numbers of the client certificates that the broker takes from it: the one that it
    /// has said to have, and those that were named to it since.
    #[serde(default)]
    pub iot_cert_accepted: Vec<String>,
}

/// One device.
pub(crate) struct Device {
    pub(crate) sn: String,
    pub(crate) thing: String,
    pub(crate) access_point: String,
    pub(crate) tokens_issued: u64,
    status_history: VecDeque<String>,
    /// Never empty.
    remote: Certificates,
    /// Empty for a device of a data directory that did not keep them; then any of the device
    /// authority's is taken.
    iot: Certificates,
    /// Of a certificate that was handed out and that the broker is not to take.
    iot_refused: Option<String>,
    pub(crate) logs: Arc<DeviceLogs>,
}

/// The rate limits of the log lines that one device can cause.
#[derive(Debug, Default)]
pub(crate) struct DeviceLogs {
    pub(crate) state: LogThrottle,
    pub(crate) malformed: LogThrottle,
    pub(crate) unknown_action: LogThrottle,
    pub(crate) unknown_certificate: LogThrottle,
    pub(crate) wrong_answer: LogThrottle,
}

impl Device {
    pub(crate) fn certificates(&self, service: Service) -> &Certificates {
        match service {
            Service::Iot => &self.iot,
            Service::Remote => &self.remote,
        }
    }

    pub(crate) fn certificates_mut(&mut self, service: Service) -> &mut Certificates {
        match service {
            Service::Iot => &mut self.iot,
            Service::Remote => &mut self.remote,
        }
    }

    /// Has the broker refuse this certificate, or none.
    pub(crate) fn refuse_iot(&mut self, serial: Option<String>) {
        self.iot_refused = serial;
    }

    /// Whether the broker takes a client certificate with this serial number from it.
    pub(crate) fn accepts_iot(&self, serial: &str) -> bool {
        self.iot_refused.as_deref() != Some(serial)
            && (self.iot.is_empty() || self.iot.find(serial).is_some())
    }

    pub(crate) fn record_status(&mut self, state: &str) {
        let state = state.chars().take(MAX_STATE).collect();
        push_bounded(&mut self.status_history, state, MAX_HISTORY);
    }

    pub(crate) fn status_history(&self) -> Vec<String> {
        self.status_history.iter().cloned().collect()
    }

    /// Whether the last thing that it said is that it goes, or it has not said anything yet.
    pub(crate) fn last_said_offline(&self) -> bool {
        self.status_history
            .back()
            .is_none_or(|state| state == "OFFLINE")
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, bound: usize) {
    if queue.len() >= bound {
        queue.pop_front();
    }
    queue.push_back(item);
}

/// A device as it is kept in the data directory.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedDevice {
    sn: String,
    access_point: String,
    certificates: Vec<SavedCertificate>,
    #[serde(default)]
    iot_certificates: Vec<SavedCertificate>,
}

/// The table is full.
#[derive(Debug, thiserror::Error)]
#[error(
    "the simulator holds at most {MAX_DEVICES} devices; forget some of them (DELETE /devices/<sn>)"
)]
pub(crate) struct TableFull;

/// All devices, by serial number.
#[derive(Default)]
pub(crate) struct DeviceTable {
    devices: BTreeMap<String, Device>,
}

impl DeviceTable {
    pub(crate) fn get(&self, sn: &str) -> Option<&Device> {
        self.devices.get(sn)
    }

    pub(crate) fn get_mut(&mut self, sn: &str) -> Option<&mut Device> {
        self.devices.get_mut(sn)
    }

    pub(crate) fn by_thing(&self, thing: &str) -> Option<&Device> {
        // The two names are the same but for a few, so the common case is a look-up.
        self.devices
            .get(thing)
            .filter(|device| device.thing == thing)
            .or_else(|| self.devices.values().find(|device| device.thing == thing))
    }

    pub(crate) fn serials(&self) -> Vec<String> {
        self.devices.keys().cloned().collect()
    }

    /// The host name that a device would get.
    pub(crate) fn free_access_point(&self, sn: &str) -> String {
        names::access_point(sn, |name| {
            self.devices
                .values()
                .any(|device| device.sn != sn && device.access_point == name)
        })
    }

    pub(crate) fn insert(
        &mut self,
        sn: &str,
        access_point: &str,
        iot: Certificates,
        remote: Certificates,
    ) -> Result<(), TableFull> {
        if self.devices.len() >= MAX_DEVICES {
            return Err(TableFull);
        }
        let device = Device {
            sn: sn.to_owned(),
            thing: names::thing_name(sn),
            access_point: access_point.to_owned(),
            tokens_issued: 0,
            status_history: VecDeque::new(),
            remote,
            iot,
            iot_refused: None,
            logs: Arc::default(),
        };
        self.devices.insert(sn.to_owned(), device);
        Ok(())
    }

    pub(crate) fn remove(&mut self, sn: &str) -> Option<Device> {
        self.devices.remove(sn)
    }

    pub(crate) fn saved(&self) -> Vec<SavedDevice> {
        let saved = |device: &Device| SavedDevice {
            sn: device.sn.clone(),
            access_point: device.access_point.clone(),
            certificates: device.remote.saved(),
            iot_certificates: device.iot.saved(),
        };
        self.devices.values().map(saved).collect()
    }

    /// Takes up devices that were kept. Entries that cannot be ours are left out.
    pub(crate) fn restore(saved: Vec<SavedDevice>) -> Self {
        let mut table = Self::default();
        for device in saved {
            let remote = Certificates::restore(device.certificates);
            if remote.is_empty() || !names::is_serial(&device.sn) {
                tracing::warn!(
                    sn = device.sn,
                    "left a damaged device of the data directory out"
                );
                continue;
            }
            let iot = Certificates::restore(device.iot_certificates);
            if table
                .insert(&device.sn, &device.access_point, iot, remote)
                .is_err()
            {
                break;
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Issued;

    fn certificate(serial: usize) -> Certificates {
        Certificates::new(Issued {
            chain_pem: String::new(),
            key_pem: None,
            serial: serial.to_string(),
        })
    }

    fn insert(table: &mut DeviceTable, sn: &str, serial: usize) -> Result<(), TableFull> {
        table.insert(sn, "x", certificate(serial), certificate(serial))
    }

    #[test]
    fn history_is_bounded() {
        let mut table = DeviceTable::default();
        insert(&mut table, "A", 0).unwrap();
        let device = table.get_mut("A").unwrap();
        for _ in 1..500 {
            device.record_status(&"x".repeat(1000));
        }
        assert_eq!(device.status_history().len(), MAX_HISTORY);
        assert_eq!(device.status_history()[0].len(), MAX_STATE);
    }

    #[test]
    fn the_table_is_bounded_and_finds_things() {
        let mut table = DeviceTable::default();
        let added = (0..MAX_DEVICES * 2)
            .take_while(|n| insert(&mut table, &format!("S{n}"), *n).is_ok())
            .count();
        assert_eq!(added, MAX_DEVICES);
        assert_eq!(table.by_thing("S7").unwrap().sn, "S7");
        table.remove("S7");
        assert!(table.by_thing("S7").is_none());
        insert(&mut table, "cert:7", 7).unwrap();
        assert!(table.by_thing("cert:7").is_none());
        assert_eq!(
            table.by_thing(&names::thing_name("cert:7")).unwrap().sn,
            "cert:7"
        );
    }

    #[test]
    fn a_kept_table_comes_back() {
        let mut table = DeviceTable::default();
        insert(&mut table, "A", 1).unwrap();
        let kept = serde_json::to_string(&table.saved()).unwrap();
        let back = DeviceTable::restore(serde_json::from_str(&kept).unwrap());
        let device = back.get("A").unwrap();
        assert_eq!(device.access_point, "x");
        for service in [Service::Iot, Service::Remote] {
            assert_eq!(device.certificates(service).serials(), ["1"]);
        }
        assert!(device.accepts_iot("1") && !device.accepts_iot("2"));
    }

    #[test]
    fn a_table_kept_without_client_certificates_takes_any() {
        let mut table = DeviceTable::default();
        insert(&mut table, "A", 1).unwrap();
        let mut kept = serde_json::to_value(table.saved()).unwrap();
        kept[0].as_object_mut().unwrap().remove("iot_certificates");
        let back = DeviceTable::restore(serde_json::from_value(kept).unwrap());
        assert!(back.get("A").unwrap().accepts_iot("2"));
    }
}
