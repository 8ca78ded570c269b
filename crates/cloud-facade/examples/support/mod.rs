//! The platform of an example: the one that the arguments name, or a simulator in this process.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cloud_facade::provision::ProvisioningKey;
use cloud_sim::{Control, SimConfig, Simulator};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Where the devices register and where they keep their configuration.
pub(crate) struct Platform {
    /// The provisioning API.
    pub(crate) api_url: String,
    /// The provisioning key.
    pub(crate) key: ProvisioningKey,
    base_path: PathBuf,
    simulator: Option<(Simulator, tempfile::TempDir)>,
}

#[allow(dead_code, reason = "each example uses a part of it")]
impl Platform {
    /// Takes `<base path> <API URL>` from the arguments and the provisioning key from
    /// `CLESYDE_TOKEN`. Without arguments, starts a simulator with a temporary directory.
    pub(crate) async fn from_arguments() -> Result<Self> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        match arguments.as_slice() {
            [] => Self::simulated().await,
            [base_path, api_url] => Ok(Self {
                api_url: api_url.clone(),
                key: ProvisioningKey::new(
                    &std::env::var("CLESYDE_TOKEN")
                        .map_err(|_| "set CLESYDE_TOKEN to the provisioning key of the platform")?,
                )?,
                base_path: base_path.into(),
                simulator: None,
            }),
            _ => Err("arguments: none, or <base path> <API URL>".into()),
        }
    }

    async fn simulated() -> Result<Self> {
        let simulator = Simulator::start(SimConfig::default()).await?;
        let directory = tempfile::tempdir()?;
        Ok(Self {
            api_url: simulator.api_url(),
            key: ProvisioningKey::new(simulator.provisioning_key())?,
            base_path: directory.path().to_owned(),
            simulator: Some((simulator, directory)),
        })
    }

    /// The directory for the configuration of the devices.
    pub(crate) fn base_path(&self) -> &Path {
        &self.base_path
    }

    /// Controls the simulator; `None` with another platform.
    pub(crate) fn control(&self) -> Option<Control> {
        let (simulator, _) = self.simulator.as_ref()?;
        Some(simulator.control())
    }

    /// Fetches the page of a device as a caller from the Internet does, through the simulator's
    /// relay.
    pub(crate) async fn get(&self, access_point: &str) -> Result<String> {
        let (simulator, _) = self.simulator.as_ref().ok_or("there is no simulator")?;
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(simulator.ca_pem().as_bytes()) {
            roots.add(root?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let relay = simulator.relay_addr();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .resolve(access_point, relay)
            .no_proxy()
            .build()?;
        let url = format!("https://{access_point}:{}/", relay.port());
        let response = client.get(url).send().await?.error_for_status()?;
        Ok(response.text().await?)
    }

    /// Stops the simulator.
    pub(crate) async fn stop(self) {
        if let Some((simulator, _directory)) = self.simulator {
            simulator.stop().await;
        }
    }
}

/// Waits for Ctrl-C, or SIGTERM of a supervisor such as systemd.
#[allow(dead_code, reason = "each example uses a part of it")]
pub(crate) async fn shutdown_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        stopped = tokio::signal::ctrl_c() => stopped?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
