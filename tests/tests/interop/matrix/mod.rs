//! Every pair of a SniTun client and a SniTun server of which at least one is ours, in every
//! version with every cipher.
//!
//! The callers' ClientHello is real, what follows is not TLS: to a relay it is all the same, and it
//! leaves the time to the tunnel. TLS and HTTP through the tunnel are in `snitun_server`.

mod device;
mod relay;
mod scenarios;
mod service;

use std::path::PathBuf;

use snitun::server::FernetKeys;
use snitun::{Cipher, ProtocolVersion};
use testkit::port::free_port;

use self::device::Device;
use self::relay::Relay;
use self::scenarios::Ends;
use self::service::Service;
use crate::peers::{python, python_clesyde_0120, python_snitun_047};

const HOST: &str = "device.example.com";

/// Who wrote a program.
#[derive(Clone)]
enum Maker {
    Us,
    /// The Python package of this interpreter.
    Python(PathBuf),
}

/// What both ends get with the token.
#[derive(Clone, Copy, Debug)]
struct Terms {
    version: ProtocolVersion,
    cipher: Cipher,
}

/// One cell: everything through the tunnel, the relay's end and return, and a little through the
/// next tunnel.
async fn cell(device: &Maker, relay: &Maker, terms: Terms) -> anyhow::Result<()> {
    let fernet_key = FernetKeys::generate_key();
    let keys = FernetKeys::from_keys(&[&*fernet_key])?;
    let port = free_port();
    let service = Service::new(terms.version);
    for first in [true, false] {
        let relay = Relay::start(relay, &fernet_key, port).await?;
        let device = Device::connect(device, relay.address, &keys, terms, &service).await?;
        if first {
            let ends = Ends {
                device: &device,
                relay: &relay,
                version: terms.version,
            };
            scenarios::everything(&ends, &service).await?;
        } else {
            scenarios::round_trips(relay.address, 3).await?;
        }
        relay.stop().await?;
        device.sees_the_end().await?;
    }
    Ok(())
}

/// All ciphers in one version.
async fn row(device: Maker, relay: Maker, version: ProtocolVersion) -> anyhow::Result<()> {
    for cipher in Cipher::ALL {
        let terms = Terms { version, cipher };
        cell(&device, &relay, terms)
            .await
            .map_err(|error| error.context(format!("{terms:?}")))?;
    }
    Ok(())
}

fn snitun_047() -> anyhow::Result<Option<Maker>> {
    Ok(python_snitun_047()?.map(Maker::Python))
}

/// What 0.40.0 speaks.
const BEFORE_VERSIONS: Terms = Terms {
    version: ProtocolVersion::V0,
    cipher: Cipher::AesCbc,
};

macro_rules! rows {
    ($($version:ident: $ours:ident, $our_device:ident, $our_relay:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $ours() -> anyhow::Result<()> {
            row(Maker::Us, Maker::Us, ProtocolVersion::$version).await
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $our_device() -> anyhow::Result<()> {
            match snitun_047()? {
                Some(python) => row(Maker::Us, python, ProtocolVersion::$version).await,
                None => Ok(()),
            }
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $our_relay() -> anyhow::Result<()> {
            match snitun_047()? {
                Some(python) => row(python, Maker::Us, ProtocolVersion::$version).await,
                None => Ok(()),
            }
        }
    )*};
}

rows! {
    V0: both_ours_version_0, our_client_python_server_version_0, python_client_our_server_version_0;
    V1: both_ours_version_1, our_client_python_server_version_1, python_client_our_server_version_1;
    V2: both_ours_version_2, our_client_python_server_version_2, python_client_our_server_version_2;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_works_with_python_server_0_40() -> anyhow::Result<()> {
    cell(&Maker::Us, &Maker::Python(python()?), BEFORE_VERSIONS).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_works_with_python_client_0_40() -> anyhow::Result<()> {
    cell(&Maker::Python(python()?), &Maker::Us, BEFORE_VERSIONS).await
}

/// What 0.45.1 speaks: versions 0 and 1, with the first cipher alone.
async fn with_0_45(device: Option<Maker>, relay: Option<Maker>) -> anyhow::Result<()> {
    let Some(python) = python_clesyde_0120()?.map(Maker::Python) else {
        return Ok(());
    };
    let device = device.unwrap_or_else(|| python.clone());
    let relay = relay.unwrap_or(python);
    for version in [ProtocolVersion::V0, ProtocolVersion::V1] {
        let cipher = Cipher::AesCbc;
        let terms = Terms { version, cipher };
        cell(&device, &relay, terms)
            .await
            .map_err(|error| error.context(format!("{terms:?}")))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_works_with_python_server_0_45() -> anyhow::Result<()> {
    with_0_45(Some(Maker::Us), None).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_works_with_python_client_0_45() -> anyhow::Result<()> {
    with_0_45(None, Some(Maker::Us)).await
}
