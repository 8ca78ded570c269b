//! The results of `doctor`.

use serde_json::Value;

use super::test_cloud::TestCloud;
use super::{ProgramOutput, finish};

pub(crate) const STEPS: [&str; 16] = [
    "files",
    "certificate.iot",
    "certificate.remote",
    "name.api",
    "name.broker",
    "name.relay",
    "name.page",
    "api",
    "clock",
    "mqtt",
    "mqtt.443",
    "client_certificate",
    "subscriptions",
    "token",
    "tunnel",
    "page",
];

/// The results of a run.
pub(crate) struct CheckResults(Vec<Value>);

impl CheckResults {
    /// Parses the output: each step is reported once and in order, with cause and advice where
    /// required.
    #[track_caller]
    pub(crate) fn of(ended: &ProgramOutput) -> Self {
        let lines = ended.json();
        let steps: Vec<_> = lines
            .iter()
            .map(|line| line["step"].as_str().unwrap())
            .collect();
        assert_eq!(steps, STEPS);
        for line in &lines {
            let status = line["status"].as_str().unwrap();
            assert_eq!(line["detail"].is_string(), status == "ok", "{line}");
            assert_eq!(line["cause"].is_string(), status != "ok", "{line}");
            let troubled = matches!(status, "warning" | "failure");
            assert_eq!(line["advice"].is_string(), troubled, "{line}");
        }
        Self(lines)
    }

    #[track_caller]
    pub(crate) fn line(&self, step: &str) -> &Value {
        self.0.iter().find(|line| line["step"] == step).unwrap()
    }

    /// Asserts that these steps have this status.
    #[track_caller]
    pub(crate) fn expect(&self, status: &str, steps: &[&str]) -> &Self {
        for step in steps {
            assert_eq!(self.line(step)["status"], status, "{}", self.line(step));
        }
        self
    }

    /// Asserts that exactly these steps failed.
    #[track_caller]
    pub(crate) fn failed(&self, steps: &[&str]) -> &Self {
        let failed: Vec<_> = self
            .0
            .iter()
            .filter(|line| line["status"] == "failure")
            .map(|line| line["step"].as_str().unwrap())
            .collect();
        assert_eq!(failed, steps, "{:#?}", self.0);
        self
    }

    #[track_caller]
    pub(crate) fn says(&self, step: &str, words: &str) -> &Self {
        let line = self.line(step);
        assert!(line.to_string().contains(words), "{words:?}: {line}");
        self
    }
}

/// Runs `doctor` with the authority of the page trusted.
#[track_caller]
pub(crate) fn examine(world: &TestCloud, code: i32) -> CheckResults {
    let roots = world.ready["ca_file"].as_str().unwrap();
    CheckResults::of(&finish(&mut world.device(&["doctor", "--ca-file", roots])).expect(code))
}
