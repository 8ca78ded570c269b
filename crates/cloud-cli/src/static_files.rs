//! A directory that is served as files.
//!
//! Symbolic links are followed, and no directory is listed.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{HeaderValue, LOCATION};
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{Request, Response, StatusCode};
use cloud_facade::remote::{Application, RequestBody};
use tower::ServiceExt;
use tower::service_fn;
use tower_http::services::ServeDir;

use crate::error::{CliError, Result};

/// Returns the application that serves `directory` for the paths below `prefix`.
pub(crate) fn application(directory: &Path, prefix: &str) -> Result<Application> {
    let opened = std::fs::read_dir(directory);
    opened.map_err(|error| CliError::with_path("cannot serve the directory", directory, &error))?;
    let files = ServeDir::new(directory);
    let prefix: Arc<str> = prefix.trim_end_matches('/').into();
    let service = service_fn(move |request: Request<RequestBody>| {
        serve(files.clone(), Arc::clone(&prefix), request)
    });
    Ok(Application::service(service))
}

async fn serve<B: Send + 'static>(
    files: ServeDir,
    prefix: Arc<str>,
    mut request: Request<B>,
) -> Result<Response<Body>, Infallible> {
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", PathAndQuery::as_str);
    let rest = path.strip_prefix(&*prefix).unwrap_or(path);
    if !rest.starts_with('/') {
        // The directory itself: links in its index are relative to it.
        return Ok(redirect(&format!("{prefix}/{rest}")));
    }
    *request.uri_mut() = rest.parse().unwrap_or_else(|_| Uri::from_static("/"));
    let mut response = files.oneshot(request).await?.map(Body::new);
    let location = response.headers().get(LOCATION);
    if let Some(location) = location.and_then(|location| location.to_str().ok())
        && let Ok(location) = HeaderValue::from_str(&format!("{prefix}{location}"))
    {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

fn redirect(location: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_below_prefix_are_served_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(root.join("index.html"), "home").unwrap();
        std::fs::write(root.join("sub/index.html"), "sub").unwrap();
        std::fs::write(directory.path().join("secret"), "secret").unwrap();
        for (prefix, path, status, expected) in [
            ("/docs", "/docs/", 200, "home"),
            ("/docs", "/docs/sub/", 200, "sub"),
            ("/docs", "/docs/sub/index.html?x", 200, "sub"),
            ("/docs", "/docs?x", 307, "/docs/?x"),
            ("/docs", "/docs/sub", 307, "/docs/sub/"),
            ("", "/sub", 307, "/sub/"),
            ("", "/", 200, "home"),
            ("/docs", "/docs/missing", 404, ""),
            ("/docs", "/docs/../secret", 404, ""),
            ("/docs", "/docs/..%2fsecret", 404, ""),
            ("/docs", "/docs/%2e%2e/secret", 404, ""),
        ] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let response = serve(ServeDir::new(&root), prefix.into(), request)
                .await
                .unwrap();
            assert_eq!(response.status(), status, "{path}");
            let location = response.headers().get(LOCATION).cloned();
            let body = axum::body::to_bytes(response.into_body(), 1_000)
                .await
                .unwrap();
            let shown = location.map_or(body.to_vec(), |value| value.as_bytes().to_vec());
            assert_eq!(String::from_utf8_lossy(&shown), expected, "{path}");
        }
        application(&directory.path().join("secret"), "").unwrap_err();
    }
}
