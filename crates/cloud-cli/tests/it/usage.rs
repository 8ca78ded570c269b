//! Usage errors, help, and commands that need neither a configuration nor a network.

use std::fs;
use std::io::Read;
use std::process::Stdio;

use tempfile::{TempDir, tempdir};

use crate::common::{ProgramOutput, finish, program, run};

fn home() -> TempDir {
    tempdir().unwrap()
}

#[track_caller]
fn refused(home: &TempDir, arguments: &[&str], names: &[&str]) -> ProgramOutput {
    let ended = run(home, arguments).expect(2).says(names);
    assert_eq!(ended.stdout, "", "wrong usage leaves standard output alone");
    assert_eq!(
        fs::read_dir(home.path()).unwrap().count(),
        0,
        "wrong usage writes nothing"
    );
    ended
}

#[test]
fn usage_error_is_exit_2_and_names_option_and_value() {
    let home = home();
    refused(&home, &["frobnicate"], &["frobnicate"]);
    refused(&home, &["--frobnicate", "reset"], &["--frobnicate"]);
    refused(&home, &["cert", "show", "--sn", "a/b#"], &["--sn", "a/b#"]);
    refused(&home, &["cert", "show", "--sn", ""], &["--sn"]);
    refused(
        &home,
        &["cert", "show", "--api-url", "http://api.example.com"],
        &["--api-url", "http://api.example.com", "https"],
    );
    refused(
        &home,
        &["cert", "show", "--api-url", "nonsense"],
        &["--api-url", "nonsense"],
    );
    refused(
        &home,
        &["cert", "show", "--log-format", "xml"],
        &["--log-format", "xml"],
    );
    refused(
        &home,
        &["cert", "show", "-v", "-q"],
        &["--verbose", "--quiet"],
    );
    refused(
        &home,
        &["run", "--forward", "localhost"],
        &["--forward", "localhost", "HOST:PORT"],
    );
    for (target, reason) in [
        ("8080", "has no host"),
        (":8080", "has no host"),
        (
            "ftp://localhost:8021",
            "names a protocol that is not forwarded",
        ),
        ("https://localhost", "has no port"),
        ("http://localhost:80/app", "has a path"),
        ("http://localhost", "has no port"),
        ("unix:", "needs the path"),
    ] {
        let names = ["--forward", reason, "write HOST:PORT"];
        refused(&home, &["run", "--forward", target], &names);
    }
    refused(
        &home,
        &["run", "--forward-tcp", "http://localhost:80"],
        &["--forward-tcp", "is a URL", "write HOST:PORT"],
    );
    refused(
        &home,
        &["run", "--forward-tcp", "localhost:65536"],
        &["--forward-tcp", "localhost:65536"],
    );
    refused(
        &home,
        &["run", "--passthrough", "localhost:0"],
        &["--passthrough", "localhost:0"],
    );
    refused(
        &home,
        &["run", "--ui", "--forward", "localhost:80"],
        &["--ui", "--forward"],
    );
    refused(
        &home,
        &["run", "--forward", "a:1", "--passthrough", "b:2"],
        &["--forward", "--passthrough"],
    );
    refused(
        &home,
        &["run", "--forward", "a:1", "--proxy-protocol", "v1"],
        &["--proxy-protocol"],
    );
    refused(
        &home,
        &["run", "--forward-tcp", "a:1", "--proxy-protocol", "v3"],
        &["--proxy-protocol", "v3"],
    );
    refused(
        &home,
        &["run", "--allow", "192.0.2.0/33"],
        &["--allow", "192.0.2.0/33"],
    );
    refused(
        &home,
        &["run", "--unknown-callers", "maybe"],
        &["--unknown-callers", "maybe", "allow", "deny"],
    );
    for host in ["a.example.com:443", "*.example.com", "https://a"] {
        refused(&home, &["run", "--host", host], &["--host", host]);
    }
    refused(
        &home,
        &["run", "--pass-header", "X_Forwarded_For"],
        &[
            "--pass-header",
            "X_Forwarded_For",
            "set or read by the device",
        ],
    );
    for option in ["--forward-tcp", "--passthrough"] {
        for with in ["--host", "--pass-header"] {
            let arguments = ["run", option, "a:1", with, "b"];
            refused(&home, &arguments, &[option, with]);
        }
    }
    refused(
        &home,
        &["sim", "--api-port", "65536"],
        &["--api-port", "65536"],
    );
    refused(&home, &["sim", "--cipher", "rot13"], &["--cipher", "rot13"]);
    refused(
        &home,
        &["sim", "--protocol-version", "9"],
        &["--protocol-version", "9"],
    );
    refused(
        &home,
        &["sim", "--token-valid", "0"],
        &["--token-valid", "0"],
    );
    refused(
        &home,
        &["sim", "--delta-form", "own"],
        &["--delta-form", "own"],
    );
    refused(
        &home,
        &["provision", "--api-url", "https://api.example.com"],
        &["--sn"],
    );
    refused(&home, &["provision", "--sn", "SN"], &["--api-url"]);
    for url in ["https://api.example.com?x", "https://api.example.com#x"] {
        let arguments = ["provision", "--sn", "SN", "--api-url", url];
        refused(&home, &arguments, &["--api-url", url]);
    }
    refused(&home, &["completions", "cobol"], &["cobol"]);
    refused(&home, &["man", "cobol"], &["cobol"]);
}

