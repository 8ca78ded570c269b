//! Misplaced secrets: no message repeats an argument or a variable that may be a key, a token or a
//! password.

use std::fs;

use tempfile::{TempDir, tempdir};

use crate::common::{ProgramOutput, finish, finish_with_input, program, run};

/// A text in the form of a provisioning key.
const KEY: &str = "cc8498bebd4e5915b0cc5fc21eb6622d";

/// A URL with a user name and a password.
const ADDRESS: &str = "http://us3rname:pa55word@127.0.0.1:9";

const SECRETS: [&str; 3] = [KEY, "us3rname", "pa55word"];

#[track_caller]
fn silent(ended: &ProgramOutput, what: &str) {
    for secret in SECRETS {
        for text in [&ended.stdout, &ended.stderr] {
            assert!(!text.contains(secret), "{what} repeats {secret}: {text}");
        }
    }
}

/// Returns the options of all commands and subcommands, with whether they take a value: from the
/// help, so that none is missing.
fn options() -> Vec<(Vec<String>, String, bool)> {
    let home = tempdir().unwrap();
    let mut options = Vec::new();
    let mut commands = vec![Vec::<String>::new()];
    while let Some(command) = commands.pop() {
        let mut arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        arguments.push("--help");
        let help = run(&home, &arguments).expect(0).stdout;
        let mut section = "";
        for line in help.lines() {
            if line.ends_with(':') && !line.starts_with(' ') {
                section = line;
            }
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            match section {
                "Commands:"
                    if line.starts_with("  ") && !line.starts_with("   ") && first != "help" =>
                {
                    commands.push([command.clone(), vec![first.to_owned()]].concat());
                }
                "Options:" | "Global options:" => {
                    let option = std::iter::once(first)
                        .chain(words)
                        .take(2)
                        .find(|word| word.starts_with("--"));
                    let Some(option) = option.filter(|_| first.starts_with('-')) else {
                        continue;
                    };
                    let takes_a_value = line.contains(&format!("{option} <"));
                    options.push((command.clone(), option.to_owned(), takes_a_value));
                }
                _ => {}
            }
        }
    }
    options
}

/// Runs a command that exits at once and changes nothing on this machine: an extra option makes the
/// others fail.
fn attempt(home: &TempDir, command: &[String], more: &[&str]) -> ProgramOutput {
    let mut prepared = program(home);
    prepared.args(command).args(more).arg("-vv");
    if matches!(
        command.first().map(String::as_str),
        Some("sim" | "demo" | "service")
    ) {
        prepared.arg("--frobnicate");
    }
    let ended = finish(&mut prepared);
    // Names of files that exist are shown.
    let _ = fs::remove_file(home.path().join(KEY));
    ended
}

#[test]
fn no_option_repeats_a_secret() {
    let home = tempdir().unwrap();
    let options = options();
    for name in ["--sn", "--token-file", "--api-port", "--forward", "--name"] {
        assert!(
            options
                .iter()
                .any(|(_, option, value)| option == name && *value)
        );
    }
    for (command, option, _) in &options {
        for secret in [KEY, ADDRESS] {
            let joined = format!("{option}={secret}");
            for form in [&[option.as_str(), secret][..], &[joined.as_str()]] {
                silent(
                    &attempt(&home, command, form),
                    &format!("{command:?} {form:?}"),
                );
            }
        }
    }
}

#[test]
fn no_command_repeats_a_secret_argument() {
    let home = tempdir().unwrap();
    let mut commands: Vec<_> = options().into_iter().map(|(command, ..)| command).collect();
    commands.dedup();
    assert!(commands.len() > 10);
    let dashed = format!("--{KEY}");
    let short = format!("-p{KEY}");
    for command in commands {
        for secret in [KEY, ADDRESS, &dashed, &short] {
            for more in [&[secret][..], &["--token", secret], &["--", secret]] {
                silent(
                    &attempt(&home, &command, more),
                    &format!("{command:?} {more:?}"),
                );
            }
        }
    }
}

#[test]
fn key_as_argument_is_exit_2_with_hint() {
    let home = tempdir().unwrap();
    for arguments in [&["provision", KEY][..], &["provision", "--token", KEY]] {
        let ended = run(&home, arguments).expect(2);
        assert_eq!(ended.stdout, "");
        ended.says(&["--token-file"]);
    }
    run(&home, &["provision", KEY])
        .expect(2)
        .says(&["CLESYDE_TOKEN", "Usage: clesyde-cloud provision"]);
}

#[test]
fn key_as_file_name_is_redacted() {
    let home = tempdir().unwrap();
    let ended = run(
        &home,
        &[
            "provision",
            "--sn",
            "SN0001",
            "--api-url",
            "http://127.0.0.1:9",
            "--token-file",
            KEY,
        ],
    )
    .expect(1)
    .says(&[
        "no provisioning key from",
        "No such file",
        "nothing was sent",
    ]);
    silent(&ended, "--token-file");
}

#[test]
fn key_as_serial_number_is_exit_2_and_not_sent() {
    let home = tempdir().unwrap();
    let arguments = ["provision", "--sn", KEY, "--api-url", "http://127.0.0.1:9"];
    let ended = finish(program(&home).args(arguments).env("CLESYDE_TOKEN", KEY))
        .expect(2)
        .says(&["--sn", "nothing was sent"]);
    silent(&ended, "--sn");
}

#[test]
fn no_variable_is_repeated() {
    let home = tempdir().unwrap();
    let names = [
        "CLESYDE_SN",
        "CLESYDE_API_URL",
        "CLESYDE_BASE_PATH",
        "CLESYDE_TOKEN",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ];
    for name in names {
        for secret in [KEY, ADDRESS] {
            for command in ["provision", "run", "status", "doctor", "publish"] {
                // The command retries for ten seconds: once is enough.
                let tries = !matches!(name, "CLESYDE_SN" | "CLESYDE_API_URL");
                if command == "provision" && tries && (name, secret) != ("HTTPS_PROXY", ADDRESS) {
                    continue;
                }
                let mut prepared = program(&home);
                prepared
                    .args([command, "-vv"])
                    .env("CLESYDE_API_URL", "https://localhost:9")
                    .env("CLESYDE_TOKEN", KEY)
                    .env("CLESYDE_SN", "SN0001")
                    .env(name, secret);
                if command == "publish" {
                    prepared.args(["a/topic", "payload"]);
                }
                silent(
                    &finish_with_input(&mut prepared, ""),
                    &format!("{command} with {name}"),
                );
            }
        }
    }
}
