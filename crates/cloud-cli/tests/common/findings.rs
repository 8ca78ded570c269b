//! What `doctor` finds.

use serde_json::Value;

use super::world::World;
use super::{Ended, finish};

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

/// What the doctor found.
pub(crate) struct Findings(Vec<Value>);

impl Findings {
    /// Each step is told once and in order, with cause and advice where there is something to do.
    #[track_caller]
    pub(crate) fn of(ended: &Ended) -> Self {
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

    /// That these steps have this status.
    #[track_caller]
    pub(crate) fn expect(&self, status: &str, steps: &[&str]) -> &Self {
        for step in steps {
            assert_eq!(self.line(step)["status"], status, "{}", self.line(step));
        }
        self
    }

    /// That these steps failed, and no others.
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

/// What it finds in this world, where the page's authority is known.
#[track_caller]
pub(crate) fn examine(world: &World, code: i32) -> Findings {
    let roots = world.ready["ca_file"].as_str().unwrap();
    Findings::of(&finish(&mut world.device(&["doctor", "--ca-file", roots])).expect(code))
}
