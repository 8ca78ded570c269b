//! Certificates and private keys as platforms write them.
//!
//! - [`pem`]: PEM in any layout: with a byte order mark, indented, on one line, with CR, LF or
//!   CRLF.
//! - [`key`]: private keys in PKCS#8, PKCS#1 and SEC1, an EC key without its public part too; a key
//!   that TLS cannot use is refused by the name of its type.
//!
//! ```
//! # let made = rcgen::generate_simple_self_signed(vec!["device.example".to_owned()])?;
//! # let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
//! let chain = cloud_pki::pem::certificates(&chain, 10)?;
//! let certified = cloud_pki::key::certified(chain, cloud_pki::pem::private_key(&key)?)?;
//! assert_eq!(certified.cert.len(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | error | means |
//! |---|---|
//! | [`PemError`](pem::PemError) | the text is damaged, empty, or holds something else |
//! | [`KeyError`](key::KeyError) | the key is damaged, or TLS cannot use its type |
//! | [`PairError`](key::PairError) | the key cannot be used, or is not the certificate's |
//!
//! Trust is not decided here: no chain is verified, and no date is looked at. This crate is a leaf:
//! it depends on no other crate of this workspace, and any of them may depend on it.

pub mod key;
pub mod pem;
