//! Several applications behind one public address, by host and path.
//!
//! The request reaches its application unchanged, with its whole path. Paths are compared with
//! respect to case. A path that applications could read as one of another route is refused with
//! status 400; [`PathPrefix`] says which these are.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::header::HOST;
use http::{Request, StatusCode};
use tower::ServiceExt;
use tower::util::{BoxCloneSyncService, service_fn};

use crate::application::{Application, HttpService};
use crate::path_prefix::{AmbiguousPath, Matching, PathPrefix, RequestPath};
use crate::request_policy::host::{Host, host_of};
use crate::request_policy::options::AllowedHost;
use crate::server::error_page::{self, error_page};
use crate::server::request::RequestBody;
use crate::upstream::Upstream;

/// The maximum number of routes: each request is compared with all of them.
pub const MAX_ROUTES: usize = 64;

/// Applications by host and path, and one for all other requests; for
/// [`Application::routes`].
///
/// ```
/// use cloud_remote::{Application, RouteMatch, Routes, Upstream};
///
/// let application = |port| Application::forward(Upstream::host("127.0.0.1", port));
/// let routes = Routes::new(application(8080))?
///     .route(RouteMatch::new().path("/api".parse()?), application(8081))?
///     .route(RouteMatch::new().host("admin".parse()?), application(8082))?;
/// let _application = Application::routes(routes);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Routes {
    fallback: Box<Application>,
    routes: Vec<(RouteMatch, Application)>,
}

/// An error of adding a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RoutesError {
    /// The application gets bytes, not requests.
    #[error("requests can only be distributed among applications that take HTTP")]
    NotHttp,
    /// There are [`MAX_ROUTES`] already.
    #[error("there are more than {MAX_ROUTES} routes")]
    TooMany,
    /// Another route is for the same requests.
    #[error("there are two routes for the same host and path")]
    Duplicate,
}

impl Routes {
    /// Creates routes without any: all requests are for this application.
    ///
    /// # Errors
    /// [`RoutesError::NotHttp`].
    pub fn new(fallback: Application) -> Result<Self, RoutesError> {
        Ok(Self {
            fallback: Box::new(http(fallback)?),
            routes: Vec::new(),
        })
    }

    /// Serves these requests by another application. If several routes match, one with a whole host
    /// name precedes one with a label, that one precedes one for any host, and among these the one
    /// with the longest path is used.
    ///
    /// # Errors
    /// [`RoutesError`].
    pub fn route(
        mut self,
        requests: RouteMatch,
        application: Application,
    ) -> Result<Self, RoutesError> {
        if self.routes.len() >= MAX_ROUTES {
            return Err(RoutesError::TooMany);
        }
        if self.routes.iter().any(|(other, _)| *other == requests) {
            return Err(RoutesError::Duplicate);
        }
        self.routes.push((requests, http(application)?));
        Ok(self)
    }

    /// Returns the upstreams of all applications.
    pub(crate) fn upstreams(&self) -> Vec<Upstream> {
        let routed = self.routes.iter().map(|(_, application)| application);
        let all = std::iter::once(&*self.fallback).chain(routed);
        all.flat_map(Application::upstreams).collect()
    }

    /// Returns the applications as one service, each made by `make`.
    pub(crate) fn into_service<E>(
        self,
        mut make: impl FnMut(Application) -> Result<HttpService, E>,
    ) -> Result<HttpService, E> {
        let router = Arc::new(Router {
            fallback: make(*self.fallback)?,
            routes: self
                .routes
                .into_iter()
                .map(|(requests, application)| Ok((requests, make(application)?)))
                .collect::<Result<_, E>>()?,
        });
        Ok(BoxCloneSyncService::new(service_fn(
            move |request: Request<RequestBody>| {
                let service = router.service(&request);
                async move {
                    match service {
                        Ok(service) => service.oneshot(request).await,
                        Err(AmbiguousPath) => Ok(error_page(
                            StatusCode::BAD_REQUEST,
                            error_page::AMBIGUOUS_PATH,
                        )),
                    }
                }
            },
        )))
    }
}

fn http(application: Application) -> Result<Application, RoutesError> {
    match application {
        Application::ForwardTcp { .. } | Application::Passthrough(_) => Err(RoutesError::NotHttp),
        application => Ok(application),
    }
}

