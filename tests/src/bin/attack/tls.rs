//! TLS as the public gets it, looked at by programs of others: `openssl s_client` and testssl.sh.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::Context;
use crate::child::finish;
use crate::report::Row;
use crate::scene::{Scene, Settings, program};

const HANDSHAKE: Duration = Duration::from_secs(5);
/// testssl.sh makes some hundred handshakes.
const SCAN: Duration = Duration::from_secs(230);
/// The Debian package's name for it, and the one of its author.
const TESTSSL: [&str; 2] = ["testssl", "testssl.sh"];

/// Versions and ciphers that are offered alone, and whether a device may take them.
const OFFERS: &[(&str, &[&str], bool)] = &[
    ("TLS 1.0", &["-tls1", "-cipher", "ALL:@SECLEVEL=0"], false),
    ("TLS 1.1", &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], false),
    ("TLS 1.2", &["-tls1_2"], true),
    ("TLS 1.3", &["-tls1_3"], true),
    (
        "TLS 1.2 without forward secrecy",
        &["-tls1_2", "-cipher", "kRSA:@SECLEVEL=0"],
        false,
    ),
    (
        "TLS 1.2 with CBC",
        &[
            "-tls1_2",
            "-cipher",
            "ECDHE+AES+SHA256:ECDHE+AES+SHA1:!AESGCM:@SECLEVEL=0",
        ],
        false,
    ),
    (
        "TLS 1.2 with 3DES, RC4 or without a cipher",
        &["-tls1_2", "-cipher", "3DES:RC4:eNULL:aNULL:@SECLEVEL=0"],
        false,
    ),
];

pub(crate) async fn openssl(context: &Context) -> Result<Vec<Row>> {
    let scene = Scene::start(context, Settings::default()).await?;
    let mut rows = Vec::new();
    for (name, options, taken) in OFFERS {
        let text = s_client(&scene, options, b"").await?;
        let established =
            text.contains("Verify return code: 0 (ok)") && !text.contains("Cipher is (NONE)");
        rows.push(Row::new(
            format!("openssl offers {name}"),
            if *taken {
                "taken, the certificate verified"
            } else {
                "refused"
            },
            if established { "taken" } else { "refused" },
            established == *taken,
        ));
    }
    // A line that is a single R asks for a renegotiation; whether openssl goes on to wait for it is
    // its own affair.
    let text = s_client(&scene, &["-tls1_2"], b"R\n").await?;
    let (_, since) = text
        .split_once("RENEGOTIATING")
        .context("openssl did not ask")?;
    let done = since.contains("verify return");
    rows.push(Row::new(
        "openssl asks for a renegotiation",
        "refused",
        if done { "done" } else { "refused" },
        !done,
    ));
    Ok(rows)
}

/// Connects with these options, sends `input`, and returns everything that openssl prints until it
/// ends or is ended.
async fn s_client(scene: &Scene, options: &[&str], input: &[u8]) -> Result<String> {
    let home = scene.world.home.path();
    // Some of it goes to standard error.
    let mut command = program("sh".as_ref(), home);
    command
        .args(["-c", "exec openssl \"$@\" 2>&1", "sh"])
        .args(["s_client", "-connect", &scene.entrance.address.to_string()])
        .args([
            "-servername",
            &scene.entrance.host,
            "-verify_hostname",
            &scene.entrance.host,
        ])
        .arg("-CAfile")
        .arg(home.join("cloud").join("ca.pem"))
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let mut child = command.spawn().context("cannot start openssl")?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    let mut stdout = child.stdout.take().context("no standard output")?;
    let mut printed = Vec::new();
    if !input.is_empty() {
        // Sent once the handshake is over; before, it would be data.
        while !String::from_utf8_lossy(&printed).contains("Verify return code") {
            let read = timeout(HANDSHAKE, stdout.read_buf(&mut printed)).await;
            ensure!(
                read.is_ok_and(|read| read.is_ok_and(|read| read > 0)),
                "no TLS connection"
            );
        }
        stdin.write_all(input).await?;
    } else {
        drop(stdin);
    }
    let _ = timeout(HANDSHAKE, stdout.read_to_end(&mut printed)).await;
    Ok(String::from_utf8_lossy(&printed).into_owned())
}

/// Everything that testssl.sh finds worth a warning.
pub(crate) async fn testssl(context: &Context) -> Result<Vec<Row>> {
    let scene = Scene::start(context, Settings::default()).await?;
    let home = scene.world.home.path();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed =
        |name: &&str| std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
    let Some(name) = TESTSSL.into_iter().find(installed) else {
        eprintln!(
            "testssl.sh is not installed and is LEFT OUT: `cargo xtask setup` installs it where apt has it"
        );
        return Ok(Vec::new());
    };
    let findings = home.join("testssl.json");
    let entrance = &scene.entrance;
    let mut command = program(name.as_ref(), home);
    command
        .args([
            "--quiet",
            "--color",
            "0",
            "--warnings",
            "off",
            "--ip",
            &entrance.address.ip().to_string(),
        ])
        .args(["--protocols", "--std", "--fs", "--vulnerable"])
        .arg("--jsonfile")
        .arg(&findings)
        .arg(format!("{}:{}", entrance.host, entrance.address.port()));
    let (_, stdout, stderr) = finish(&mut command, SCAN).await?;
    ensure!(
        findings.exists(),
        "testssl.sh wrote nothing: {} {}",
        stdout.text(),
        stderr.text()
    );
    let findings: Vec<Value> = serde_json::from_slice(&std::fs::read(&findings)?)?;
    let severe: Vec<String> = findings
        .iter()
        .filter(|finding| {
            let severity = finding["severity"].as_str().unwrap_or_default();
            ["MEDIUM", "HIGH", "CRITICAL", "FATAL"].contains(&severity)
        })
        .map(|finding| format!("{}: {}", finding["id"], finding["finding"]))
        .collect();
    ensure!(
        findings.len() > 20,
        "testssl.sh found next to nothing: {}",
        stdout.text()
    );
    Ok(vec![Row::new(
        format!("testssl.sh, {} findings", findings.len()),
        "none of them MEDIUM or worse",
        match severe.as_slice() {
            [] => "none".to_owned(),
            some => format!("{}: {}", some.len(), some.join("; ")),
        },
        severe.is_empty(),
    )])
}
