//! A device's directory that others have written to: a crash between two files, another program
//! after it, another device's name.

use std::time::Duration;

use anyhow::{Result, ensure};
use rcgen::{CertificateParams, KeyPair};

use crate::Context;
use crate::child::{Child, finish};
use crate::report::Row;
use crate::scene::{CALL, SN, World};

/// For a usage error.
const ERROR_LIMIT: Duration = Duration::from_secs(5);

/// A replacement is killed after it was committed, another program stores a newer pair, and then
/// our program is started.
pub(crate) async fn foreign_writer(context: &Context) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (pair, command) in [
        ("remote", "status"),
        ("iot", "status"),
        ("remote", "doctor"),
        ("remote", "run"),
    ] {
        let world = World::provisioned(context, 0).await?;
        world
            .control("DELETE", &format!("/devices/{SN}"), "")
            .await?;
        let mut killed = world.wrapped(
            &[
                "strace",
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                "trace=rename,renameat,renameat2",
                "-e",
                "inject=rename,renameat,renameat2:signal=SIGKILL:when=2",
            ],
            &["provision", "--force"],
        );
        killed.env("CLESYDE_TOKEN", world.key());
        let (code, _, stderr) = finish(&mut killed, CALL).await?;
        ensure!(
            code != Some(0),
            "the replacement was not killed: {}",
            stderr.text()
        );

        let (certificate, key) = (format!("{pair}_cert.pem"), format!("{pair}_key.pem"));
        let newer = KeyPair::generate()?;
        let name = world.configured(if pair == "iot" {
            "iot_thing_name"
        } else {
            "access_point"
        })?;
        let chain = CertificateParams::new([name])?.self_signed(&newer)?.pem();
        world.write(&certificate, &chain)?;
        world.write(&key, &newer.serialize_pem())?;

        if command == "run" {
            let mut device = Child::start("the device", &mut world.command(&["run"]))?;
            device.wait(Duration::from_secs(3)).await?;
        } else {
            finish(&mut world.command(&[command]), CALL).await?;
        }
        let kept = world.read(&certificate)? == chain && world.read(&key)? == newer.serialize_pem();
        rows.push(Row::new(
            format!("`provision --force` killed at its second rename, a newer {pair} pair from another program, then `{command}`"),
            "the newer pair is kept",
            if kept { "kept" } else { "replaced by older files" },
            kept,
        ));
    }
    Ok(rows)
}

/// The serial number of another device, as a left-over variable would give it.
pub(crate) async fn other_serial(context: &Context) -> Result<Vec<Row>> {
    const OTHER: &str = "SN-9999";
    let world = World::provisioned(context, 0).await?;
    let mut rows = Vec::new();
    for arguments in [
        &["run"][..],
        &["status"],
        &["doctor"],
        &["publish", "x", "y"],
    ] {
        let mut command = world.command(arguments);
        command.env("CLESYDE_SN", OTHER);
        let mut child = Child::start("the program", &mut command)?;
        let ended = child.wait(ERROR_LIMIT).await?;
        // The last bytes may come after the end.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let text = child.stderr().text() + &child.stdout().text();
        let names_both = text.contains(OTHER) && text.contains(SN);
        let code = ended.and_then(|(status, _)| status.code());
        rows.push(Row::new(
            format!("CLESYDE_SN of another device, `{}`", arguments.join(" ")),
            format!(
                "exit code 1 within {} s, both serial numbers named",
                ERROR_LIMIT.as_secs()
            ),
            match code {
                Some(code) => format!(
                    "exit code {code}, both named: {}",
                    if names_both { "yes" } else { "no" }
                ),
                None => "goes on".to_owned(),
            },
            code == Some(1) && names_both,
        ));
    }
    Ok(rows)
}
