//! A web page in the user's browser, and another user of this machine, who want to control the
//! simulator.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::Context;
use crate::plain_http::{exchange, request};
use crate::report::Row;
use crate::scene::{CALL, World};

pub(crate) async fn control(context: &Context) -> Result<Vec<Row>> {
    let world = World::start(context, 0).await?;
    let address = world.control_address()?;
    let own = address.to_string();
    let proof = world.control_proof()?;
    let json = "Content-Type: application/json\r\n";
    let body = r#"{"fault":"clear"}"#;
    let mut rows = Vec::new();
    let attempts = [
        (
            "a cross-site form (text/plain, foreign Origin)",
            &own,
            format!("Content-Type: text/plain\r\nOrigin: https://evil.example\r\n{proof}"),
        ),
        ("a post without a content type", &own, proof.clone()),
        (
            "a foreign Origin",
            &own,
            format!("{json}Origin: https://evil.example\r\n{proof}"),
        ),
        (
            "the Origin null",
            &own,
            format!("{json}Origin: null\r\n{proof}"),
        ),
        (
            "a foreign Host (DNS rebinding)",
            &"evil.example".to_owned(),
            format!("{json}{proof}"),
        ),
        (
            "a wrong token",
            &own,
            format!("{json}Authorization: Bearer 0000\r\n"),
        ),
    ];
    for (name, host, header) in attempts {
        let (status, _) = exchange(
            address,
            &request("POST", "/faults", host, &header, body),
            CALL,
        )
        .await?;
        rows.push(Row::new(
            format!("the simulator's control API, {name}"),
            "is refused",
            format!("status {status}"),
            (400..500).contains(&status),
        ));
    }
    let header = format!("{json}{proof}");
    let owner = request("POST", "/faults", &own, &header, body);
    let (status, _) = exchange(address, &owner, CALL).await?;
    rows.push(Row::new(
        "the simulator's control API, its owner",
        "is served",
        format!("status {status}"),
        status == 200,
    ));
    let status = as_another_user(&own, body)?;
    let refused = status.as_deref().is_none_or(|status| status == "401");
    rows.push(Row::new(
        "the simulator's control API, another user of this machine, without the token",
        "is refused",
        status.map_or(
            "NOT TRIED: only root can be another user".to_owned(),
            |status| format!("status {status}"),
        ),
        refused,
    ));
    Ok(rows)
}

/// The status that another user gets for a whole request but for the token; `None` if this process
/// cannot be another user.
fn as_another_user(address: &str, body: &str) -> Result<Option<String>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .args(["curl", "--silent", "--output", "/dev/null"])
        .args(["--write-out", "%{http_code}", "--header"])
        .args(["Content-Type: application/json", "--data", body])
        .arg(format!("http://{address}/faults"))
        .output()
        .context("could not run curl as another user")?;
    Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
}