/// The requests of a route: all of a host, all under a path, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
#[must_use]
pub struct RouteMatch {
    host: Option<RouteHost>,
    path: PathPrefix,
}

impl RouteMatch {
    /// Matches all requests.
    pub fn new() -> Self {
        Self::default()
    }

    /// Matches requests for this host only.
    pub fn host(mut self, host: RouteHost) -> Self {
        self.host = Some(host);
        self
    }

    /// Matches requests for this path and what is below it only.
    pub fn path(mut self, path: PathPrefix) -> Self {
        self.path = path;
        self
    }

    /// Returns the rank of the route among those that match a request for this host, if the host
    /// matches; the greatest is best.
    fn rank(&self, host: Option<&Host>) -> Option<(u8, usize)> {
        let of_host = match &self.host {
            None => 0,
            Some(expected) => expected.rank(host?)?,
        };
        Some((of_host, self.path.len()))
    }
}

/// The host of a route: a whole name or an address, or the first label of a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteHost(HostPattern);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum HostPattern {
    /// A name without a dot, in lower case.
    Label(Box<str>),
    Whole(Host),
}

/// An error of parsing a [`RouteHost`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "is neither a host without a port, such as admin.example.com, nor the first part of one, such as admin"
)]
#[non_exhaustive]
pub struct RouteHostError;

impl RouteHost {
    /// Returns the host for [`HttpOptions::allow_host`](crate::HttpOptions::allow_host): requests
    /// for other hosts than the access point are refused before they reach a route. `None` for a
    /// label, which stands for many hosts.
    #[must_use]
    pub fn allowed_host(&self) -> Option<AllowedHost> {
        match &self.0 {
            HostPattern::Whole(host) => Some(AllowedHost(host.clone())),
            HostPattern::Label(_) => None,
        }
    }

    fn rank(&self, host: &Host) -> Option<u8> {
        match (&self.0, host) {
            (HostPattern::Whole(expected), host) => (expected == host).then_some(2),
            (HostPattern::Label(label), Host::Name(name)) => {
                (name.split('.').next() == Some(label)).then_some(1)
            }
            (HostPattern::Label(_), Host::Ip(_)) => None,
        }
    }
}

impl FromStr for RouteHost {
    type Err = RouteHostError;

    fn from_str(text: &str) -> Result<Self, RouteHostError> {
        let host = Host::parse(text).ok_or(RouteHostError)?;
        Ok(Self(match host {
            Host::Name(name) if !name.contains('.') => HostPattern::Label(name),
            host => HostPattern::Whole(host),
        }))
    }
}

/// The applications of [`Routes`] as services.
struct Router {
    fallback: HttpService,
    routes: Vec<(RouteMatch, HttpService)>,
}

impl Router {
    fn service<B>(&self, request: &Request<B>) -> Result<HttpService, AmbiguousPath> {
        let host = request.headers().get(HOST).and_then(host_of);
        let routes = self.routes.iter().map(|(requests, _)| requests);
        let index = select(routes, host.as_ref(), request.uri().path())?;
        let selected = index.and_then(|index| self.routes.get(index));
        let service = selected.map_or(&self.fallback, |(_, service)| service);
        Ok(service.clone())
    }
}

