//! The devices that the cloud knows, and what it remembers of each.
//!
//! A bounded table, no more: who may do what is decided by the broker and the platform.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::authority::Issued;
use crate::names;

/// Devices held at once: a simulated fleet, and within what the shadow service holds.
const MAX_DEVICES: usize = 500;

/// States remembered of each device; the oldest go first.
const MAX_HISTORY: usize = 100;

/// Certificates remembered of each device: the one that it has, and the ones that it was told to fetch since.
const MAX_CERTIFICATES: usize = 4;

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
    /// Whether it has an MQTT connection and the last state that it told is not OFFLINE.
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
}

/// One device.
pub(crate) struct Device {
    pub(crate) sn: String,
    pub(crate) thing: String,
    pub(crate) access_point: String,
    pub(crate) tokens_issued: u64,
    status_history: VecDeque<String>,
    /// Never empty; the newest is the last.
    certificates: VecDeque<Issued>,
}

impl Device {
    /// The serial number that its page's certificate should have.
    pub(crate) fn current_serial(&self) -> &str {
        self.certificates.back().map_or("", |issued| &issued.serial)
    }

    pub(crate) fn certificate(&self, serial: &str) -> Option<&Issued> {
        self.certificates
            .iter()
            .find(|issued| issued.serial == serial)
    }

    /// Makes this the certificate that the device should have.
    pub(crate) fn add_certificate(&mut self, issued: Issued) {
        push_bounded(&mut self.certificates, issued, MAX_CERTIFICATES);
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
}

#[derive(Serialize, Deserialize)]
struct SavedCertificate {
    serial: String,
    chain: String,
    key: Option<String>,
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
        first: Issued,
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
            certificates: VecDeque::from([first]),
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
            certificates: device
                .certificates
                .iter()
                .map(|issued| SavedCertificate {
                    serial: issued.serial.clone(),
                    chain: issued.chain_pem.clone(),
                    key: issued.key_pem.as_ref().map(|key| key.to_string()),
                })
                .collect(),
        };
        self.devices.values().map(saved).collect()
    }

    /// Takes up devices that were kept. Entries that cannot be ours are left out.
    pub(crate) fn restore(saved: Vec<SavedDevice>) -> Self {
        let mut table = Self::default();
        for device in saved {
            let mut certificates = device.certificates.into_iter().map(|saved| Issued {
                chain_pem: saved.chain,
                key_pem: saved.key.map(Zeroizing::new),
                serial: saved.serial,
            });
            let Some(first) = certificates.next().filter(|_| names::is_serial(&device.sn)) else {
                tracing::warn!(sn = %device.sn, "left a damaged device of the data directory out");
                continue;
            };
            if table
                .insert(&device.sn, &device.access_point, first)
                .is_err()
            {
                break;
            }
            if let Some(entry) = table.get_mut(&device.sn) {
                certificates.for_each(|issued| entry.add_certificate(issued));
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issued(serial: usize) -> Issued {
        Issued {
            chain_pem: String::new(),
            key_pem: None,
            serial: serial.to_string(),
        }
    }

    #[test]
    fn history_and_certificates_are_bounded() {
        let mut table = DeviceTable::default();
        table.insert("A", "a.ui.localhost", issued(0)).unwrap();
        let device = table.get_mut("A").unwrap();
        for round in 1..500 {
            device.add_certificate(issued(round));
            device.record_status(&"x".repeat(1000));
        }
        assert_eq!(device.certificates.len(), MAX_CERTIFICATES);
        assert_eq!(device.current_serial(), "499");
        assert_eq!(device.status_history().len(), MAX_HISTORY);
        assert_eq!(device.status_history()[0].len(), MAX_STATE);
    }

    #[test]
    fn the_table_is_bounded_and_finds_things() {
        let mut table = DeviceTable::default();
        let added = (0..1000)
            .take_while(|n| table.insert(&format!("S{n}"), "x", issued(*n)).is_ok())
            .count();
        assert_eq!(added, MAX_DEVICES);
        assert_eq!(table.by_thing("S7").unwrap().sn, "S7");
        table.remove("S7");
        assert!(table.by_thing("S7").is_none());
        table.insert("cert:7", "x", issued(7)).unwrap();
        assert!(table.by_thing("cert:7").is_none());
        assert_eq!(
            table.by_thing(&names::thing_name("cert:7")).unwrap().sn,
            "cert:7"
        );
    }

    #[test]
    fn a_kept_table_comes_back() {
        let mut table = DeviceTable::default();
        table.insert("A", "a.ui.localhost", issued(1)).unwrap();
        table.get_mut("A").unwrap().add_certificate(issued(2));
        let kept = serde_json::to_string(&table.saved()).unwrap();
        let back = DeviceTable::restore(serde_json::from_str(&kept).unwrap());
        let device = back.get("A").unwrap();
        assert_eq!(
            (device.current_serial(), device.access_point.as_str()),
            ("2", "a.ui.localhost")
        );
        assert!(device.certificate("1").is_some());
    }
}
