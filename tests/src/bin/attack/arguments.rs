//! Secrets that were given where they do not belong: no error, log line or result repeats them.

use anyhow::Result;

use crate::Context;
use crate::child::finish;
use crate::report::Row;
use crate::scene::{CALL, World};

/// Command lines with a provisioning key in them; `{s}` stands for it.
const LINES: &[&[&str]] = &[
    &["provision", "{s}"],
    &["provision", "--token", "{s}"],
    &["provision", "--token={s}"],
    &["provision", "--key={s}"],
    &["provision", "--token-file", "{s}"],
    &["{s}"],
    &["--{s}"],
    &["status", "{s}"],
    &["--sn", "bad/{s}", "status"],
    &["--api-url", "{s}", "provision"],
    &["--api-url", "ftp://user:{s}@127.0.0.1:1/", "provision"],
    &["--api-url", "http://user:{s}@127.0.0.1:1/", "provision"],
    &["--api-url", "https://user:{s}@127.0.0.1:1/", "provision"],
    &[
        "--proxy",
        "http://user:{s}@127.0.0.1:1/",
        "-vv",
        "provision",
    ],
    &["--proxy", "socks5://user:{s}@127.0.0.1:1/", "provision"],
    &["--proxy", "http://user:{s}@127.0.0.1:1/", "doctor"],
    &["--log-format", "{s}", "status"],
    &["run", "--forward", "{s}"],
    &["run", "--forward", "user:{s}@127.0.0.1:80"],
    &["run", "--health", "{s}"],
    &["run", "--deny", "{s}"],
    &["completions", "{s}"],
    &["man", "{s}"],
];

pub(crate) async fn secrets(context: &Context) -> Result<Vec<Row>> {
    let world = World::provisioned(context, 0).await?;
    let mut repeated = Vec::new();
    for line in LINES {
        let arguments: Vec<String> = line
            .iter()
            .map(|word| word.replace("{s}", world.key()))
            .collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = world.command(&arguments);
        command.env("CLESYDE_TOKEN", "another-key");
        let (_, stdout, stderr) = finish(&mut command, CALL).await?;
        if (stdout.text() + &stderr.text()).contains(world.key()) {
            repeated.push(line.join(" ").replace("{s}", "SECRET"));
        }
    }
    let mut command = world.command(&["doctor", "-vv"]);
    command.env(
        "HTTPS_PROXY",
        format!("http://user:{}@127.0.0.1:1/", world.key()),
    );
    let (_, stdout, stderr) = finish(&mut command, CALL).await?;
    if (stdout.text() + &stderr.text()).contains(world.key()) {
        repeated.push("HTTPS_PROXY=http://user:SECRET@… doctor -vv".to_owned());
    }
    Ok(vec![Row::new(
        format!(
            "{} command lines with a provisioning key or a password in the wrong place",
            LINES.len() + 1
        ),
        "none repeats it",
        match repeated.as_slice() {
            [] => "none".to_owned(),
            some => format!("{}: `{}`", some.len(), some.join("`, `")),
        },
        repeated.is_empty(),
    )])
}