#[test]
fn provisioning_key_is_refused_on_command_line() {
    let home = home();
    let ended = refused(&home, &["provision", "--token=pk-1234"], &["--token"]);
    assert!(!ended.stderr.contains("pk-1234"), "{}", ended.stderr);
}

#[test]
fn invalid_environment_value_is_usage_error() {
    let home = home();
    finish(
        program(&home)
            .arg("cert")
            .arg("show")
            .env("CLESYDE_SN", "a b"),
    )
    .expect(2)
    .says(&["--sn", "a b"]);
    for (name, option) in [
        ("CLESYDE_UNKNOWN_CALLERS", "--unknown-callers"),
        ("CLESYDE_HOST", "--host"),
        ("CLESYDE_PASS_HEADER", "--pass-header"),
    ] {
        finish(program(&home).arg("run").env(name, "a b"))
            .expect(2)
            .says(&[option, "a b"]);
    }
}

/// EnvironmentFile= and container tools produce empty variables.
#[test]
fn empty_environment_value_counts_as_unset() {
    let home = home();
    let mut command = program(&home);
    for name in ["CLESYDE_BASE_PATH", "CLESYDE_SN", "CLESYDE_API_URL"] {
        command.env(name, "");
    }
    // The variables of one command too.
    let mut run = program(&home);
    for name in [
        "CLESYDE_UNKNOWN_CALLERS",
        "CLESYDE_HOST",
        "CLESYDE_PASS_HEADER",
    ] {
        run.env(name, "");
    }
    finish(run.args(["run", "--passthrough", "a:1"])).expect(3);
    finish(command.args(["cert", "show"]))
        .expect(3)
        .says(&[home.path().to_str().unwrap()]);
    let arguments = ["provision", "--sn", "SN", "--api-url", "http://127.0.0.1:1"];
    finish(program(&home).args(arguments).env("CLESYDE_TOKEN", ""))
        .expect(1)
        .says(&["there is no provisioning key", "CLESYDE_TOKEN"]);
    finish(program(&home).args(["provision"]).env("CLESYDE_SN", ""))
        .expect(2)
        .says(&["the serial number is missing"]);
    let help = finish(program(&home).arg("--help").env("CLESYDE_SN", "")).expect(0);
    assert!(help.stdout.contains("CLESYDE_API_URL"), "{}", help.stdout);
}

#[test]
fn missing_command_is_usage_error_with_help() {
    run(&home(), &[]).expect(2).says(&["Usage", "reset"]);
}

#[test]
fn version_and_help_go_to_standard_output() {
    let home = home();
    let version = run(&home, &["--version"]).expect(0);
    assert_eq!(
        version.stdout,
        format!("clesyde-cloud {}\n", env!("CARGO_PKG_VERSION"))
    );
    let help = run(&home, &["--help"]).expect(0).stdout;
    for part in [
        "Examples:",
        "Exit codes:",
        "CLESYDE_BASE_PATH",
        "CLESYDE_SN",
        "CLESYDE_API_URL",
    ] {
        assert!(help.contains(part), "{part} is not in the help");
    }
}

#[test]
fn missing_configuration_is_exit_3_with_advice() {
    let home = home();
    let base = home.path().join("base");
    let base = base.to_str().unwrap();
    for arguments in [
        &["cert", "show"][..],
        &["cert", "show", "--json"],
        &["run"],
        &["run", "--json"],
    ] {
        let ended = run(&home, &[arguments, &["--base-path", base]].concat()).expect(3);
        let ended = ended.says(&["not provisioned", base, "clesyde-cloud provision"]);
        assert_eq!(ended.stdout, "");
    }
    assert!(
        !home.path().join("base").exists(),
        "looking makes no directory"
    );
}

