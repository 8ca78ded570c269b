//! The guard as a tower layer, and as the server uses it.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use cloud_net::{LogThrottle, info_throttled, warn_throttled};
use futures_util::future::BoxFuture;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use rustls::pki_types::CertificateDer;
use tower::{Layer, Service};

use super::basic_credentials::BasicCredentials;
use super::client_roots::ClientRoots;
use super::connection_identity::ConnectionIdentity;
use super::identity_headers;
use super::password_check::{PasswordCheck, PasswordError};
use super::rules::{AuthRules, PasswordRule};
use crate::BoxError;
use crate::application::{ClientAddr, ResponseBody};
use crate::clock::PlatformClock;
use crate::path_prefix::{AmbiguousPath, Matching, PathPrefix, RequestPath};
use crate::server::error_page::{self, ErrorFormat, error_page};

/// The name of the user whose password was right, as a request extension.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AuthenticatedUser(pub Arc<str>);

/// The client's certificate that was verified, in DER, as a request extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate(pub CertificateDer<'static>);

/// A [`tower::Layer`] that lets requests pass which show what the [`AuthRules`] ask for, and
/// answers the others with status 401, 403, 429 or 503. Clones share the rules, which can be
/// [replaced](Self::set).
///
/// [`RemoteAccessBuilder::auth`](crate::RemoteAccessBuilder::auth) guards a whole application, of
/// any kind. The layer guards a part of a service that [`Application::service`] serves:
///
/// ```
/// use axum::Router;
/// use axum::routing::get;
/// use cloud_remote::Application;
/// use cloud_remote::auth::{AuthLayer, AuthRules};
///
/// let layer = AuthLayer::new(AuthRules::new());
/// let admin = Router::new().route("/admin", get(|| async { "secret" })).layer(layer.clone());
/// let router = Router::new().route("/", get(|| async { "public" })).merge(admin);
/// let application = Application::service(router);
/// // When the files have changed:
/// layer.set(AuthRules::new());
/// # let _ = application;
/// ```
///
/// A rule for client certificates needs TLS to ask for them, which it does for the rules of the
/// builder only: with certificates, use these, by path.
///
/// [`Application::service`]: crate::Application::service
#[derive(Clone)]
pub struct AuthLayer(Arc<Shared>);

struct Shared {
    rules: RwLock<Arc<AuthRules>>,
    passwords: PasswordCheck,
    clock: PlatformClock,
    password_log: LogThrottle,
    limit_log: LogThrottle,
    certificate_log: LogThrottle,
    ambiguous_log: LogThrottle,
}

impl AuthLayer {
    /// Creates a layer with these rules.
    #[must_use]
    pub fn new(rules: AuthRules) -> Self {
        Self::with_clock(rules, PlatformClock::default())
    }

    /// Creates a layer that checks dates by this clock.
    pub(crate) fn with_clock(rules: AuthRules, clock: PlatformClock) -> Self {
        Self(Arc::new(Shared {
            rules: RwLock::new(Arc::new(rules)),
            passwords: PasswordCheck::new(),
            clock,
            password_log: LogThrottle::new(),
            limit_log: LogThrottle::new(),
            certificate_log: LogThrottle::new(),
            ambiguous_log: LogThrottle::new(),
        }))
    }

    /// Replaces the rules for the next requests, also of open connections. Requests in progress and
    /// upgraded connections (WebSockets) continue.
    pub fn set(&self, rules: AuthRules) {
        let mut current = self.0.rules.write().unwrap_or_else(PoisonError::into_inner);
        rules.adopt_verified(&current);
        *current = Arc::new(rules);
    }

