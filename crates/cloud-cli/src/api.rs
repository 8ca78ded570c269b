//! The provisioning API client: its URL, trusted roots and proxy.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use cloud_facade::provision::{BuildError, Client, ClientBuilder};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::error::{CliError, Result, chain};
use crate::options::GlobalOptions;
use crate::proxy;
use crate::value_parsers::{ApiUrl, BYTE_ORDER_MARK};

/// Four times a full set of public roots. The limit rejects a wrong file (a disk image, a device)
/// before it is read completely.
const MAX_ROOTS_SIZE: u64 = 1024 * 1024;

/// Arguments of the commands that call the provisioning API.
#[derive(Debug, Args)]
pub(crate) struct ApiArgs {
    /// Trust the root certificates in this PEM file, besides the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

impl ApiArgs {
    /// Builds a client for the API at `url`.
    pub(crate) fn client(&self, global: &GlobalOptions, url: &ApiUrl) -> Result<Client> {
        self.build(self.builder(global, url)?)
    }

    /// Returns a builder for the client, for callers that change more of it.
    pub(crate) fn builder(&self, global: &GlobalOptions, url: &ApiUrl) -> Result<ClientBuilder> {
        let mut client = Client::builder(&url.to_string());
        if let Some(pem) = self.roots()? {
            client = client.additional_roots_pem(pem);
        }
        if let Some(proxy) = proxy::from_settings(global) {
            client = client.proxy(proxy);
        }
        Ok(client)
    }

    /// Builds the client.
    pub(crate) fn build(&self, client: ClientBuilder) -> Result<Client> {
        client
            .build()
            .map_err(|error| match (&error, &self.ca_file) {
                (BuildError::Root(_), Some(path)) => {
                    CliError::with_path("cannot use the root certificates in", path, &error)
                }
                _ => CliError::Failed(chain(&error)),
            })
    }

    /// Reads the additional roots, in PEM.
    pub(crate) fn roots(&self) -> Result<Option<Vec<u8>>> {
        self.ca_file.as_deref().map(read_roots).transpose()
    }
}

/// Reads root certificates in PEM.
pub(crate) fn read_roots(path: &Path) -> Result<Vec<u8>> {
    let pem = File::open(path)
        .and_then(read_bounded)
        .and_then(require_certificate);
    pem.map_err(|error| {
        CliError::with_path("could not read the root certificates in", path, &error)
    })
}

fn read_bounded(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut pem = Vec::new();
    reader.take(MAX_ROOTS_SIZE + 1).read_to_end(&mut pem)?;
    if pem.len() as u64 > MAX_ROOTS_SIZE {
        return Err(io::Error::other(format!(
            "more than {MAX_ROOTS_SIZE} bytes; a file of root certificates in PEM is smaller"
        )));
    }
    if pem.starts_with(&[0xff, 0xfe]) || pem.starts_with(&[0xfe, 0xff]) {
        return Err(io::Error::other("the file is UTF-16; save it as UTF-8"));
    }
    let mut mark = [0; 4];
    let mark = BYTE_ORDER_MARK.encode_utf8(&mut mark).as_bytes();
    if pem.starts_with(mark) {
        pem.drain(..mark.len());
    }
    Ok(pem)
}

/// Checks that `pem` contains at least one certificate.
fn require_certificate(pem: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut certificates = CertificateDer::pem_slice_iter(&pem);
    match certificates.try_fold(0, |count, root| root.map(|_| count + 1)) {
        Ok(0) => Err(io::Error::other("the file contains no PEM certificate")),
        Ok(_) => Ok(pem),
        Err(_) => Err(io::Error::other(
            "the file is not valid PEM, or is truncated",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_file_is_bounded_and_accepts_byte_order_mark() {
        let text = b"-----BEGIN CERTIFICATE-----";
        assert_eq!(read_bounded(&text[..]).unwrap(), text);
        assert_eq!(
            read_bounded(&[b"\xef\xbb\xbf", &text[..]].concat()[..]).unwrap(),
            text
        );
        for (wrong, why) in [
            (Box::new(io::repeat(b'x')) as Box<dyn Read>, "more than"),
            (Box::new(&b"\xff\xfe-\0"[..]), "UTF-16"),
        ] {
            let error = read_bounded(wrong).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
