//! The settings: option, variable, file, default.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{ProgramOutput, finish, program};

fn home() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Writes the file into the default base path's directory.
fn write(home: &TempDir, text: &str) -> std::path::PathBuf {
    let path = home.path().join("base/clesyde-cloud.toml");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

/// Runs the program on the base path.
fn run(home: &TempDir, arguments: &[&str], variables: &[(&str, &str)]) -> ProgramOutput {
    let mut command = program(home);
    command
        .env("CLESYDE_BASE_PATH", home.path().join("base"))
        .envs(variables.iter().copied())
        .args(arguments);
    finish(&mut command)
}

/// Returns the settings and their origins.
fn shown(home: &TempDir, arguments: &[&str], variables: &[(&str, &str)]) -> Value {
    let arguments = [&["config", "show", "--json"], arguments].concat();
    let shown = run(home, &arguments, variables).expect(0).json().remove(0);
    shown["settings"].clone()
}

/// An instance that runs with the settings of before can still be asked for its status.
#[test]
fn commands_other_than_run_ignore_problems_of_its_settings() {
    let home = home();
    write(&home, "sn = \"FILE\"\nforward = 3\nmax-conections = 5\n");
    run(&home, &["status"], &[])
        .expect(3)
        .says(&["config check"]);
    run(&home, &["run"], &[])
        .expect(2)
        .says(&["line 2", "forward", "1 more"]);
    write(&home, "sn = 3\n");
    run(&home, &["status"], &[])
        .expect(2)
        .says(&["line 1", "sn"]);
}

/// Some need another setting, which may come from another layer.
#[test]
fn settings_that_need_another_are_accepted_with_it_only() {
    for (setting, needed) in [
        ("health-public = true", "health = \"127.0.0.1:0\""),
        ("health-allow = [\"::1\"]", "health = \"127.0.0.1:0\""),
        ("health-page = true", "health = \"127.0.0.1:0\""),
        ("access-log-file = \"access.log\"", "access-log = \"json\""),
        ("access-log-query = true", "access-log = \"json\""),
    ] {
        let home = home();
        let path = write(&home, &format!("{setting}\n"));
        let check = ["config", "check", path.to_str().unwrap()];
        let name = needed.split(' ').next().unwrap();
        let found = run(&home, &check, &[]).expect(1).stdout;
        assert!(found.contains(&format!("needs '{name}'")), "{found}");
        write(&home, &format!("{setting}\n{needed}\n"));
        run(&home, &check, &[]).expect(0);
    }
}

#[test]
fn option_precedes_variable_precedes_file_precedes_default() {
    let home = home();
    let (value, source) = (
        |settings: &Value| settings["sn"]["value"].clone(),
        |settings: &Value| settings["sn"]["source"].clone(),
    );
    let settings = shown(&home, &[], &[]);
    assert_eq!(
        (value(&settings), source(&settings)),
        (Value::Null, "default".into())
    );
    assert_eq!(settings["max-connections"]["value"], 256);
    assert_eq!(settings["idle-timeout"]["source"], "default");

    let path = write(
        &home,
        "\nsn = \"FILE\"\nmax-connections = 500\nallow = [\"192.0.2.0/24\", \"::1\"]\n",
    );
    let settings = shown(&home, &[], &[]);
    assert_eq!(
        (value(&settings), source(&settings)),
        ("FILE".into(), "file".into())
    );
    assert_eq!(settings["sn"]["name"], format!("{}:2", path.display()));
    assert_eq!(settings["max-connections"]["value"], 500);
    assert_eq!(
        settings["allow"]["value"],
        serde_json::json!(["192.0.2.0/24", "::1"])
    );

    let variables = [
        ("CLESYDE_SN", "VARIABLE"),
        ("CLESYDE_ALLOW", "10.0.0.0/8,::2"),
    ];
    let settings = shown(&home, &[], &variables);
    assert_eq!(value(&settings), "VARIABLE");
    assert_eq!(settings["sn"]["name"], "CLESYDE_SN");
    // A higher layer replaces the whole list.
    assert_eq!(
        settings["allow"]["value"],
        serde_json::json!(["10.0.0.0/8", "::2"])
    );
    let settings = shown(&home, &["--sn", "OPTION"], &variables);
    assert_eq!(
        (value(&settings), source(&settings)),
        ("OPTION".into(), "option".into())
    );
    // An empty variable counts as unset.
    assert_eq!(value(&shown(&home, &[], &[("CLESYDE_SN", "")])), "FILE");
}

#[test]
fn higher_layer_replaces_the_way_to_serve() {
    let home = home();
    write(
        &home,
        "forward-tcp = \"localhost:1\"\nproxy-protocol = \"v2\"\nverbose = 1\nidle-timeout = 9\n",
    );
    let settings = shown(&home, &[], &[]);
    assert_eq!(settings["proxy-protocol"]["value"], "v2");
    assert_eq!(settings["verbose"]["value"], 1);
    let settings = shown(&home, &["-q"], &[("CLESYDE_FORWARD", "localhost:2")]);
    assert_eq!(settings["forward"]["value"], "localhost:2");
    for replaced in ["forward-tcp", "proxy-protocol", "verbose"] {
        assert_eq!(settings[replaced]["source"], "default", "{replaced}");
    }
    assert_eq!(settings["idle-timeout"]["value"], 9);

    // The routes are part of it.
    write(
        &home,
        "[[route]]\npath = \"/a\"\nforward = \"localhost:3\"\n",
    );
    let routes = |variables: &[(&str, &str)]| {
        let shown = run(&home, &["config", "show", "--json"], variables).expect(0);
        let count = shown.json()[0]["routes"].as_array().unwrap().len();
        assert_eq!(
            shown.stderr.contains("are not used"),
            count == 0,
            "{}",
            shown.stderr
        );
        count
    };
    assert_eq!(routes(&[]), 1);
    assert_eq!(routes(&[("CLESYDE_UI", "false")]), 1);
    assert_eq!(routes(&[("CLESYDE_UI", "true")]), 0);
}

#[test]
fn problems_of_routes_are_named_with_their_lines() {
    let home = home();
    write(
        &home,
        "passthrough = \"localhost:1\"\n\
         [[route]]\nforward = \"localhost:2\"\n\
         [[route]]\npath = \"/a\"\n\
         [[route]]\npath = \"a\"\nstatic = \"x\"\nhost-header = \"b\"\n\
         [[route]]\npath = \"/c\"\nforward = \"localhost:3\"\nfoward = 1\n\
         [[route]]\npath = \"/d\"\nforward = \"localhost:4\"\n\
         [[route]]\npath = \"/d/\"\nforward = \"localhost:5\"\n",
    );
    let checked = run(&home, &["config", "check"], &[]).expect(1).stdout;
    for text in [
        "line 2: a route needs 'host' or 'path'",
        "line 4: a route needs 'forward' or 'static'",
        "line 7: route: 'path': invalid value 'a': is not a path such as /admin",
        "line 9: route: 'host-header': cannot be used with 'static'",
        "line 13: unknown key 'foward'; did you mean 'forward'?",
        "line 17: 'route': there are two routes for the same host and path",
        "routes take HTTP: they cannot be used with 'passthrough'",
    ] {
        assert!(checked.contains(text), "{text}: {checked}");
    }
    write(&home, "[route]\npath = \"/a\"\n");
    let checked = run(&home, &["config", "check"], &[]).expect(1).stdout;
    assert!(checked.contains("line 1: write [[route]]"), "{checked}");
}

#[test]
fn file_is_named_or_found_in_the_base_path() {
    let home = home();
    write(&home, "sn = \"BASE\"");
    let named = home.path().join("named.toml");
    std::fs::write(&named, "sn = \"NAMED\"\nbase-path = \"/elsewhere\"").unwrap();
    let named = named.to_str().unwrap();
    assert_eq!(shown(&home, &[], &[])["sn"]["value"], "BASE");
    for (arguments, variables) in [
        (&["--config", named][..], &[][..]),
        (&[], &[("CLESYDE_CONFIG", named)]),
    ] {
        let settings = shown(&home, arguments, variables);
        assert_eq!(settings["sn"]["value"], "NAMED");
    }
    run(&home, &["status", "--config", "missing.toml"], &[])
        .expect(2)
        .says(&["could not read the configuration file", "missing.toml"]);
    write(&home, "base-path = \"/elsewhere\"");
    run(&home, &["status"], &[])
        .expect(2)
        .says(&["clesyde-cloud.toml", "line 1", "base-path"]);
}

#[test]
fn check_shows_all_problems_at_once() {
    let home = home();
    let path = write(
        &home,
        "max-conections = 5\n\
         max-connections = \"5\"\n\
         idle-timeout = 0\n\
         allow = \"192.0.2.0/24\"\n\
         deny = [\"192.0.2.0/33\"]\n\
         token = \"cc8498bebd4e5915b0cc5fc21eb6622d\"\n\
         sn = \"cc8498bebd4e5915b0cc5fc21eb6622d cc84\"\n\
         ui = true\n\
         forward = \"localhost:1\"\n\
         log-format = \"xml\"\n",
    );
    let checked = run(&home, &["config", "check", "--json"], &[]).expect(1);
    let result = checked.json().remove(0);
    assert_eq!(result["usable"], false);
    let problems = result["problems"].as_array().unwrap();
    for (line, texts) in [
        (
            1,
            &[
                "unknown key",
                "max-conections",
                "did you mean 'max-connections'",
            ][..],
        ),
        (2, &["'max-connections'", "expected an integer", "string"]),
        (3, &["'idle-timeout'", "from 1"]),
        (4, &["'allow'", "expected an array of strings"]),
        (
            5,
            &["'deny'", "192.0.2.0/33", "neither an address nor a range"],
        ),
        (6, &["'token' is refused", "--token-file"]),
        (7, &["'sn'", "not shown"]),
        (9, &["'forward'", "cannot be used with 'ui'"]),
        (10, &["'log-format'", "xml", "text, json"]),
    ] {
        let problem = problems.iter().find(|problem| problem["line"] == line);
        let problem = problem.unwrap_or_else(|| panic!("{line}: {result}"));
        for text in texts {
            assert!(
                problem["problem"].as_str().unwrap().contains(text),
                "{problem}"
            );
        }
    }
    assert_eq!(problems.len(), 9, "{result}");
    assert!(!checked.stdout.contains("cc8498"), "{}", checked.stdout);

    // `run` ends with one line and wrong usage; a command without a use for `run`'s keys does not.
    let ended = run(&home, &["run"], &[]).expect(2);
    assert!(ended.stderr.contains("config check"), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    std::fs::write(&path, "forward = \"localhost\"\n").unwrap();
    run(&home, &["status"], &[]).expect(3);
    run(&home, &["config", "check", path.to_str().unwrap()], &[]).expect(1);
    std::fs::write(&path, "proxy-protocol = \"v1\"\nhost-header = \"a\"\n").unwrap();
    let checked = run(&home, &["config", "check"], &[]).expect(1).stdout;
    assert!(
        checked.contains("line 1: 'proxy-protocol' needs 'forward-tcp'"),
        "{checked}"
    );
    assert!(
        checked.contains("line 2: 'host-header' needs 'forward'"),
        "{checked}"
    );
    std::fs::write(&path, "forward = \n").unwrap();
    run(&home, &["status"], &[]).expect(2).says(&["line 1"]);
    std::fs::write(
        &path,
        "forward = \"https://localhost:1\"\nforward-ca-file = \"missing.pem\"\n",
    )
    .unwrap();
    let checked = run(&home, &["config", "check"], &[]).expect(0).stdout;
    assert!(
        checked.contains("\"missing.pem\" does not exist"),
        "{checked}"
    );
}

#[test]
fn content_of_named_files_is_checked_with_path_and_line() {
    let home = home();
    let file = |name: &str, content: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let users = file("users", "# staff\nalice\n");
    let authority = file("authority.pem", "no certificate");
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let roots = file("roots.pem", damaged);
    let site = file("site", "a file");
    let logo = file("logo.gif", "GIF89a");
    let outbox = file("outbox", "");
    let directory = home.path().display();
    let settings = [
        format!("forward = \"https://localhost:1\"\nforward-ca-file = \"{roots}\"\n"),
        format!("auth = [\"basic={users}\", \"/admin:mtls={authority}\", \"/x:basic=missing\"]\n"),
        format!(
            "outbox = \"{outbox}\"\naccess-log = \"json\"\naccess-log-file = \"{directory}\"\n"
        ),
        format!("[[route]]\npath = \"/site\"\nstatic = \"{site}\"\n"),
    ];
    write(&home, &settings.concat());
    let checked = run(&home, &["config", "check", "--json"], &[]).expect(1);
    let result = checked.json().remove(0);
    let problems = result["problems"].as_array().unwrap();
    let expected = [
        (2, "'forward-ca-file'", roots.as_str()),
        (3, "line 2 is not of the form NAME:HASH", &users),
        (3, "no certificate", &authority),
        (4, "is not a directory", &outbox),
        (6, "is a directory", home.path().to_str().unwrap()),
        (9, "cannot serve the directory", &site),
    ];
    for (problem, (line, text, path)) in problems.iter().zip(expected) {
        let shown = problem["problem"].as_str().unwrap();
        assert_eq!(problem["line"], line, "{result}");
        assert!(shown.contains(text) && shown.contains(path), "{problem}");
    }
    assert_eq!(problems.len(), expected.len(), "{result}");
    let warnings = result["warnings"].to_string();
    assert!(warnings.contains("line 3: 'auth': "), "{warnings}");
    assert!(warnings.contains("does not exist"), "{warnings}");

    write(&home, &format!("device-logo = \"{logo}\"\n"));
    let checked = run(&home, &["config", "check"], &[]).expect(1).stdout;
    assert!(
        checked.contains("line 1: 'device-logo': ") && checked.contains(".svg"),
        "{checked}"
    );
}

#[test]
fn variable_error_names_variable_and_value() {
    let home = home();
    for (name, value, reason) in [
        ("CLESYDE_MAX_CONNECTIONS", "many", "invalid digit"),
        (
            "CLESYDE_ALLOW",
            "192.0.2.0/33",
            "neither an address nor a range",
        ),
        ("CLESYDE_TITLE_CASE_HEADERS", "maybe", "true or false"),
        ("CLESYDE_VERBOSE", "loud", "an integer"),
    ] {
        run(&home, &["run"], &[(name, value)])
            .expect(2)
            .says(&[name, value, reason]);
    }
    let both = [("CLESYDE_UI", "true"), ("CLESYDE_FORWARD", "localhost:1")];
    run(&home, &["run"], &both)
        .expect(2)
        .says(&["forward", "ui"]);
    for (arguments, needed) in [
        (&["run", "--forward-ca-file", "x"][..], "--forward"),
        (&["run", "--pass-authorization"], "--auth"),
    ] {
        let ended = run(&home, arguments, &[]).expect(2);
        ended.says(&[arguments[1], "needs", needed]);
    }
}

#[test]
fn proxy_password_is_hidden_and_must_be_private() {
    let home = home();
    let path = write(&home, "proxy = \"http://me:s3cret@proxy.example.com:3128\"");
    let warns = |home: &TempDir| {
        let shown = run(home, &["config", "show"], &[]).expect(0);
        assert!(
            shown
                .stdout
                .contains("http://[redacted]@proxy.example.com:3128")
        );
        assert!(!(shown.stdout + &shown.stderr).contains("s3cret"));
        let checked = run(home, &["config", "check"], &[]).expect(0).stdout;
        assert_eq!(
            checked.contains("warning"),
            shown.stderr.contains("contains a password")
        );
        checked.contains("warning")
    };
    assert!(!warns(&home));
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert!(warns(&home));
}

#[test]
fn template_is_a_usable_file_and_help_names_variables() {
    let home = home();
    let template = run(&home, &["config", "template"], &[]).expect(0).stdout;
    assert!(
        template.contains("\n#max-connections = 256\n"),
        "{template}"
    );
    write(&home, &template);
    run(&home, &["config", "check"], &[]).expect(0);
    let help = run(&home, &["run", "--help"], &[]).expect(0).stdout;
    for name in ["CLESYDE_MAX_CONNECTIONS", "CLESYDE_SN", "CLESYDE_ALLOW"] {
        assert!(help.contains(name), "{name}: {help}");
    }
}
