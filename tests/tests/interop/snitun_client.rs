//! The Python snitun client against our server.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use integration_tests::origin::{Origin, application};
use integration_tests::pki::Authority;
use integration_tests::process::Process;
use snitun::server::{FernetKeys, Server, ServerConfig, TokenContent};
use snitun::{Cipher, ProtocolVersion, SessionKey};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::peers::{python, python_snitun_047, script};
use crate::traffic::{VISITORS, exchange};

const HOST: &str = "device.example.com";

async fn python_client_against_our_server(
    python: &Path,
    version: ProtocolVersion,
    cipher: Cipher,
) -> anyhow::Result<()> {
    let authority = Authority::new("interop")?;
    let origin = Origin::start(&authority.server(&[HOST])?, application(VISITORS)).await?;

    let keys = FernetKeys::generate();
    let valid = SystemTime::now().duration_since(UNIX_EPOCH)? + Duration::from_secs(3600);
    let mut content = TokenContent::new(HOST, SessionKey::generate()?, valid.as_secs());
    (content.protocol_version, content.cipher) = (version, cipher);
    let issued = serde_json::json!({
        "token": keys.issue(&content)?,
        "aes_key": *content.key.key_hex(),
        "aes_iv": *content.key.iv_hex(),
        "protocol_version": u8::from(version),
        "cipher": cipher.to_string(),
    });
    let directory = tempfile::tempdir()?;
    let token_file = directory.path().join("token.json");
    std::fs::write(&token_file, issued.to_string())?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let relay: SocketAddr = listener.local_addr()?;
    let server = Server::new(keys, ServerConfig::default());
    let handle = server.handle();
    let mut changes = handle.subscribe();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let serving = tokio::spawn(async move { server.serve(listener, stopped.cancelled()).await });

    let mut client = Process::spawn(
        "the Python client",
        script(python, "py_snitun_client.py")
            .args([
                "--server",
                &relay.to_string(),
                "--to",
                &origin.address.to_string(),
            ])
            .arg("--token-file")
            .arg(&token_file),
    )?;
    client.event("ready").await?;
    while !handle.is_connected(HOST) {
        changes.recv().await?;
    }
    exchange(relay, HOST, &authority.pem()).await?;

    // The server going away is noticed by the client.
    stop.cancel();
    serving.await?;
    client.event("tunnel_ended").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snitun_0_40_client() -> anyhow::Result<()> {
    python_client_against_our_server(&python()?, ProtocolVersion::V0, Cipher::AesCbc).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snitun_0_47_client() -> anyhow::Result<()> {
    let Some(python) = python_snitun_047() else {
        return Ok(());
    };
    for version in [
        ProtocolVersion::V0,
        ProtocolVersion::V1,
        ProtocolVersion::V2,
    ] {
        for cipher in [Cipher::AesCbc, Cipher::AesGcm, Cipher::AesGcmSiv] {
            python_client_against_our_server(&python, version, cipher).await?;
        }
    }
    Ok(())
}
