//! Every step of `docs/migrating.md`, as it is written there: a host of the Python library, over to
//! our program, and back.

use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use cloud_sim::Simulator;
use testkit::wait::timeout;
use tokio::process::Command;

use crate::own_network;
use crate::peers::{program, python_clesyde_0120, script};
use crate::python_device::platform_of_0_1_20;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/migrating.md");

const SERIAL: &str = "SN0001";

/// Time limit of the whole page, for a loaded machine; `timeout` ends what is left of it.
const LIMIT: &str = "600";

/// Ends the programs of the page also when a step fails.
const BEGIN: &str = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n";

#[test]
fn steps_of_migrating_page_run() -> anyhow::Result<()> {
    let Some(python) = python_clesyde_0120()? else {
        return Ok(());
    };
    own_network::run("migrating::steps_of_migrating_page_run", async {
        let simulator = Simulator::start(platform_of_0_1_20()).await?;
        let page = fs::read_to_string(PAGE)?;
        let directory = tempfile::tempdir()?;
        for program in blocks(&page, "python") {
            let name = program.lines().next().unwrap_or_default();
            let name = name
                .strip_prefix("# ")
                .context("a program names its file")?;
            fs::write(directory.path().join(name), program)?;
        }
        let steps = blocks(&page, "sh");
        ensure!(steps.len() > 4, "{steps:?}");
        let programs = [python, program()?];
        let programs = programs.iter().filter_map(|path| path.parent());
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path =
            std::env::join_paths(programs.map(Into::into).chain(std::env::split_paths(&path)))?;
        let session = Command::new("timeout")
            .args(["--kill-after=10", LIMIT, "bash", "-euxc"])
            .arg(format!("{BEGIN}{}", steps.concat()))
            .current_dir(directory.path())
            .env("PATH", path)
            .env("CLESYDE_BASE_PATH", directory.path().join("base"))
            .env("CLESYDE_SN", SERIAL)
            .env("CLESYDE_API_URL", simulator.api_url())
            .env("CLESYDE_TOKEN", simulator.provisioning_key())
            .env("CURL_CA_BUNDLE", simulator.ca_file())
            .env("PYTHONUNBUFFERED", "1")
            .kill_on_drop(true)
            .status();
        // The platform sends the action of the page until it was handled.
        let control = simulator.control();
        let platform = async {
            loop {
                // Fails until the device is registered.
                let _ = control.action(SERIAL, "restart", b"now".to_vec()).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let status = tokio::select! {
            status = session => status?,
            () = platform => return Ok(()),
        };
        let log = fs::read_to_string(directory.path().join("after.log")).unwrap_or_default();
        ensure!(status.success(), "{status}; the log of after.py:\n{log}");
        let seen = control.device(SERIAL).await?;
        assert!(!seen.online, "{seen:?}");
        let reported = seen.reported.context("nothing was reported")?;
        assert_eq!(reported["firmware"], "1.2.3");
        timeout("the simulator to stop", simulator.stop()).await;
        Ok(())
    })
}

#[tokio::test]
async fn page_names_each_public_part_of_library() -> anyhow::Result<()> {
    let Some(python) = python_clesyde_0120()? else {
        return Ok(());
    };
    let output = script(&python, "py_public_names.py").output().await?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let page = fs::read_to_string(PAGE)?;
    let first_column: String = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .collect();
    let words: Vec<&str> = first_column
        .split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'))
        .collect();
    let names = String::from_utf8(output.stdout)?;
    let missing: Vec<&str> = names.lines().filter(|name| !words.contains(name)).collect();
    ensure!(names.lines().count() > 50, "{names}");
    ensure!(missing.is_empty(), "not in the table: {missing:?}");
    Ok(())
}

/// The fenced blocks of one language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    page.split(&format!("\n```{language}\n"))
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect()
}
