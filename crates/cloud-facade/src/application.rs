//! What a host may give as its application: a service, an address, or an [`Application`].

use std::net::SocketAddr;

use bytes::Bytes;
use cloud_remote::{Application, BoxError, RequestBody, Upstream};
use http::{Request, Response};
use http_body::Body;
use tower::Service;

/// A type that the tunnel can serve: an `axum::Router` or another [`tower::Service`] over HTTP, the
/// address of a local web server, or any [`Application`].
///
/// `Kind` only separates the implementations; the compiler infers it.
pub trait IntoApplication<Kind> {
    /// Converts it.
    fn into_application(self) -> Application;
}

/// The kind of an [`Application`], in [`IntoApplication`].
#[derive(Debug)]
pub enum Ready {}

/// The kind of a local web server's address, in [`IntoApplication`].
#[derive(Debug)]
pub enum Address {}

impl IntoApplication<Ready> for Application {
    fn into_application(self) -> Application {
        self
    }
}

impl IntoApplication<Address> for SocketAddr {
    fn into_application(self) -> Application {
        Application::forward(self)
    }
}

impl IntoApplication<Address> for Upstream {
    fn into_application(self) -> Application {
        Application::forward(self)
    }
}

impl<S, B> IntoApplication<Response<B>> for S
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn into_application(self) -> Application {
        Application::service(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind<K>(application: impl IntoApplication<K>) -> String {
        format!("{:?}", application.into_application())
    }

    #[test]
    fn router_address_and_application_are_accepted() {
        let address: SocketAddr = ([127, 0, 0, 1], 8080).into();
        assert_eq!(kind(axum::Router::new()), "Service");
        assert_eq!(kind(address), "Forward(127.0.0.1:8080)");
        assert_eq!(
            kind(Application::passthrough(address)),
            "Passthrough(127.0.0.1:8080)"
        );
    }
}
