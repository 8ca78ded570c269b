//! The provisioning API, for the commands that ask it: where it is, whom to trust, and through which proxy.

use std::path::PathBuf;

use clap::Args;
use cloud_facade::provision::{Client, ClientBuilder};

use crate::cli::GlobalOptions;
use crate::failure::{Failure, Outcome, chain};
use crate::proxy;
use crate::values::ApiUrl;

/// What such a command takes.
#[derive(Debug, Args)]
pub(crate) struct ApiArgs {
    /// Trust the root certificates in this PEM file, besides the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

impl ApiArgs {
    /// A client for the API at this address.
    pub(crate) fn client(&self, global: &GlobalOptions, url: &ApiUrl) -> Outcome<Client> {
        build(self.builder(global, url)?)
    }

    /// The same, for whoever wants to change more of it.
    pub(crate) fn builder(&self, global: &GlobalOptions, url: &ApiUrl) -> Outcome<ClientBuilder> {
        let mut client = Client::builder(&url.to_string());
        if let Some(pem) = self.roots()? {
            client = client.additional_roots_pem(pem);
        }
        if let Some(proxy) = proxy::given(global)? {
            client = client.proxy(proxy);
        }
        Ok(client)
    }

    /// The roots to trust besides the system's, in PEM.
    pub(crate) fn roots(&self) -> Outcome<Option<Vec<u8>>> {
        self.ca_file
            .as_ref()
            .map(|path| {
                std::fs::read(path).map_err(|error| {
                    Failure::at("could not read the root certificates in", path, &error)
                })
            })
            .transpose()
    }
}

pub(crate) fn build(client: ClientBuilder) -> Outcome<Client> {
    client
        .build()
        .map_err(|error| Failure::Failed(chain(&error)))
}
