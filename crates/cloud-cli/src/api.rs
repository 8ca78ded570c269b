//! The provisioning API, for the commands that ask it: where it is, whom to trust, and through which proxy.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use clap::Args;
use cloud_facade::provision::{BuildError, Client, ClientBuilder};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::cli::GlobalOptions;
use crate::failure::{Failure, Outcome, chain};
use crate::proxy;
use crate::values::{ApiUrl, BYTE_ORDER_MARK};

/// Four times a full set of public roots. A wrong file (a disk image, a device) is noticed before it is read whole.
const MAX_ROOTS: u64 = 1024 * 1024;

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
        self.build(self.builder(global, url)?)
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

    /// Makes the client of it.
    pub(crate) fn build(&self, client: ClientBuilder) -> Outcome<Client> {
        client
            .build()
            .map_err(|error| match (&error, &self.ca_file) {
                (BuildError::Root(_), Some(path)) => {
                    Failure::at("cannot use the root certificates in", path, &error)
                }
                _ => Failure::Failed(chain(&error)),
            })
    }

    /// The roots to trust besides the system's, in PEM.
    pub(crate) fn roots(&self) -> Outcome<Option<Vec<u8>>> {
        let read = |path: &PathBuf| {
            let pem = File::open(path)
                .and_then(bounded)
                .and_then(with_certificates);
            pem.map_err(|error| {
                Failure::at("could not read the root certificates in", path, &error)
            })
        };
        self.ca_file.as_ref().map(read).transpose()
    }
}

fn bounded(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut pem = Vec::new();
    reader.take(MAX_ROOTS + 1).read_to_end(&mut pem)?;
    if pem.len() as u64 > MAX_ROOTS {
        return Err(io::Error::other(format!(
            "more than {MAX_ROOTS} bytes are no file of roots; name one in PEM"
        )));
    }
    if pem.starts_with(&[0xff, 0xfe]) || pem.starts_with(&[0xfe, 0xff]) {
        return Err(io::Error::other(
            "it is UTF-16, as a Windows editor or shell writes it; save it as UTF-8",
        ));
    }
    let mut mark = [0; 4];
    let mark = BYTE_ORDER_MARK.encode_utf8(&mut mark).as_bytes();
    if pem.starts_with(mark) {
        pem.drain(..mark.len());
    }
    Ok(pem)
}

/// Whether there is a certificate in it, which is all that can be said before they are used.
fn with_certificates(pem: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut certificates = CertificateDer::pem_slice_iter(&pem);
    match certificates.try_fold(0, |count, root| root.map(|_| count + 1)) {
        Ok(0) => Err(io::Error::other("there is no certificate in PEM in it")),
        Ok(_) => Ok(pem),
        Err(_) => Err(io::Error::other("it is not valid PEM, or cut off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_bounded_and_read_as_a_windows_editor_saves_them() {
        let text = b"-----BEGIN CERTIFICATE-----";
        assert_eq!(bounded(&text[..]).unwrap(), text);
        assert_eq!(
            bounded(&[b"\xef\xbb\xbf", &text[..]].concat()[..]).unwrap(),
            text
        );
        for (wrong, why) in [
            (Box::new(io::repeat(b'x')) as Box<dyn Read>, "more than"),
            (Box::new(&b"\xff\xfe-\0"[..]), "UTF-16"),
        ] {
            let error = bounded(wrong).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
