//! What the simulated cloud does wrong on purpose, and for how long.
//!
//! A [`Fault`] is either done at once (a connection is cut) or waits on the board until something
//! asks for it: the next call of the API, the next token request, the next acknowledgement. The
//! board only remembers; those that ask carry the fault out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::lock;

/// Faults of one family that can wait at a time; a test that needs more should use `times`.
const MAX_WAITING: usize = 64;

/// A fault to make, as `POST /faults` takes it:
/// `{"fault": "withhold", "packet": "suback", "times": 2}`.
///
/// `times` says how many occasions a fault lasts for: 1 if absent, 0 for until [`Fault::Clear`].
/// Where `sn` is absent, all devices are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Fault {
    /// Cuts MQTT connections without a DISCONNECT, so that the will is published.
    DropMqtt {
        /// The device.
        #[serde(default)]
        sn: Option<String>,
    },
    /// Closes every new MQTT connection at once, for so many seconds.
    RefuseMqtt {
        /// How long, in seconds.
        seconds: u32,
    },
    /// Moves no bytes on any MQTT connection, either way, for so many seconds; connections stay
    /// open.
    FreezeMqtt {
        /// How long, in seconds.
        seconds: u32,
    },
    /// Swallows acknowledgements on their way to a device. The broker believes that it sent them.
    Withhold {
        /// The type of packet.
        packet: AckPacket,
        /// How many of them.
        #[serde(default = "once")]
        times: u32,
    },
    /// Cuts tunnels at the relay.
    DropTunnel {
        /// The device.
        #[serde(default)]
        sn: Option<String>,
    },
    /// Answers calls of the provisioning API wrongly. No key is used up by such a call, except with
    /// [`ApiAnswer::Delay`] and [`ApiAnswer::Lost`].
    Api {
        /// The answer.
        answer: ApiAnswer,
        /// For how many calls.
        #[serde(default = "once")]
        times: u32,
    },
    /// Answers token requests wrongly.
    Token {
        /// The answer.
        answer: TokenAnswer,
        /// For how many requests.
        #[serde(default = "once")]
        times: u32,
    },
    /// Sends a token answer that the device did not ask for, made for a key that it does not have.
    SendToken {
        /// The device.
        sn: String,
    },
    /// Answers certificate requests wrongly.
    Certificate {
        /// The answer.
        answer: CertificateAnswer,
        /// For how many requests.
        #[serde(default = "once")]
        times: u32,
    },
    /// Answers requests for a client certificate wrongly.
    IotCertificate {
        /// The answer.
        answer: CertificateAnswer,
        /// For how many requests.
        #[serde(default = "once")]
        times: u32,
    },
    /// Ends every fault that still waits.
    Clear,
}

/// A packet that the broker sends to acknowledge something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AckPacket {
    /// Answer to CONNECT.
    Connack,
    /// Answer to SUBSCRIBE.
    Suback,
    /// Answer to a PUBLISH with QoS 1.
    Puback,
    /// Answer to PINGREQ.
    Pingresp,
}

/// What the provisioning API says instead of the truth. In JSON `"html"`, or
/// `{"status": {"code": 503}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum ApiAnswer {
    /// A bare status without a body of ours.
    Status {
        /// 400–599.
        code: u16,
        /// Seconds to announce in `Retry-After`.
        #[serde(default)]
        retry_after: Option<u32>,
    },
    /// The right answer, late.
    Delay {
        /// Milliseconds.
        ms: u64,
    },
    /// 200 with something that is no JSON.
    BrokenJson,
    /// 200 with the first half of the right answer, as a complete body.
    CutJson,
    /// 200 announcing the whole answer; the connection breaks in the middle of it.
    CutBody,
    /// As `CutBody`, but the device is registered and its key used up.
    Lost,
    /// 200 with a web page, as a captive portal would send it.
    Html,
    /// 200 with a JSON text of this many bytes.
    Huge {
        /// Bytes.
        bytes: u64,
    },
    /// 200 with `error` set.
    Error {
        /// The platform's words.
        message: String,
    },
    /// 200 without one of the keys, such as `iot.keyPair.privateKey`.
    MissingKey {
        /// Path below `thing`, with dots.
        key: String,
    },
    /// 200 with a private key that does not belong to its certificate.
    MismatchedKey {
        /// The service whose pair it is.
        service: Service,
    },
}

/// The service that a pair of certificate and key is for; a device has one pair for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// MQTT.
    Iot,
    /// The remote UI.
    Remote,
}

/// What a token request is answered with instead of a good token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum TokenAnswer {
    /// Nothing.
    Hold,
    /// A good token, late.
    Late {
        /// Milliseconds.
        ms: u64,
    },
    /// Something that is no JSON.
    Malformed,
    /// A token whose time is over; the relay refuses it.
    Expired,
    /// A token that the relay cannot decrypt.
    Foreign,
    /// A token made for another AES key than the device's.
    WrongKey,
}

