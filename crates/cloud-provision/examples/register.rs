//! Registers a device with a local API that the example starts, and prints two errors.
//!
//! `cargo run -p cloud-provision --example register` needs no arguments and exits 0. With a base
//! URL and a serial number after `--`, and the provisioning key in `CLESYDE_TOKEN`, it registers
//! with that API.

use std::process::ExitCode;

use axum::routing::post;
use axum::{Json, Router};
use cloud_provision::{Client, Provisioned, ProvisioningKey};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    if let (Some(url), Some(serial)) = (arguments.next(), arguments.next()) {
        let key = ProvisioningKey::new(&std::env::var("CLESYDE_TOKEN")?)?;
        show(
            &Client::builder(&url)
                .build()?
                .register(&serial, &key)
                .await?,
        );
        return Ok(());
    }
    let client = Client::builder(&start_api().await?).build()?;
    let key = ProvisioningKey::new("4711")?;
    show(&client.register("SN0001", &key).await?);
    for serial in ["SN0002", "a/b#"] {
        if let Err(error) = client.register(serial, &key).await {
            println!("{error}\n  retryable: {}", error.is_retryable());
        }
    }
    Ok(())
}

fn show(provisioned: &Provisioned) {
    let (iot, remote) = (&provisioned.iot, &provisioned.remote);
    println!(
        "{} connects to {} with the key {}",
        iot.thing_name, iot.endpoint, iot.private_key
    );
    println!(
        "its public address is https://{}/, through {}",
        remote.access_point, remote.endpoint
    );
}

/// Starts an API that accepts one device.
async fn start_api() -> Result<String> {
    let granted = response()?;
    let register = move |Json(request): Json<Value>| async move {
        if request["sn"] == "SN0001" {
            return Json(granted);
        }
        Json(json!({"registration": {"error": "unknown device", "thing": null}}))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = Router::new().route("/device/register", post(register));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(url)
}

fn response() -> Result<Value> {
    let device = rcgen::generate_simple_self_signed(vec!["SN0001".to_owned()])?;
    let remote = rcgen::generate_simple_self_signed(vec!["sn0001.ui.example.com".to_owned()])?;
    Ok(json!({"registration": {"error": null, "thing": {
        "iot": {
            "endpoint": "abc-ats.iot.eu-west-1.amazonaws.com",
            "thing_name": "SN0001",
            "certificates": {"device_certificate": device.cert.pem(), "root_ca": device.cert.pem()},
            "keyPair": {"privateKey": device.signing_key.serialize_pem()},
        },
        "remote": {
            "endpoint": "remote.example.com",
            "access_point": "sn0001.ui.example.com",
            "cert": remote.cert.pem(),
            "pkey": remote.signing_key.serialize_pem(),
        },
    }}}))
}
