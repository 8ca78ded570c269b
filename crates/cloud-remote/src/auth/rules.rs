//! What callers have to show, by path.

use super::client_roots::{ClientRoots, ClientRootsError};
use super::password_file::PasswordFile;
use crate::path_prefix::PathPrefix;

/// What callers have to show before a request reaches the application: a password, a client
/// certificate, or both. The default asks for nothing.
///
/// Each rule guards the paths with a prefix. Of the rules for passwords, the one with the longest
/// prefix of a request's path holds, and independently the same of the rules for certificates.
///
/// ```
/// use cloud_remote::PathPrefix;
/// use cloud_remote::auth::{AuthRules, PasswordFile};
///
/// // Made by: htpasswd -B FILE alice
/// let file = "alice:$2y$05$WbtH8sgNwrR2sRPWTVeD9ewdVCCmIQVdFCjVSy/5v/k1VKFIKuGxu";
/// let rules = AuthRules::new().passwords(PathPrefix::root(), PasswordFile::parse(file)?);
/// # let _ = rules;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct AuthRules {
    pub(super) passwords: Vec<(PathPrefix, PasswordRule)>,
    pub(super) certificates: Vec<(PathPrefix, ClientRoots)>,
    /// The authorities of all rules, for TLS.
    roots: Option<ClientRoots>,
    pub(super) passes_authorization: bool,
}

/// The passwords of a part of the application.
#[derive(Debug, Clone)]
pub(super) struct PasswordRule {
    pub(super) file: PasswordFile,
    /// Parts of the application have different realms, so that a browser sends each its password.
    pub(super) realm: String,
}

impl AuthRules {
    /// Creates rules that ask for nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the name and password of a user of this file, by HTTP Basic authentication
    /// (RFC 7617). A second rule for a prefix replaces the first.
    #[must_use]
    pub fn passwords(mut self, prefix: PathPrefix, file: PasswordFile) -> Self {
        let prefix = prefix.ignoring_case();
        let realm = match prefix.is_root() {
            true => "device".to_owned(),
            false => format!("device {prefix}"),
        };
        self.passwords.retain(|(other, _)| *other != prefix);
        self.passwords.push((prefix, PasswordRule { file, realm }));
        self
    }

    /// Asks for a client certificate that one of these authorities has issued. A second rule for a
    /// prefix replaces the first.
    ///
    /// TLS asks every caller for a certificate, and ends a handshake with one that no rule accepts.
    ///
    /// # Errors
    /// [`ClientRootsError`]; not with roots that were accepted before.
    pub fn client_certificates(
        mut self,
        prefix: PathPrefix,
        roots: ClientRoots,
    ) -> Result<Self, ClientRootsError> {
        let prefix = prefix.ignoring_case();
        self.certificates.retain(|(other, _)| *other != prefix);
        self.certificates.push((prefix, roots));
        let mut all: Option<ClientRoots> = None;
        for (_, roots) in &self.certificates {
            all = Some(match all {
                Some(all) => all.with(roots)?,
                None => roots.clone(),
            });
        }
        self.roots = all;
        Ok(self)
    }

    /// Sets whether the header `Authorization` with a password that was checked here is passed on
    /// to the application. Default: no; the application gets the user's name in `Remote-User`.
    #[must_use]
    pub fn pass_authorization(mut self, passes: bool) -> Self {
        self.passes_authorization = passes;
        self
    }

    /// Returns whether the rules ask for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.passwords.is_empty() && self.certificates.is_empty()
    }

    /// Returns whether TLS alone can enforce the rules: without passwords, and for all paths.
    #[must_use]
    pub fn is_for_connections(&self) -> bool {
        self.passwords.is_empty() && self.certificates.iter().all(|(prefix, _)| prefix.is_root())
    }

    pub(super) fn roots(&self) -> Option<&ClientRoots> {
        self.roots.as_ref()
    }

    /// Keeps what was verified under earlier rules where it is still true.
    pub(super) fn adopt_verified(&self, earlier: &Self) {
        for (_, rule) in &self.passwords {
            for (_, before) in &earlier.passwords {
                rule.file.adopt_verified(&before.file);
            }
        }
    }
}
