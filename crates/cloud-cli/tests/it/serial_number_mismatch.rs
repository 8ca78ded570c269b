//! A serial number of another device: every command reports it before it does anything.

use std::process::Command;

use crate::common::background_program::BackgroundProgram;
use crate::common::finish;
use crate::common::test_cloud::{SN, TestCloud};

const OTHER: &str = "SN-0002";

fn commands() -> [&'static [&'static str]; 8] {
    [
        &["run"],
        &["status"],
        &["cert", "show"],
        &["publish", "c/d/SN-0002/status", "x"],
        &["request", "weather", "{}"],
        &["shadow", "get"],
        &["shadow", "watch"],
        &["provision"],
    ]
}

fn named(world: &TestCloud, arguments: &[&str]) -> [(Command, &'static str); 2] {
    let mut by_variable = world.device(arguments);
    by_variable.env("CLESYDE_SN", OTHER);
    let mut by_option = world.device(arguments);
    by_option.args(["--sn", OTHER]);
    [(by_variable, "CLESYDE_SN"), (by_option, "--sn")]
}

#[test]
fn serial_number_of_other_device_is_exit_1_for_every_command() {
    let world = TestCloud::provisioned();
    let directory = world.config();
    for arguments in commands() {
        for (mut command, source) in named(&world, arguments) {
            let source = format!("from {source}");
            let ended = finish(command.env("CLESYDE_TOKEN", world.key())).expect(1);
            let ended = ended.says(&[SN, OTHER, &source, directory.to_str().unwrap()]);
            assert!(!ended.stderr.contains("WARN"), "{}", ended.stderr);
            if arguments == ["status"] {
                assert_eq!(ended.json()[0]["can_run"], false);
            } else {
                assert_eq!(ended.stdout, "", "{arguments:?}");
            }
        }
    }
    for (mut command, _) in named(&world, &["doctor"]) {
        let ended = finish(&mut command).expect(1);
        let files = &ended.json()[0];
        assert_eq!(
            (&files["step"], &files["status"]),
            (&"files".into(), &"failure".into())
        );
        let cause = files["cause"].as_str().unwrap();
        assert!(cause.contains(SN) && cause.contains(OTHER), "{cause}");
        assert!(!ended.stdout.contains("policy"), "{}", ended.stdout);
    }
    finish(&mut world.device(&["status"])).expect(0);
    // With --force, the directory becomes the other device's.
    let mut force = world.device(&["provision", "--force", "--sn", OTHER]);
    finish(force.env("CLESYDE_TOKEN", world.key())).expect(0);
    finish(&mut world.device(&["status"])).expect(1);
    for (mut command, _) in named(&world, &["status"]) {
        finish(&mut command).expect(0);
    }
}

/// The simulator gives such devices another thing name.
#[test]
fn thing_name_may_differ_from_serial_number() {
    let world = TestCloud::new();
    let device = |arguments: &[&str]| {
        let mut command = world.device(arguments);
        command.env("CLESYDE_SN", "cert:7");
        command
    };
    finish(device(&["provision"]).env("CLESYDE_TOKEN", world.key())).expect(0);
    let mut without = device(&["status"]);
    let status = finish(without.env_remove("CLESYDE_SN")).expect(0).json();
    assert_eq!(status[0]["sn"], "cert:7");
    let thing = status[0]["iot_thing_name"].as_str().unwrap();
    assert!(thing.starts_with("thing-"), "{thing}");
    let mut run = BackgroundProgram::start(&mut device(&["run"]));
    run.wait_for("remote.connected");
    run.terminate();
    finish(device(&["status"]).args(["--sn", thing])).expect(1);
}
