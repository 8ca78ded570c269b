//! The hash of a password: bcrypt or Argon2. Faster hashes are refused.

use std::fmt;

use argon2::{Argon2, Params, PasswordVerifier};

/// Maximum cost of bcrypt; each step doubles the time of a check. Programs use 5 to 12.
const MAX_BCRYPT_COST: u32 = 14;
/// Maximum memory of Argon2, in KiB, as RFC 9106 §4 recommends for small machines. The unit of
/// the service has 256 MiB.
const MAX_ARGON2_MEMORY: u32 = 64 * 1024;
/// Maximum passes and lanes of Argon2: RFC 9106 recommends 3 and 4.
const MAX_ARGON2_PASSES: u32 = 10;
const MAX_ARGON2_LANES: u32 = 16;

/// See the [module](self). Its text is as good as the password to a patient attacker, so it is
/// never shown.
pub(super) enum PasswordHash {
    Bcrypt(Box<str>),
    Argon2(Box<argon2::PasswordHash>),
}

/// The reason for which a hash is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordHashError {
    /// A hash that is made for speed, so that guesses are cheap.
    #[error("it is hashed with {0}, which is too fast to resist guessing")]
    Weak(&'static str),
    /// No hash.
    #[error("it is a password in plain text, or hashed in an unknown way")]
    PlainText,
    /// A malformed bcrypt or Argon2 hash.
    #[error("its {0} hash is malformed")]
    Malformed(&'static str),
    /// A check would take too much time or memory of the device.
    #[error(
        "its hash takes too long to check; bcrypt's cost is at most {MAX_BCRYPT_COST}, and Argon2 uses at most \
         {MAX_ARGON2_MEMORY} KiB, {MAX_ARGON2_PASSES} passes and {MAX_ARGON2_LANES} lanes"
    )]
    TooCostly,
}

impl PasswordHash {
    pub(super) fn parse(text: &str) -> Result<Self, PasswordHashError> {
        let scheme = text
            .strip_prefix('$')
            .and_then(|rest| rest.split('$').next());
        match scheme {
            Some("2a" | "2b" | "2y") => Self::bcrypt(text),
            Some("argon2i" | "argon2d" | "argon2id") => Self::argon2(text),
            _ => Err(refusal(text, scheme)),
        }
    }

    fn bcrypt(text: &str) -> Result<Self, PasswordHashError> {
        let parts: bcrypt::HashParts = text
            .parse()
            .map_err(|_| PasswordHashError::Malformed("bcrypt"))?;
        match parts.get_cost() {
            0..=3 | 32.. => Err(PasswordHashError::Malformed("bcrypt")),
            4..=MAX_BCRYPT_COST => Ok(Self::Bcrypt(text.into())),
            _ => Err(PasswordHashError::TooCostly),
        }
    }

    fn argon2(text: &str) -> Result<Self, PasswordHashError> {
        let malformed = PasswordHashError::Malformed("Argon2");
        let hash = argon2::PasswordHash::new(text).map_err(|_| malformed)?;
        let params = Params::try_from(&hash).map_err(|_| malformed)?;
        if hash.salt.is_none() || hash.hash.is_none() {
            return Err(malformed);
        }
        if params.m_cost() > MAX_ARGON2_MEMORY
            || params.t_cost() > MAX_ARGON2_PASSES
            || params.p_cost() > MAX_ARGON2_LANES
        {
            return Err(PasswordHashError::TooCostly);
        }
        Ok(Self::Argon2(Box::new(hash)))
    }

    /// Returns whether this is the password's hash. Takes long, by design.
    pub(super) fn verify(&self, password: &[u8]) -> bool {
        match self {
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Self::Argon2(hash) => Argon2::default().verify_password(password, &**hash).is_ok(),
        }
    }

    /// Returns whether a check takes so much memory that it runs alone.
    pub(super) fn is_large(&self) -> bool {
        match self {
            Self::Bcrypt(_) => false,
            Self::Argon2(hash) => Params::try_from(&**hash)
                .is_ok_and(|params| params.m_cost() > MAX_ARGON2_MEMORY / 2),
        }
    }
}