#[test]
fn base_path_comes_from_option_environment_or_systemd() {
    let home = home();
    let missing = |command: &mut std::process::Command| {
        finish(command.args(["cert", "show"])).expect(3).stderr
    };
    assert!(
        missing(program(&home).env("STATE_DIRECTORY", "/state/one:/state/two"))
            .contains("/state/one/.clesydecloud")
    );
    assert!(
        missing(
            program(&home)
                .env("STATE_DIRECTORY", "/state")
                .env("CLESYDE_BASE_PATH", "/base")
        )
        .contains("/base/.clesydecloud")
    );
    assert!(missing(&mut program(&home)).contains(home.path().to_str().unwrap()));
}

#[test]
fn base_path_that_is_file_is_exit_1() {
    let home = home();
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    for command in [&["cert", "show"][..], &["reset", "--yes"]] {
        run(&home, &[command, &["--base-path", file]].concat())
            .expect(1)
            .says(&[file, "not a directory"]);
    }
}

#[test]
fn reset_without_terminal_removes_nothing() {
    let home = home();
    let directory = home.path().join(".clesydecloud");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("cloud_config.json"), "{}").unwrap();
    let base = home.path().to_str().unwrap();
    run(&home, &["reset", "--base-path", base])
        .expect(1)
        .says(&["nothing was removed", "--yes"]);
    assert!(directory.join("cloud_config.json").exists());
    // A damaged configuration can be removed.
    let ended = run(&home, &["reset", "--yes", "--json", "--base-path", base]).expect(0);
    assert_eq!(ended.json()[0]["removed"], true);
    assert!(!directory.exists());
    assert_eq!(
        run(&home, &["reset", "--yes", "--json", "--base-path", base])
            .expect(0)
            .json()[0]["removed"],
        false
    );
}

#[test]
fn damaged_configuration_is_exit_1_and_names_file() {
    let home = home();
    let directory = home.path().join(".clesydecloud");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("cloud_config.json"), "{").unwrap();
    let base = home.path().to_str().unwrap();
    run(&home, &["cert", "show", "--base-path", base])
        .expect(1)
        .says(&["iot_cert.pem", "missing"]);
}

#[test]
fn completions_and_manual_pages_list_commands() {
    let home = home();
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            run(&home, &["completions", shell])
                .expect(0)
                .stdout
                .contains("reset"),
            "{shell}"
        );
    }
    let page = run(&home, &["man"]).expect(0).stdout;
    assert!(
        page.starts_with(".ie") || page.contains(".TH clesyde-cloud"),
        "{page}"
    );
    assert!(
        run(&home, &["man", "cert", "show"])
            .expect(0)
            .stdout
            .contains("serial")
    );
}

#[test]
fn closed_standard_output_is_not_an_error() {
    let home = home();
    let mut child = program(&home)
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(stderr, "");
}

/// `--root` needs no systemd and no rights.
#[test]
fn service_is_installed_and_removed_below_root() {
    let home = home();
    let root = home.path().join("image");
    let root = root.to_str().unwrap();
    run(&home, &["service", "install", "--root", root])
        .expect(1)
        .says(&["--root DIR"]);
    fs::create_dir(root).unwrap();
    let service = |command: &str| {
        run(
            &home,
            &[
                "service", command, "--root", root, "--sn", "SN0001", "--json",
            ],
        )
    };
    let unit = home
        .path()
        .join("image/etc/systemd/system/clesyde-cloud.service");
    let environment = home.path().join("image/etc/default/clesyde-cloud");
    service("status").expect(1);
    assert_eq!(
        service("install").expect(0).json()[0]["environment_written"],
        true
    );
    let text = fs::read_to_string(&unit).unwrap();
    assert!(
        text.contains("ExecStart=/usr/bin/clesyde-cloud run\n"),
        "{text}"
    );
    let text = fs::read_to_string(&environment).unwrap();
    assert!(text.contains("\nCLESYDE_SN=SN0001\n"), "{text}");
    fs::write(&environment, "CLESYDE_SN=OTHER\n").unwrap();
    assert_eq!(
        service("install").expect(0).json()[0]["environment_written"],
        false
    );
    assert_eq!(
        service("status").expect(1).json()[0]["unit"],
        unit.to_str().unwrap()
    );
    service("uninstall").expect(0);
    assert!(!unit.exists() && environment.exists());
    service("uninstall").expect(0);
}
