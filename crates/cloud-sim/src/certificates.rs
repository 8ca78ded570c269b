//! The certificates of one kind of a device: the current one and those that it has to fetch.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::authority::Issued;

/// Remembered of each kind: the one that the device has, and the ones that were named to it since.
/// Many, because it may have one of these already and not have come to say so; that one must be
/// taken.
const MAX_CERTIFICATES: usize = 64;

/// The newest is the last.
#[derive(Default)]
pub(crate) struct Certificates(VecDeque<Issued>);

impl Certificates {
    pub(crate) fn new(first: Issued) -> Self {
        Self(VecDeque::from([first]))
    }

    /// The serial number that the device's should have; empty where none is known.
    pub(crate) fn current_serial(&self) -> &str {
        self.0.back().map_or("", |issued| &issued.serial)
    }

    pub(crate) fn serials(&self) -> Vec<String> {
        self.0.iter().map(|issued| issued.serial.clone()).collect()
    }

    pub(crate) fn find(&self, serial: &str) -> Option<&Issued> {
        self.0.iter().find(|issued| issued.serial == serial)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes this the one that the device should have.
    pub(crate) fn add(&mut self, issued: Issued) {
        if self.0.len() >= MAX_CERTIFICATES {
            // The first is the one that the device has said to have.
            self.0.remove(1);
        }
        self.0.push_back(issued);
    }

    /// The device has this one: those before it are of no use any more. Whether there were any.
    pub(crate) fn retire_before(&mut self, serial: &str) -> bool {
        let before = self.0.iter().position(|issued| issued.serial == serial);
        before.is_some_and(|before| self.0.drain(..before).count() > 0)
    }

    pub(crate) fn saved(&self) -> Vec<SavedCertificate> {
        let saved = |issued: &Issued| SavedCertificate {
            serial: issued.serial.clone(),
            chain: issued.chain_pem.clone(),
            key: issued.key_pem.as_ref().map(|key| key.to_string()),
        };
        self.0.iter().map(saved).collect()
    }

    pub(crate) fn restore(saved: Vec<SavedCertificate>) -> Self {
        let mut certificates = Self::default();
        for saved in saved {
            certificates.add(Issued {
                chain_pem: saved.chain,
                key_pem: saved.key.map(Zeroizing::new),
                serial: saved.serial,
            });
        }
        certificates
    }
}

/// A certificate as it is kept in the data directory.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedCertificate {
    serial: String,
    chain: String,
    key: Option<String>,
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
    fn they_are_bounded_and_retired_in_order() {
        let mut certificates = Certificates::new(issued(0));
        for round in 1..500 {
            certificates.add(issued(round));
        }
        assert_eq!(certificates.serials().len(), MAX_CERTIFICATES);
        assert_eq!(certificates.serials()[..2], ["0", "437"]);
        assert!(!certificates.retire_before("1"));
        assert!(certificates.retire_before("498"));
        assert!(!certificates.retire_before("498"));
        assert_eq!(certificates.serials(), ["498", "499"]);
        assert_eq!(certificates.current_serial(), "499");
        assert!(certificates.find("497").is_none() && certificates.find("498").is_some());
    }
}
