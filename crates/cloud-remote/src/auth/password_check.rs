//! Checks passwords: a bounded number at once, off the threads that serve connections, each wrong
//! one at the same cost, and a right one by its hash only once.
//!
//! After a password was verified, its user has a tag of it, made with a key that exists in this
//! process only. The tag answers later requests. It answers for right passwords alone: a wrong one
//! takes the way of one for an unknown user, so that the time says nothing.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ring::hmac;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::basic_credentials::BasicCredentials;
use super::connection_identity::{CheckedPassword, ConnectionIdentity};
use super::failure_limit::FailureLimit;
use super::password_file::{CredentialTag, PasswordFile, User};

/// Checks by hash at once. Each takes a core for its time, and boards have few.
const CHECKS: u32 = 2;
/// The maximum time that a request waits for its check: callers have little patience.
const TIMEOUT: Duration = Duration::from_secs(30);

/// See the [module](self).
pub(super) struct PasswordCheck {
    key: Zeroizing<[u8; 32]>,
    checks: Arc<Semaphore>,
    failures: FailureLimit,
}

/// Why a password is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PasswordError {
    /// It is wrong, or there is no such user.
    Wrong {
        /// Whether this was found for an earlier request of the connection.
        again: bool,
    },
    /// There were too many wrong ones; another may be tried after this time.
    TooMany(Duration),
    /// There are too many checks.
    Busy,
}

impl PasswordCheck {
    pub(super) fn new() -> Self {
        Self {
            key: Zeroizing::new(rand::random()),
            checks: Arc::new(Semaphore::new(CHECKS as usize)),
            failures: FailureLimit::default(),
        }
    }

    /// Returns the user's name.
    pub(super) async fn check(
        &self,
        file: &PasswordFile,
        credentials: &BasicCredentials,
        address: Option<IpAddr>,
        connection: &ConnectionIdentity,
    ) -> Result<Arc<str>, PasswordError> {
        let checked = self.check_once(file, credentials, address, connection);
        timeout(TIMEOUT, checked)
            .await
            .unwrap_or(Err(PasswordError::Busy))
    }

    async fn check_once(
        &self,
        file: &PasswordFile,
        credentials: &BasicCredentials,
        address: Option<IpAddr>,
        connection: &ConnectionIdentity,
    ) -> Result<Arc<str>, PasswordError> {
        let tag = self.tag(&[credentials.user(), credentials.password()]);
        let mut last = connection.password.lock().await;
        if let Some(last) = &*last
            && last.file.is(file)
            && is_equal(&last.tag, &tag)
        {
            let user = last.user.and_then(|position| file.user(position));
            return user
                .map(|user| Arc::clone(&user.name))
                .ok_or(PasswordError::Wrong { again: true });
        }
        let attempt = self.failures.attempt(address).await;
        let attempt = attempt.map_err(PasswordError::TooMany)?;
        let found = file.position(credentials.user());
        let position = found.unwrap_or_else(|| self.decoy(credentials.user()));
        let user = file.user(position).ok_or(PasswordError::Busy)?;
        let was_verified = user
            .verified
            .get()
            .is_some_and(|verified| is_equal(verified, &tag));
        let is_right = found.is_some()
            & (was_verified
                || self
                    .verify(file, position, user, credentials.password())
                    .await?);
        if is_right {
            attempt.succeeded();
            // Another request may have been faster.
            let _ = user.verified.set(tag.clone());
        }
        *last = Some(CheckedPassword {
            file: file.clone(),
            tag,
            user: is_right.then_some(position),
        });
        match is_right {
            true => Ok(Arc::clone(&user.name)),
            false => Err(PasswordError::Wrong { again: false }),
        }
    }

    /// Compares a password with the hash of a user.
    async fn verify(
        &self,
        file: &PasswordFile,
        position: usize,
        user: &User,
        password: &[u8],
    ) -> Result<bool, PasswordError> {
        let places = if user.hash.is_large() { CHECKS } else { 1 };
        let permit = Arc::clone(&self.checks).acquire_many_owned(places).await;
        let permit = permit.map_err(|_| PasswordError::Busy)?;
        let (file, password) = (file.clone(), Zeroizing::new(password.to_vec()));
        // The check holds its place to its end, even if the caller leaves.
        let verified = spawn_blocking(move || {
            let _permit = permit;
            let user = file.user(position);
            user.is_some_and(|user| user.hash.verify(&password))
        });
        verified.await.map_err(|_| PasswordError::Busy)
    }

    /// Returns the place of the user whose hash costs an unknown user's check its time: the same
    /// for each check of a name.
    fn decoy(&self, name: &[u8]) -> usize {
        let tag = self.tag(&[name]);
        tag.iter().fold(0_usize, |number, byte| {
            number.wrapping_mul(251).wrapping_add(usize::from(*byte))
        })
    }

    fn tag(&self, parts: &[&[u8]]) -> CredentialTag {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*self.key);
        let mut context = hmac::Context::with_key(&key);
        for part in parts {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let mut tag = Zeroizing::new([0; 32]);
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}

/// Compares tags in constant time.
fn is_equal(one: &CredentialTag, other: &CredentialTag) -> bool {
    use subtle::ConstantTimeEq;

    one.as_slice().ct_eq(other.as_slice()).into()
}

impl std::fmt::Debug for PasswordCheck {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("PasswordCheck")
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use http::HeaderMap;

    use super::*;

    const WRONG: PasswordError = PasswordError::Wrong { again: false };

