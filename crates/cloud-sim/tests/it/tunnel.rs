//! The relay: a token from the platform opens a tunnel, and the public reaches the device through
//! it.

use std::sync::Arc;

use cloud_sim::{Fault, SimConfig, Simulator, TokenAnswer};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use snitun::SessionKey;
use snitun::client::{self, ClientConfig, Tunnel};
use testkit::pki::Pair;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::common::{Device, LIMIT, register, status, text, tls};

/// Asks for a token over MQTT and takes it to the relay.
async fn open_tunnel(
    sim: &Simulator,
    device: &mut Device,
    config: &SimConfig,
) -> Result<Tunnel, client::ConnectError> {
    let key = SessionKey::generate().unwrap();
    let request = json!({ "aesKey": *key.key_hex(), "aesIv": *key.iv_hex() }).to_string();
    device.publish("c/d/SN1/remotetoken/req", request).await;
    let (_, answer) = device.json().await;
    let key = key.with_cipher(config.cipher);
    let mut tunnel = ClientConfig::new(text(&answer["token"]), key);
    tunnel.version = config.protocol_version;
    let stream = TcpStream::connect(sim.relay_addr()).await.unwrap();
    tokio::time::timeout(LIMIT, client::connect(stream, tunnel))
        .await
        .unwrap()
}

/// What a browser sees at the access point, whose certificate it checks.
async fn browse(sim: &Simulator, host: &str) -> Vec<u8> {
    let stream = TcpStream::connect(sim.relay_addr()).await.unwrap();
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(tls(sim.ca_pem(), None)));
    let mut stream = connector.connect(name, stream).await.unwrap();
    stream.write_all(b"?").await.unwrap();
    let mut page = Vec::new();
    // A device that closes a channel ends the stream, with or without a TLS goodbye.
    let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut page))
        .await
        .unwrap();
    page
}

/// Ends TLS on the device and answers one caller.
async fn serve_one(tunnel: &mut Tunnel, thing: &Value) {
    let server = testkit::tls::server(&Pair {
        certificate: text(&thing["remote"]["cert"]).to_owned(),
        key: text(&thing["remote"]["pkey"]).to_owned(),
    });
    let channel = tunnel.accept().await.expect("a caller");
    let mut caller = TlsAcceptor::from(Arc::new(server))
        .accept(channel)
        .await
        .unwrap();
    let mut question = [0; 1];
    caller.read_exact(&mut question).await.unwrap();
    caller.write_all(b"hello").await.unwrap();
    caller.shutdown().await.unwrap();
}

#[tokio::test]
async fn public_reaches_device_through_each_kind_of_tunnel() {
    for (version, cipher) in [(0, "aes-cbc"), (1, "aes-gcm"), (2, "aes-gcm-siv")] {
        let mut config = SimConfig::default();
        config.protocol_version = version.try_into().unwrap();
        config.cipher = cipher.parse().unwrap();
        let sim = Simulator::start(config.clone()).await.unwrap();
        let thing = register(&sim, "SN1").await;
        let mut device = Device::connect(&sim, &thing).await;
        device.subscribe("c/d/SN1/+/res").await;
        let mut tunnel = open_tunnel(&sim, &mut device, &config).await.unwrap();
        let seen = status(&sim, "SN1", |device| device.tunnel).await;

        let ((), page) = tokio::join!(
            serve_one(&mut tunnel, &thing),
            browse(&sim, &seen.access_point)
        );
        assert_eq!(page, b"hello", "{version} {cipher}");

        let cut = sim
            .control()
            .fault(Fault::DropTunnel {
                sn: Some("SN1".into()),
            })
            .await
            .unwrap();
        assert_eq!(cut, 1);
        assert!(
            tokio::time::timeout(LIMIT, tunnel.accept())
                .await
                .unwrap()
                .is_none()
        );
        status(&sim, "SN1", |device| !device.tunnel).await;
        sim.stop().await;
    }
}

#[tokio::test]
async fn the_relay_refuses_tokens_that_are_not_good() {
    let config = SimConfig::default();
    let sim = Simulator::start(config.clone()).await.unwrap();
    let thing = register(&sim, "SN1").await;
    let mut device = Device::connect(&sim, &thing).await;
    device.subscribe("c/d/SN1/+/res").await;
    for answer in [
        TokenAnswer::Expired,
        TokenAnswer::Foreign,
        TokenAnswer::WrongKey,
    ] {
        sim.control()
            .fault(Fault::Token {
                answer: answer.clone(),
                times: 1,
            })
            .await
            .unwrap();
        assert!(
            open_tunnel(&sim, &mut device, &config).await.is_err(),
            "{answer:?}"
        );
        assert!(!sim.control().device("SN1").await.unwrap().tunnel);
    }
    let _tunnel = open_tunnel(&sim, &mut device, &config).await.unwrap();
    sim.stop().await;
}

#[tokio::test]
async fn a_token_outlives_the_simulator_if_its_directory_does() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = SimConfig::default();
    config.data_dir = Some(directory.path().to_owned());
    let first = Simulator::start(config.clone()).await.unwrap();
    let thing = register(&first, "SN1").await;
    let mut device = Device::connect(&first, &thing).await;
    device.subscribe("c/d/SN1/+/res").await;
    let key = SessionKey::generate().unwrap();
    let request = json!({ "aesKey": *key.key_hex(), "aesIv": *key.iv_hex() }).to_string();
    device.publish("c/d/SN1/remotetoken/req", request).await;
    let (_, answer) = device.json().await;
    first.stop().await;

    let second = Simulator::start(config).await.unwrap();
    let stream = TcpStream::connect(second.relay_addr()).await.unwrap();
    let config = ClientConfig::new(text(&answer["token"]), key.aes_cbc());
    let tunnel = client::connect(stream, config).await.unwrap();
    status(&second, "SN1", |device| device.tunnel).await;
    drop(tunnel);
    second.stop().await;
}
