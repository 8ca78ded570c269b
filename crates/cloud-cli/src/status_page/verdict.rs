//! The judgement: one sentence on the state of the device.

use std::time::{Duration, SystemTime};

use super::facts::{Facts, Link};
use super::words::{date_and_time, duration, since};

/// A certificate that ends sooner than this should have been replaced.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Good,
    Warning,
    Bad,
}

impl Level {
    /// Returns the name of the style.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warning => "warn",
            Self::Bad => "bad",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) level: Level,
    /// The judgement without reasons and times, which change often.
    pub(super) short: &'static str,
    /// The judgement with reason and times.
    pub(super) sentence: String,
    /// Since when this is so, if it is known.
    pub(super) detail: Option<String>,
}

impl Verdict {
    pub(super) fn new(facts: &Facts) -> Self {
        let now = facts.now;
        let (level, short, down) = match (&facts.remote, &facts.iot) {
            (remote, iot) if remote.connected && iot.connected => return Self::online(facts),
            (remote, iot) if remote.since.is_none() && iot.since.is_none() => {
                return Self {
                    level: Level::Warning,
                    short: "Starting.",
                    sentence: "Starting: connecting to the cloud.".to_owned(),
                    detail: None,
                };
            }
            (remote, iot) if remote.connected => (
                Level::Warning,
                "Reachable, but the cloud does not answer.",
                iot,
            ),
            (remote, iot) if iot.connected => (
                Level::Bad,
                "Connected to the cloud, but not reachable from outside.",
                remote,
            ),
            (_, iot) => (Level::Bad, "Offline.", iot),
        };
        Self {
            level,
            short,
            sentence: sentence(short, down, now),
            detail: down
                .since
                .map(|from| format!("Since {}", date_and_time(from))),
        }
    }

    fn online(facts: &Facts) -> Self {
        let now = facts.now;
        let from = facts.remote.since.max(facts.iot.since);
        let detail = from.map(|from| {
            let (date, time) = (date_and_time(from), since(from, now));
            format!("Since {date} ({time})")
        });
        let left = facts.certificate.as_ref().map(|certificate| {
            let left = certificate.not_after.duration_since(now);
            left.unwrap_or_default()
        });
        match left {
            Some(Duration::ZERO) => Self {
                level: Level::Bad,
                short: "Online, but the certificate has expired.",
                sentence: "Online, but the certificate has expired: visitors see a warning \
                           instead of this device."
                    .to_owned(),
                detail,
            },
            Some(left) if left < EXPIRES_SOON => Self {
                level: Level::Warning,
                short: "Online, but the certificate expires soon.",
                sentence: format!(
                    "Online, but the certificate expires in {} and has not been replaced yet.",
                    duration(left)
                ),
                detail,
            },
            _ => Self::application(facts).unwrap_or_else(|| Self {
                level: Level::Good,
                short: "Online. Everything works.",
                sentence: "Online. Everything works.".to_owned(),
                detail,
            }),
        }
    }

    /// Returns the judgement if an application behind the tunnel does not answer.
    fn application(facts: &Facts) -> Option<Self> {
        let mut applications = facts.applications.iter();
        let (application, problem) =
            applications.find_map(|application| Some((application, application.problem()?)))?;
        Some(Self {
            level: Level::Bad,
            short: "Online, but an application does not answer.",
            sentence: format!("Online, but {problem}."),
            detail: application
                .since
                .map(|from| format!("Since {}", date_and_time(from))),
        })
    }
}

/// Returns the sentence on a connection that is down: `short`, since when, why, and what is next.
fn sentence(short: &str, down: &Link, now: SystemTime) -> String {
    let mut sentence = short.trim_end_matches('.').to_owned();
    if let Some(from) = down.since {
        sentence.push_str(&format!(" since {}", since(from, now)));
    }
    if let Some(reason) = &down.reason {
        sentence.push_str(&format!(": {reason}"));
    }
    match down.retry_at.and_then(|at| at.duration_since(now).ok()) {
        Some(left) => sentence.push_str(&format!("; trying again in {} s.", left.as_secs() + 1)),
        None => sentence.push_str("; trying again."),
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::{facts, later};
    use super::*;
    use crate::application_check::ApplicationState;

    fn down(reason: &str) -> Link {
        Link {
            connected: false,
            since: Some(later(0)),
            reason: Some(reason.to_owned()),
            retry_at: None,
        }
    }

    #[test]
    fn sentence_names_state_time_reason_and_next_attempt() {
        let mut facts = facts();
        let verdict = Verdict::new(&facts);
        assert_eq!(verdict.sentence, "Online. Everything works.");
        assert_eq!(verdict.level, Level::Good);
        let detail = verdict.detail.unwrap();
        assert!(detail.ends_with("UTC (3 min)"), "{detail}");

        facts.iot = Link {
            retry_at: Some(later(180 + 11)),
            ..down("the broker refuses connections")
        };
        let verdict = Verdict::new(&facts);
        assert_eq!(
            verdict.sentence,
            "Reachable, but the cloud does not answer since 3 min: the broker refuses \
             connections; trying again in 12 s."
        );
        assert_eq!(verdict.level, Level::Warning);

        facts.remote = down("no token");
        assert_eq!(
            Verdict::new(&facts).sentence,
            "Offline since 3 min: the broker refuses connections; trying again in 12 s."
        );
        facts.iot.connected = true;
        let verdict = Verdict::new(&facts);
        assert_eq!(
            verdict.sentence,
            "Connected to the cloud, but not reachable from outside since 3 min: no token; \
             trying again."
        );
        assert_eq!(verdict.level, Level::Bad);

        (facts.iot, facts.remote) = (Link::default(), Link::default());
        let verdict = Verdict::new(&facts);
        assert_eq!(verdict.sentence, "Starting: connecting to the cloud.");
    }

    #[test]
    fn application_that_does_not_answer_is_bad() {
        let mut facts = facts();
        facts.applications = vec![ApplicationState {
            address: "127.0.0.1:8080".to_owned(),
            answers: Some(false),
            reason: Some("connection refused".to_owned()),
            since: Some(later(0)),
        }];
        let verdict = Verdict::new(&facts);
        assert_eq!(
            verdict.sentence,
            "Online, but the application at 127.0.0.1:8080 does not answer: connection refused."
        );
        assert_eq!(verdict.level, Level::Bad);
        assert!(verdict.detail.unwrap().starts_with("Since "));
    }

    #[test]
    fn certificate_that_ends_soon_is_a_warning() {
        let mut facts = facts();
        for (left, level, part) in [
            (15 * 86_400, Level::Good, "Everything works"),
            (13 * 86_400, Level::Warning, "expires in 13 d"),
            (0, Level::Bad, "has expired"),
        ] {
            facts.certificate.as_mut().unwrap().not_after = facts.now + Duration::from_secs(left);
            let verdict = Verdict::new(&facts);
            assert_eq!(verdict.level, level, "{left}");
            assert!(verdict.sentence.contains(part), "{}", verdict.sentence);
        }
    }
}