/// What a certificate request is answered with instead of the certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum CertificateAnswer {
    /// Nothing.
    Hold,
    /// The right pair, late.
    Late {
        /// Milliseconds.
        ms: u64,
    },
    /// Something that is no JSON.
    Malformed,
    /// The right certificate with another private key.
    WrongKey,
    /// A good pair with another serial number than the one asked for.
    WrongSerial,
    /// A pair with the serial number asked for, whose time is over.
    Expired,
    /// A pair with the serial number asked for, whose time is yet to come.
    NotYetValid,
    /// The right pair, but the broker does not take it until it has been asked for again. For
    /// client certificates; one for a page is good.
    Refused,
}

impl Service {
    /// Its key in the shadow `config`, and in a request for a certificate.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Iot => "iotCertSn",
            Self::Remote => "remoteCertSn",
        }
    }
}

fn once() -> u32 {
    1
}

/// Faults of one family that wait, in the order in which they were made.
struct Script<T> {
    waiting: Mutex<VecDeque<(T, u32)>>,
}

impl<T: Clone> Script<T> {
    fn new() -> Self {
        Self {
            waiting: Mutex::new(VecDeque::new()),
        }
    }

    /// Whether there was room for it.
    fn add(&self, answer: T, times: u32) -> bool {
        let mut waiting = lock(&self.waiting);
        let room = waiting.len() < MAX_WAITING;
        if room {
            waiting.push_back((answer, times));
        }
        room
    }

    /// Uses up one occasion of the first fault that waits.
    fn next(&self) -> Option<T> {
        let mut waiting = lock(&self.waiting);
        let (answer, times) = waiting.front_mut()?;
        let answer = answer.clone();
        match *times {
            0 => {}
            1 => drop(waiting.pop_front()),
            _ => *times -= 1,
        }
        Some(answer)
    }

    fn clear(&self) {
        lock(&self.waiting).clear();
    }
}

/// The faults that wait for their occasion.
pub(crate) struct FaultInjector {
    api: Script<ApiAnswer>,
    token: Script<TokenAnswer>,
    certificate: Script<CertificateAnswer>,
    iot_certificate: Script<CertificateAnswer>,
    withheld: Mutex<BTreeMap<AckPacket, u32>>,
    refuse_until: Mutex<Option<Instant>>,
    frozen_until: Mutex<Option<Instant>>,
}

impl FaultInjector {
    pub(crate) fn new() -> Self {
        Self {
            api: Script::new(),
            token: Script::new(),
            certificate: Script::new(),
            iot_certificate: Script::new(),
            withheld: Mutex::new(BTreeMap::new()),
            refuse_until: Mutex::new(None),
            frozen_until: Mutex::new(None),
        }
    }

    pub(crate) fn add_api(&self, answer: ApiAnswer, times: u32) -> bool {
        self.api.add(answer, times)
    }

    pub(crate) fn next_api(&self) -> Option<ApiAnswer> {
        self.api.next()
    }

    pub(crate) fn add_token(&self, answer: TokenAnswer, times: u32) -> bool {
        self.token.add(answer, times)
    }

    pub(crate) fn next_token(&self) -> Option<TokenAnswer> {
        self.token.next()
    }

    pub(crate) fn add_certificate(
        &self,
        service: Service,
        answer: CertificateAnswer,
        times: u32,
    ) -> bool {
        self.certificates(service).add(answer, times)
    }

    pub(crate) fn next_certificate(&self, service: Service) -> Option<CertificateAnswer> {
        self.certificates(service).next()
    }

    fn certificates(&self, service: Service) -> &Script<CertificateAnswer> {
        match service {
            Service::Iot => &self.iot_certificate,
            Service::Remote => &self.certificate,
        }
    }

    pub(crate) fn withhold(&self, packet: AckPacket, times: u32) {
        let mut withheld = lock(&self.withheld);
        let left = withheld.entry(packet).or_insert(1);
        // Until cleared stays so, whatever is added.
        *left = match (*left, times) {
            (0, _) | (_, 0) => 0,
            (_, times) => times,
        };
    }

    /// Whether this packet is to be swallowed; uses up one occasion.
    pub(crate) fn take_withheld(&self, packet: AckPacket) -> bool {
        let mut withheld = lock(&self.withheld);
        match withheld.get_mut(&packet) {
            None => return false,
            Some(0) => {}
            Some(1) => drop(withheld.remove(&packet)),
            Some(left) => *left -= 1,
        }
        true
    }

    pub(crate) fn refuse_for(&self, time: Duration) {
        *lock(&self.refuse_until) = Some(Instant::now() + time);
    }

    pub(crate) fn is_refusing(&self) -> bool {
        lock(&self.refuse_until).is_some_and(|until| Instant::now() < until)
    }

    pub(crate) fn freeze_for(&self, time: Duration) {
        *lock(&self.frozen_until) = Some(Instant::now() + time);
    }

    /// The end of the freeze, if there is one.
    pub(crate) fn frozen_until(&self) -> Option<Instant> {
        lock(&self.frozen_until).filter(|until| Instant::now() < *until)
    }

    pub(crate) fn clear(&self) {
        self.api.clear();
        self.token.clear();
        self.certificate.clear();
        self.iot_certificate.clear();
        lock(&self.withheld).clear();
        *lock(&self.refuse_until) = None;
        *lock(&self.frozen_until) = None;
    }
}

#[cfg(test)]
mod tests;
