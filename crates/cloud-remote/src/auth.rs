//! A guard in front of the application, on the device: passwords and client certificates.
//!
//! TLS ends on the device, so the relay sees neither a password nor an answer to it, and cannot
//! open the guard. Nothing of a request that is refused reaches the application: not its header,
//! not its body, and no connection is made for it. The guard holds for HTTP/1.1, HTTP/2 and
//! WebSockets over both, for every kind of [`Application`](crate::Application) that receives HTTP;
//! TLS alone enforces client certificates in front of
//! [`Application::forward_tcp`](crate::Application::forward_tcp). Connections to an application
//! that cannot be guarded as the rules demand are closed.
//!
//! - [`RemoteAccessBuilder::auth`](crate::RemoteAccessBuilder::auth) and
//!   [`RemoteAccess::set_auth`](crate::RemoteAccess::set_auth) guard the whole application, or
//!   parts of it by path; [`AuthLayer`] guards a service in this process.
//! - A request without a right password gets status 401, one without a certificate 403, and one of
//!   a caller with too many wrong passwords 429.
//! - The application learns who the caller is in the headers `Remote-User`, `X-Client-Subject`
//!   (RFC 4514) and `Client-Cert` (RFC 9440), and a service in this process also in the extensions
//!   [`AuthenticatedUser`] and [`ClientCertificate`]. A caller's own headers of these names never
//!   pass.
//! - A CORS preflight has no credentials, and is refused like any other request without them: a
//!   page of another site cannot use a guarded application.

mod basic_credentials;
mod client_roots;
mod connection_identity;
mod failure_limit;
mod identity_headers;
mod layer;
mod password_check;
mod password_file;
mod password_hash;
mod rules;

pub(crate) use self::client_roots::ClientCertificates;
pub use self::client_roots::{ClientRoots, ClientRootsError};
pub(crate) use self::connection_identity::ConnectionIdentity;
pub(crate) use self::identity_headers::REMOTE_USER;
pub use self::layer::{AuthLayer, AuthService, AuthenticatedUser, ClientCertificate};
pub use self::password_file::{MAX_PASSWORD_FILE_SIZE, PasswordFile, PasswordFileError};
pub use self::password_hash::PasswordHashError;
pub use self::rules::AuthRules;
