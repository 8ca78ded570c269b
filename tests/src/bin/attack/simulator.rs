//! A web page in the user's browser, and another user of this machine, who want to control the simulator.

use anyhow::Result;

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
            "another user of this machine, without the token",
            &own,
            json.to_owned(),
        ),
        (
            "another user of this machine, with a wrong token",
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
    let (status, _) = exchange(
        address,
        &request("POST", "/faults", &own, &header, body),
        CALL,
    )
    .await?;
    rows.push(Row::new(
        "the simulator's control API, its owner",
        "is served",
        format!("status {status}"),
        status == 200,
    ));
    Ok(rows)
}
