//! The program's metrics and alert rules, as Prometheus' promtool judges them.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use integration_tests::device::{SERIAL, TestDevice};
use integration_tests::process::Process;
use testkit::wait::timeout;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::peers::{program, promtool};

/// Runs promtool with this input, and fails with its output if it finds something.
async fn check(arguments: &[&str], directory: &Path, input: &str) -> anyhow::Result<()> {
    let mut child = Command::new(promtool()?)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(input.as_bytes()).await?;
    drop(stdin);
    let output = timeout("promtool", child.wait_with_output()).await?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (out, errors) = (text(&output.stdout), text(&output.stderr));
    ensure!(
        output.status.success() && errors.is_empty(),
        "promtool {arguments:?}: {out}{errors}\n{input}"
    );
    Ok(())
}

#[tokio::test]
async fn promtool_accepts_metrics_of_running_device() -> anyhow::Result<()> {
    let device = TestDevice::provisioned().await?;
    let mut command = Command::new(program()?);
    command
        .args(["run", "--json", "--health", "127.0.0.1:0", "--sn", SERIAL])
        .arg("--base-path")
        .arg(device.base.path());
    let mut run = Process::spawn("clesyde-cloud", &mut command)?;
    let health = run.event("health").await?;
    let address = health["address"].as_str().context("no address")?;
    run.event("remote.connected").await?;
    device.fetch("").await?;
    // reqwest needs a configuration of TLS for HTTP, too.
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(testkit::tls::client("", &[]))
        .no_proxy()
        .build()?;
    let url = format!("http://{address}/metrics");
    let metrics = client.get(url).send().await?.text().await?;
    for name in [
        "clesyde_remote_requests_total{",
        "cloud_iot_acknowledgement_seconds_bucket{",
        "process_resident_memory_bytes ",
    ] {
        ensure!(metrics.contains(name), "{name} is not in: {metrics}");
    }
    check(&["check", "metrics"], device.base.path(), &metrics).await?;
    ensure!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test]
async fn promtool_accepts_alert_rules_and_their_tests() -> anyhow::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/monitoring");
    check(&["check", "rules", "alerts.yml"], &directory, "").await?;
    check(&["test", "rules", "alerts_test.yml"], &directory, "").await
}