    /// Returns the current rules.
    pub(crate) fn rules(&self) -> Arc<AuthRules> {
        Arc::clone(&self.0.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the authorities of client certificates, if TLS is to ask for one.
    pub(crate) fn roots(&self) -> Option<ClientRoots> {
        self.rules().roots().cloned()
    }

    pub(crate) fn clock(&self) -> &PlatformClock {
        &self.0.clock
    }

    /// Checks a connection without HTTP, after its handshake.
    pub(crate) fn permits_connection(&self, connection: &ConnectionIdentity) -> bool {
        let rules = self.rules();
        rules.is_for_connections()
            && rules.certificates.iter().all(|(_, roots)| {
                let verified = connection.verify(roots, self.0.clock.for_rustls());
                matches!(verified, Some(Ok(_)))
            })
    }

    /// Returns the request for the application, or the response to one that must not reach it.
    pub(crate) async fn authorize<B>(
        &self,
        request: Request<B>,
    ) -> Result<Request<B>, Response<ResponseBody>> {
        let rules = self.rules();
        if rules.is_empty() {
            return Ok(request);
        }
        let (mut parts, body) = request.into_parts();
        self.check(&rules, &mut parts)
            .await
            .map_err(|refusal| *refusal)?;
        Ok(Request::from_parts(parts, body))
    }

    async fn check(&self, rules: &AuthRules, parts: &mut Parts) -> Result<(), Refused> {
        if !rules.certificates.is_empty() {
            identity_headers::remove_certificate(&mut parts.headers);
        }
        if !rules.passwords.is_empty() {
            identity_headers::remove_user(&mut parts.headers);
        }
        let (password, roots) = self
            .select(rules, parts)
            .map_err(|AmbiguousPath| self.ambiguous(parts))?;
        let identity = parts.extensions.get::<Arc<ConnectionIdentity>>();
        let identity = identity.cloned().unwrap_or_default();
        if let Some(roots) = roots {
            self.check_certificate(roots, &identity, parts)?;
        }
        if let Some(rule) = password {
            self.check_password(rule, &identity, parts).await?;
            if !rules.passes_authorization {
                parts.headers.remove(header::AUTHORIZATION);
            }
        }
        Ok(())
    }

    fn select<'r>(
        &self,
        rules: &'r AuthRules,
        parts: &Parts,
    ) -> Result<(Option<&'r PasswordRule>, Option<&'r ClientRoots>), AmbiguousPath> {
        let path = RequestPath::new(parts.uri.path());
        Ok((
            longest(&rules.passwords, &path)?,
            longest(&rules.certificates, &path)?,
        ))
    }

    fn check_certificate(
        &self,
        roots: &ClientRoots,
        identity: &ConnectionIdentity,
        parts: &mut Parts,
    ) -> Result<(), Refused> {
        let verified = identity.verify(roots, self.0.clock.for_rustls());
        let (caller, log) = (caller(parts), &self.0.certificate_log);
        let certificate = match verified {
            Some(Ok(certificate)) => certificate,
            Some(Err(error)) => {
                info_throttled!(log, ?caller, %error, "a client certificate was refused with status 403");
                return refuse(StatusCode::FORBIDDEN, error_page::WRONG_CERTIFICATE);
            }
            None => {
                info_throttled!(
                    log,
                    ?caller,
                    "a caller without a client certificate was refused with status 403"
                );
                return refuse(StatusCode::FORBIDDEN, error_page::NO_CERTIFICATE);
            }
        };
        let subject = identity_headers::subject(certificate);
        identity_headers::set_certificate(&mut parts.headers, certificate, subject.as_deref());
        parts
            .extensions
            .insert(ClientCertificate(certificate.clone()));
        Ok(())
    }

    async fn check_password(
        &self,
        rule: &PasswordRule,
        identity: &ConnectionIdentity,
        parts: &mut Parts,
    ) -> Result<(), Refused> {
        let Some(credentials) = BasicCredentials::of(&parts.headers) else {
            return challenge(rule, error_page::NO_PASSWORD);
        };
        let caller = caller(parts);
        let passwords = &self.0.passwords;
        match passwords
            .check(&rule.file, &credentials, caller, identity)
            .await
        {
            Ok(user) => {
                identity_headers::set_user(&mut parts.headers, &user);
                parts.extensions.insert(AuthenticatedUser(user));
                Ok(())
            }
            Err(PasswordError::Wrong { again }) => {
                if !again {
                    // A name of no user is not logged: people type passwords there.
                    let position = rule.file.position(credentials.user());
                    let user = position.and_then(|position| rule.file.user(position));
                    let user = user.map(|user| &*user.name);
                    warn_throttled!(
                        self.0.password_log,
                        ?caller,
                        user,
                        "a password was wrong, or its user is unknown"
                    );
                }
                challenge(rule, error_page::WRONG_PASSWORD)
            }
            Err(PasswordError::TooMany(wait)) => {
                warn_throttled!(
                    self.0.limit_log,
                    ?caller,
                    "too many wrong passwords: a caller is refused with status 429 for a while"
                );
                let mut refused = error_page(
                    StatusCode::TOO_MANY_REQUESTS,
                    error_page::TOO_MANY_PASSWORDS,
                );
                let seconds = (wait + Duration::from_millis(999)).as_secs().max(1);
                refused
                    .headers_mut()
                    .insert(header::RETRY_AFTER, seconds.into());
                Err(Box::new(refused))
            }
            Err(PasswordError::Busy) => {
                warn_throttled!(
                    self.0.limit_log,
                    ?caller,
                    "too many passwords to check: a caller is refused with status 503"
                );
                refuse(
                    StatusCode::SERVICE_UNAVAILABLE,
                    error_page::BUSY_WITH_PASSWORDS,
                )
            }
        }
    }

    fn ambiguous(&self, parts: &Parts) -> Refused {
        info_throttled!(
            self.0.ambiguous_log,
            caller = ?caller(parts),
            "refused with status 400: the application could read the path of a request as one with another rule"
        );
        Box::new(error_page(
            StatusCode::BAD_REQUEST,
            error_page::AMBIGUOUS_PATH,
        ))
    }
}

/// Returns the rule with the longest prefix that covers the path.
fn longest<'r, T>(
    rules: &'r [(PathPrefix, T)],
    path: &RequestPath<'_>,
) -> Result<Option<&'r T>, AmbiguousPath> {
    let ranked = rules.iter().enumerate();
    let ranked = ranked.map(|(index, (prefix, _))| (prefix, (prefix.len(), index)));
    let selected = path.select(ranked, Matching::Generous)?;
    Ok(selected.and_then(|(_, index)| Some(&rules.get(index)?.1)))
}