/// Returns the index of the best route, if one matches.
fn select<'a>(
    routes: impl Iterator<Item = &'a RouteMatch> + Clone,
    host: Option<&Host>,
    path: &str,
) -> Result<Option<usize>, AmbiguousPath> {
    let ranked = routes
        .enumerate()
        .filter_map(|(index, route)| Some((&route.path, (route.rank(host)?, index))));
    let selected = RequestPath::new(path).select(ranked, Matching::Exact)?;
    Ok(selected.map(|(_, index)| index))
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Router")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: &str, path: &str) -> RouteMatch {
        let route = RouteMatch::new().path(path.parse().unwrap());
        match host {
            "" => route,
            host => route.host(host.parse().unwrap()),
        }
    }

    /// Returns the chosen route, -1 for none, `None` if the path is refused.
    fn chosen(routes: &[RouteMatch], host: &str, path: &str) -> Option<i32> {
        let host = Host::parse(host);
        let index = select(routes.iter(), host.as_ref(), path).ok()?;
        Some(index.map_or(-1, |index| i32::try_from(index).unwrap()))
    }

    #[test]
    fn longest_path_on_segment_boundary_is_chosen() {
        let routes = [route("", "/api"), route("", "/api/v2/"), route("", "/")];
        for (path, index) in [
            ("/", 2),
            ("/apis", 2),
            ("/api", 0),
            ("/api/", 0),
            ("/api/v2", 1),
            ("/api/v2/x", 1),
            ("/api/v20", 0),
            // Case matters.
            ("/API", 2),
        ] {
            assert_eq!(chosen(&routes, "a.example", path), Some(index), "{path}");
        }
        assert_eq!(chosen(&routes[..1], "a.example", "*"), Some(-1));
    }

    #[test]
    fn whole_host_precedes_label_precedes_any() {
        let routes = [
            route("", "/api/long"),
            route("admin", "/api"),
            route("admin.example.com", "/"),
            route("192.0.2.1", "/"),
        ];
        for (host, path, index) in [
            ("sn.example.com", "/api/long", 0),
            ("admin.other.com", "/api/long", 1),
            ("ADMIN.example.com.", "/api/long", 2),
            ("admin.other.com", "/", -1),
            ("192.0.2.1", "/", 3),
            ("192.0.2.2", "/", -1),
        ] {
            assert_eq!(chosen(&routes, host, path), Some(index), "{host}{path}");
        }
    }

    #[test]
    fn path_that_reads_as_another_route_is_refused() {
        let routes = [route("", "/api")];
        for path in [
            "/x/../api",
            "/api/../admin",
            "//api/x",
            "/./api",
            "/%61pi",
            "/api%2Fx",
            "/x%2f..%2fapi",
            "/api/%2e%2e/admin",
            "/api/%252e%252e/admin",
            "/api;v=1/x",
            "/api%3bv=1/x",
            "/api\\x",
            "/%5capi",
            "/x/..;/api",
            "/%2525252561pi",
            "/api./x",
            "/%EF%BD%81pi",
            // Nothing says what is meant.
            "/api/x/../y",
            "/a//b/../c",
            "/100%",
        ] {
            assert_eq!(chosen(&routes, "a.example", path), None, "{path}");
        }
        for (path, index) in [
            ("/api/a%2Fb", 0),
            ("/api//x", 0),
            ("/files/a%20b;c", -1),
            ("/a//b/c", -1),
            ("/%C3%A9/%ff/100%25", -1),
        ] {
            assert_eq!(chosen(&routes, "a.example", path), Some(index), "{path}");
        }
        // A route of the whole host precedes the one with a path.
        let routes = [route("", "/api"), route("a.example", "/")];
        assert_eq!(chosen(&routes, "a.example", "/x/../%61pi"), Some(1));
        // Without a path in a route for this host there is nothing to confuse.
        assert_eq!(
            chosen(&[route("b.example", "/")], "a.example", "//x/../%61"),
            Some(-1)
        );
    }

    #[test]
    fn applications_of_bytes_and_equal_routes_are_refused() {
        let upstream = || Upstream::host("127.0.0.1", 1);
        let forward = || Application::forward(upstream());
        let error = Routes::new(Application::passthrough(upstream())).unwrap_err();
        assert_eq!(error, RoutesError::NotHttp);
        let routes = Routes::new(forward()).unwrap();
        let routes = routes.route(route("", "/a"), forward()).unwrap();
        let tcp = Application::forward_tcp(upstream(), None);
        let error = routes.clone().route(route("", "/b"), tcp).unwrap_err();
        assert_eq!(error, RoutesError::NotHttp);
        let error = routes
            .clone()
            .route(route("", "/a/"), forward())
            .unwrap_err();
        assert_eq!(error, RoutesError::Duplicate);
        let many = (0..MAX_ROUTES).try_fold(routes, |routes, index| {
            routes.route(route("", &format!("/{index}")), forward())
        });
        assert_eq!(many.unwrap_err(), RoutesError::TooMany);
    }

    #[test]
    fn malformed_hosts_are_refused() {
        for bad in ["", "a:80", "*.example.com", "https://a", "a b"] {
            assert_eq!(bad.parse::<RouteHost>(), Err(RouteHostError), "{bad}");
        }
    }
}
