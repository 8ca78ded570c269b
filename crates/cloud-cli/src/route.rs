//! A route of the configuration file: requests by host and path, and the application for them.

use std::path::PathBuf;

use clap::Parser;
use cloud_facade::remote::{
    AllowedHost, Application, PathPrefix, RouteHost, RouteMatch, Routes, RoutesError,
};

use crate::application_check::CheckedApplication;
use crate::error::Result;
use crate::forward_options::{FORWARD_ONLY, ForwardArgs};
use crate::forward_target::ForwardTarget;
use crate::static_files;

/// The keys of a route.
#[derive(Debug, Clone, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
pub(crate) struct RouteArgs {
    /// The host of the requests, such as admin.example.com, which is accepted then; or the first
    /// part of one, such as admin
    #[arg(long, value_name = "HOST")]
    host: Option<RouteHost>,

    /// The path of the requests, with all that is below it
    ///
    /// The longest one is used. Case matters. The web server gets the whole path.
    #[arg(long, value_name = "/PATH")]
    path: Option<PathPrefix>,

    /// Forward to this web server, as --forward does
    #[arg(long, value_name = "HOST:PORT")]
    forward: Option<ForwardTarget>,

    /// Serve the files of this directory, without the route's path in their names
    #[arg(
        long = "static",
        value_name = "DIR",
        conflicts_with = "forward",
        conflicts_with_all = FORWARD_ONLY
    )]
    static_dir: Option<PathBuf>,

    #[command(flatten)]
    options: ForwardArgs,
}

impl RouteArgs {
    /// Returns what is missing, if something is.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        if self.host.is_none() && self.path.is_none() {
            Some("a route needs 'host' or 'path'")
        } else if self.forward.is_none() && self.static_dir.is_none() {
            Some("a route needs 'forward' or 'static'")
        } else {
            None
        }
    }

    pub(crate) fn requests(&self) -> RouteMatch {
        let mut requests = RouteMatch::new();
        if let Some(host) = &self.host {
            requests = requests.host(host.clone());
        }
        if let Some(path) = &self.path {
            requests = requests.path(path.clone());
        }
        requests
    }

    /// Returns the host to accept.
    pub(crate) fn allowed_host(&self) -> Option<AllowedHost> {
        self.host.as_ref()?.allowed_host()
    }

    /// Returns the application, and what to check.
    pub(crate) fn application(&self) -> Result<(Application, Option<CheckedApplication>)> {
        if let Some(target) = &self.forward {
            let (application, checked) = self.options.application(target, "a route's forward")?;
            return Ok((application, Some(checked)));
        }
        let prefix = self.path.as_ref().map_or("", PathPrefix::as_str);
        let directory = self.static_dir.clone().unwrap_or_default();
        Ok((static_files::application(&directory, prefix)?, None))
    }
}

/// Checks that routes can be served together. Returns the index of the first that cannot.
pub(crate) fn check(routes: &[&RouteArgs]) -> Result<(), (usize, RoutesError)> {
    let any = || Application::service(axum::Router::new());
    let mut together = Routes::new(any()).map_err(|error| (0, error))?;
    for (index, route) in routes.iter().enumerate() {
        together = together
            .route(route.requests(), any())
            .map_err(|error| (index, error))?;
    }
    Ok(())
}