/// A response instead of the application's; boxed, because it is rare and large.
type Refused = Box<Response<ResponseBody>>;

fn refuse(status: StatusCode, text: &'static str) -> Result<(), Refused> {
    Err(Box::new(error_page(status, text)))
}

/// Asks for a password.
fn challenge(rule: &PasswordRule, text: &'static str) -> Result<(), Refused> {
    let mut response = error_page(StatusCode::UNAUTHORIZED, text);
    let challenge = format!("Basic realm=\"{}\", charset=\"UTF-8\"", rule.realm);
    if let Ok(challenge) = HeaderValue::from_str(&challenge) {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge);
    }
    Err(Box::new(response))
}

fn caller(parts: &Parts) -> Option<std::net::IpAddr> {
    parts
        .extensions
        .get()
        .and_then(|ClientAddr(address)| *address)
}

impl fmt::Debug for AuthLayer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("AuthLayer")
            .field(&self.rules())
            .finish()
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> AuthService<S> {
        AuthService {
            layer: self.clone(),
            inner,
        }
    }
}

/// The service of [`AuthLayer`].
#[derive(Debug, Clone)]
pub struct AuthService<S> {
    layer: AuthLayer,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for AuthService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<UnsyncBoxBody<Bytes, BoxError>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The service that is ready is used, and its clone is left for the next request.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let layer = self.layer.clone();
        let format = ErrorFormat::of(&request);
        Box::pin(async move {
            match layer.authorize(request).await {
                Ok(request) => {
                    let response = inner.call(request).await?;
                    Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
                }
                // With its text, because other layers look at the length. The server resets an
                // event stream instead.
                Err(response) => Ok(format.apply(response).unwrap_or_else(|_| {
                    error_page(
                        StatusCode::SERVICE_UNAVAILABLE,
                        error_page::BUSY_WITH_PASSWORDS,
                    )
                })),
            }
        })
    }
}