impl PartialEq for PasswordHash {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bcrypt(one), Self::Bcrypt(other)) => one == other,
            (Self::Argon2(one), Self::Argon2(other)) => one == other,
            _ => false,
        }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Bcrypt(_) => "Bcrypt([redacted])",
            Self::Argon2(_) => "Argon2([redacted])",
        })
    }
}

/// Returns why a text is refused that is neither bcrypt nor Argon2.
fn refusal(text: &str, scheme: Option<&str>) -> PasswordHashError {
    /// The length of a hash of crypt(3) with DES, which has no mark.
    const DES_CRYPT: usize = 13;
    let is_crypt = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'/';
    match scheme {
        Some("apr1" | "1") => PasswordHashError::Weak("MD5"),
        Some("5" | "6") => PasswordHashError::Weak("SHA-2"),
        Some("2x") => PasswordHashError::Weak("a faulty variant of bcrypt"),
        _ if text.starts_with("{SHA}") || text.starts_with("{SSHA}") => {
            PasswordHashError::Weak("SHA-1")
        }
        _ if text.len() == DES_CRYPT && text.bytes().all(is_crypt) => {
            PasswordHashError::Weak("crypt")
        }
        _ => PasswordHashError::PlainText,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `htpasswd -nbB -C 4 alice secret`
    pub(crate) const BCRYPT: &str = "$2y$04$Iy2T0wCRbhlbRMOPjPlxrOw9fNBhhOBeBMvkkXzTPu8YMCHxEvGNm";

    #[test]
    fn weak_and_plain_entries_are_refused_with_the_reason() {
        for (text, reason) in [
            ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "SHA-1"),
            ("{SSHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "SHA-1"),
            ("$apr1$Jm5qvnRR$qtRIgnSBfRYBtB0KcYbm50", "MD5"),
            ("$1$Jm5qvnRR$qtRIgnSBfRYBtB0KcYbm50", "MD5"),
            (
                "$5$salt$Gcm6FsVtF/Qa77ZKD.iwsJlCVPY0XSMgLJL0Hnww/c1",
                "SHA-2",
            ),
            ("$6$salt$x", "SHA-2"),
            ("rqXexS6ZhobKA", "crypt"),
            ("secret", "plain text"),
            ("", "plain text"),
            ("$2y$04$short", "bcrypt hash is malformed"),
            ("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ", "malformed"),
            (
                "$argon2id$v=19$m=1048576,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
                "takes too long",
            ),
        ] {
            let error = PasswordHash::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let costly = BCRYPT.replacen("$04$", "$15$", 1);
        assert_eq!(
            PasswordHash::parse(&costly).err(),
            Some(PasswordHashError::TooCostly)
        );
    }

    #[test]
    fn hash_is_not_in_debug_output() {
        let hash = PasswordHash::parse(&bcrypt::hash("secret", 4).unwrap()).unwrap();
        assert_eq!(format!("{hash:?}"), "Bcrypt([redacted])");
    }

    #[test]
    fn bcrypt_and_argon2_verify_only_the_password() {
        let argon2 = argon2_hash("secret");
        for text in [bcrypt::hash("secret", 4).unwrap(), argon2] {
            let hash = PasswordHash::parse(&text).unwrap();
            assert!(hash.verify(b"secret"), "{text}");
            for wrong in ["", "secre", "Secret", "secret "] {
                assert!(!hash.verify(wrong.as_bytes()), "{text} {wrong}");
            }
        }
    }

    fn argon2_hash(password: &str) -> String {
        use argon2::PasswordHasher;
        let params = Params::new(64, 1, 1, None).unwrap();
        let argon2 = Argon2::from(params);
        let hash = argon2.hash_password_with_salt(password.as_bytes(), b"saltsalt");
        hash.unwrap().to_string()
    }
}