    fn credentials(user: &str, password: &str) -> BasicCredentials {
        let value = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let mut headers = HeaderMap::new();
        headers.insert("authorization", value.parse().unwrap());
        BasicCredentials::of(&headers).unwrap()
    }

    fn file() -> PasswordFile {
        let hash = |password| bcrypt::hash(password, 4).unwrap();
        let text = format!("alice:{}\nbob:{}", hash("one"), hash("two"));
        PasswordFile::parse(&text).unwrap()
    }

    fn address(number: u8) -> Option<IpAddr> {
        Some([192, 0, 2, number].into())
    }

    async fn check(
        check: &PasswordCheck,
        file: &PasswordFile,
        (user, password): (&str, &str),
        address: Option<IpAddr>,
    ) -> Result<Arc<str>, PasswordError> {
        let connection = ConnectionIdentity::default();
        let credentials = credentials(user, password);
        check.check(file, &credentials, address, &connection).await
    }

    #[tokio::test]
    async fn only_right_pairs_are_accepted_and_verified_by_hash_once() {
        let (passwords, file) = (PasswordCheck::new(), file());
        for round in 0..2 {
            let user = check(&passwords, &file, ("alice", "one"), address(1)).await;
            assert_eq!(user.as_deref(), Ok("alice"), "{round}");
            for pair in [("alice", "two"), ("bob", "one"), ("carol", "one"), ("", "")] {
                let result = check(&passwords, &file, pair, address(1)).await;
                assert_eq!(result, Err(WRONG), "{pair:?}");
            }
        }
        // The other user was never verified, so no tag answers for it.
        assert!(file.user(0).unwrap().verified.get().is_some());
        assert!(file.user(1).unwrap().verified.get().is_none());
        // The tag answers while no check by hash is possible.
        passwords.checks.close();
        let user = check(&passwords, &file, ("alice", "one"), address(2)).await;
        assert_eq!(user.as_deref(), Ok("alice"));
        let other = check(&passwords, &file, ("bob", "two"), address(2)).await;
        assert_eq!(other, Err(PasswordError::Busy));
    }

    /// A wrong password, an unknown user and a user that was verified before all need the hash.
    #[tokio::test]
    async fn wrong_password_and_unknown_user_cost_the_same() {
        let (passwords, file) = (PasswordCheck::new(), file());
        check(&passwords, &file, ("alice", "one"), address(1))
            .await
            .unwrap();
        passwords.checks.close();
        for pair in [
            ("alice", "x"),
            ("bob", "x"),
            ("carol", "x"),
            ("carol", "one"),
        ] {
            let result = check(&passwords, &file, pair, address(1)).await;
            assert_eq!(result, Err(PasswordError::Busy), "{pair:?}");
        }
    }

    #[tokio::test]
    async fn right_password_is_refused_after_too_many_wrong_ones() {
        let (passwords, file) = (PasswordCheck::new(), file());
        check(&passwords, &file, ("alice", "one"), address(1))
            .await
            .unwrap();
        let mut last = Ok(());
        for number in 0..20 {
            let pair = ("alice", &*number.to_string());
            last = check(&passwords, &file, pair, address(1)).await.map(drop);
        }
        assert!(matches!(last, Err(PasswordError::TooMany(_))), "{last:?}");
        // Otherwise the answer would say that the guess is right.
        let right = check(&passwords, &file, ("alice", "one"), address(1)).await;
        assert!(matches!(right, Err(PasswordError::TooMany(_))), "{right:?}");
        // Another caller is not affected.
        check(&passwords, &file, ("alice", "one"), address(2))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn connection_remembers_its_last_result() {
        let (passwords, file) = (PasswordCheck::new(), file());
        let connection = ConnectionIdentity::default();
        let check = async |file: &PasswordFile, pair: (&str, &str)| {
            let credentials = credentials(pair.0, pair.1);
            passwords
                .check(file, &credentials, address(1), &connection)
                .await
        };
        // The requests of a page with a wrong password count once.
        assert_eq!(check(&file, ("alice", "x")).await, Err(WRONG));
        for _ in 0..100 {
            let result = check(&file, ("alice", "x")).await;
            assert_eq!(result, Err(PasswordError::Wrong { again: true }));
        }
        check(&file, ("alice", "one")).await.unwrap();
        // An attack from the same address does not end the session.
        for number in 0..20 {
            let connection = ConnectionIdentity::default();
            let credentials = credentials("alice", &number.to_string());
            let _ = passwords
                .check(&file, &credentials, address(1), &connection)
                .await;
        }
        assert_eq!(check(&file, ("alice", "one")).await.as_deref(), Ok("alice"));
        // Another file is another question.
        let other = PasswordFile::parse(
            "alice:$2y$04$Iy2T0wCRbhlbRMOPjPlxrOw9fNBhhOBeBMvkkXzTPu8YMCHxEvGNm",
        );
        let result = check(&other.unwrap(), ("alice", "one")).await;
        assert!(
            matches!(result, Err(PasswordError::TooMany(_))),
            "{result:?}"
        );
    }

    #[tokio::test]
    async fn checks_at_once_are_bounded() {
        let (passwords, file) = (Arc::new(PasswordCheck::new()), file());
        let held = Arc::clone(&passwords.checks)
            .acquire_many_owned(CHECKS)
            .await
            .unwrap();
        let waiting = tokio::spawn({
            let (passwords, file) = (Arc::clone(&passwords), file.clone());
            async move { check(&passwords, &file, ("alice", "one"), address(1)).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(held);
        assert_eq!(waiting.await.unwrap().as_deref(), Ok("alice"));
    }
}
