//! Registers a device with an API that it starts itself, and shows what an error looks like.
//!
//! `cargo run -p cloud-provision --example register` needs nothing and exits 0. With a base URL and a serial number behind
//! `--`, and the provisioning key in `CLESYDE_TOKEN`, it registers with that API.

use axum::routing::post;
use axum::{Json, Router};
use cloud_provision::{Client, Provisioned, ProvisioningKey};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
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
            println!("{error}\n  worth another try: {}", error.is_retryable());
        }
    }
    Ok(())
}

fn show(provisioned: &Provisioned) {
    let (iot, remote) = (&provisioned.iot, &provisioned.remote);
    println!(
        "{} talks to {} with the key {}",
        iot.thing_name, iot.endpoint, iot.private_key
    );
    println!(
        "it is reached at https://{}/ through {}",
        remote.access_point, remote.endpoint
    );
}

/// An API that knows one device.
async fn start_api() -> Result<String> {
    let granted = answer()?;
    let register = move |Json(request): Json<Value>| async move {
        if request["sn"] == "SN0001" {
            return Json(granted);
        }
        Json(json!({"registration": {"error": "this device is not known", "thing": null}}))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = Router::new().route("/device/register", post(register));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(url)
}

fn answer() -> Result<Value> {
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
