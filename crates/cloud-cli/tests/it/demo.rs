//! The demonstration, as in the README.

use serde_json::Value;
use tempfile::tempdir;

use crate::common::background_program::BackgroundProgram;
use crate::common::{program, run};

#[test]
fn once_prints_every_step_and_succeeds() {
    let home = tempdir().unwrap();
    let ended = run(&home, &["demo", "--once", "--json"]).expect(0);
    let steps = ended.json();
    let names: Vec<&str> = steps
        .iter()
        .map(|step| step["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "cloud",
            "provisioned",
            "online",
            "tunnel",
            "page",
            "rotated",
            "page again",
            "done"
        ]
    );
    let step =
        |name: &str| -> &Value { &steps[names.iter().position(|other| *other == name).unwrap()] };
    assert_eq!(step("provisioned")["address"], step("page")["url"]);
    assert_eq!(step("tunnel")["public"], step("page")["url"]);
    assert_eq!(step("page")["certificate"], step("rotated")["before"]);
    assert_eq!(step("page again")["certificate"], step("rotated")["now"]);
    assert_ne!(step("rotated")["before"], step("rotated")["now"]);
    for page in ["page", "page again"] {
        assert!(
            step(page)["body"].as_str().unwrap().contains("DEMO0001"),
            "{}",
            step(page)
        );
    }
    assert_eq!(
        std::fs::read_dir(home.path()).unwrap().count(),
        0,
        "it leaves nothing behind"
    );
}

#[test]
fn text_output_shows_pages_and_serial_numbers() {
    let home = tempdir().unwrap();
    let text = run(&home, &["demo", "--once"]).expect(0).stdout;
    for part in [
        "1. A Clesyde cloud",
        "Serial number  DEMO0001",
        "8. Every step succeeded",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn without_once_runs_until_interrupted() {
    let home = tempdir().unwrap();
    let mut demo = BackgroundProgram::start(program(&home).args(["demo", "--json"]));
    let open = demo.wait_for("demo.open");
    assert!(
        open["command"]
            .as_str()
            .unwrap()
            .starts_with("curl --cacert "),
        "{open}"
    );
    demo.interrupt();
}
