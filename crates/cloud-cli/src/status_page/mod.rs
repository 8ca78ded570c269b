//! The status page that `run` serves through the tunnel by default: one sentence on the state of
//! the device, and what it is based on.
//!
//! It shows only what any visitor may know, who already has the device's certificate from the TLS
//! handshake: no addresses of other visitors. On this machine the health endpoints serve it too,
//! whatever the tunnel serves; only there it names the applications behind the tunnel. It has no
//! external resources, and nothing that can be changed from outside. `/` is HTML for browsers and
//! text for other clients such as curl; `/status.json` is for programs; `/events` sends the parts
//! of the page that change.

mod facts;
mod history;
mod maker;
mod plot;
pub(crate) mod qr_code;
mod verdict;
mod view;
pub(crate) mod words;

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::get;
use cloud_facade::config::{CertificateInfo, CredentialSlot, DeviceConfig, SerialNumber, Store};
use cloud_facade::remote::TunnelStatus;
use cloud_facade::{ClesydeCloud, Event, WeakClesydeCloud};
use futures_util::stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::facts::{Certificate, Facts, Link, Outage};
use self::history::{History, Sample};
pub(crate) use self::maker::{Maker, MakerOptions, check_logo};
use self::view::{Identity, Parts};
use crate::application_check::ApplicationStates;
use crate::ticks::ticks;

/// Interval at which the traffic is sampled: short visits count, and the device wakes rarely.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);

/// Interval at which an open page is brought up to date.
const UPDATE_INTERVAL: Duration = Duration::from_secs(1);

/// The page of one device. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct StatusPage(Arc<Page>);

#[derive(Debug)]
struct Page {
    identity: Identity,
    maker: Maker,
    started: SystemTime,
    state: Mutex<State>,
    /// Ends open event streams, which would hold up a stop.
    stopped: watch::Sender<bool>,
}

/// The readers of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Audience {
    Public,
    /// On this machine.
    Local,
}

/// What the page remembers.
#[derive(Debug, Default)]
struct State {
    cloud: Option<WeakClesydeCloud>,
    applications: Option<ApplicationStates>,
    /// Whether the tunnel serves another application than this page.
    is_replaced: bool,
    url: Option<String>,
    iot_retry_at: Option<SystemTime>,
    /// Since when a connection that was established is down.
    iot_lost: Option<SystemTime>,
    remote_lost: Option<SystemTime>,
    iot_was_up: bool,
    remote_was_up: bool,
    last_outage: Option<Outage>,
    certificate: Option<Certificate>,
    history: History,
}

impl State {
    fn update(&mut self, event: &Event, now: SystemTime) {
        match event {
            Event::IotConnected => {
                self.iot_was_up = true;
                self.iot_retry_at = None;
                self.end_outage("messaging", |state| &mut state.iot_lost, now);
            }
            Event::IotDisconnected { retry_in, .. } => {
                self.iot_retry_at = now.checked_add(*retry_in);
                if self.iot_was_up {
                    self.iot_lost.get_or_insert(now);
                }
            }
            Event::RemoteConnected { url } => {
                self.remote_was_up = true;
                self.url = Some(url.clone());
                self.end_outage("remote access", |state| &mut state.remote_lost, now);
            }
            Event::RemoteDisconnected { .. } if self.remote_was_up => {
                self.remote_lost.get_or_insert(now);
            }
            _ => {}
        }
    }

    fn end_outage(
        &mut self,
        of: &'static str,
        lost: impl Fn(&mut Self) -> &mut Option<SystemTime>,
        until: SystemTime,
    ) {
        if let Some(from) = lost(self).take() {
            self.last_outage = Some(Outage { of, from, until });
        }
    }
}

impl StatusPage {
    /// Creates the page of a device that is not connected yet. Without a certificate, the page is
    /// unreachable.
    pub(crate) fn new<R>(
        sn: &SerialNumber,
        config: &DeviceConfig<R>,
        certificate: Option<&CertificateInfo>,
        maker: Maker,
    ) -> Self {
        let identity = Identity {
            sn: sn.to_string(),
            access_point: config.access_point.to_string(),
            name: maker.name.clone(),
            model: maker.model.clone(),
            version: env!("CARGO_PKG_VERSION"),
        };
        let state = State {
            certificate: certificate.map(Certificate::from),
            ..State::default()
        };
        Self(Arc::new(Page {
            identity,
            maker,
            started: SystemTime::now(),
            state: Mutex::new(state),
            stopped: watch::Sender::new(false),
        }))
    }

    /// Shows this device from now on, until it is dropped or the page is [stopped](Self::stop).
    pub(crate) fn follow(
        &self,
        cloud: &ClesydeCloud,
        store: Store,
        applications: ApplicationStates,
    ) {
        {
            let mut state = self.state();
            state.cloud = Some(cloud.downgrade());
            state.applications = Some(applications);
        }
        let page = self.clone();
        let mut rotations = cloud.events();
        let mut stopped = self.0.stopped.subscribe();
        let follow = async move {
            let started = Instant::now();
            let mut samples = ticks(SAMPLE_INTERVAL);
            page.sample(started);
            loop {
                tokio::select! {
                    _ = samples.tick() => page.sample(started),
                    event = rotations.recv() => match event {
                        Err(RecvError::Closed) => return,
                        // A rotation may be among the missed events.
                        Ok(Event::RemoteCertificateRotated { .. }) | Err(RecvError::Lagged(_)) => {
                            page.read_certificate(&store).await;
                        }
                        Ok(_) => {}
                    },
                }
            }
        };
        tokio::spawn(async move {
            tokio::select! {
                () = follow => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
        });
    }

    fn sample(&self, started: Instant) {
        let facts = self.facts(SystemTime::now(), Audience::Public);
        let mut state = self.state();
        let sample = Sample {
            sent: facts.sent,
            received: facts.received,
            visitors: facts.visitors,
            down: state.iot_lost.or(state.remote_lost).is_some(),
        };
        let minute = started.elapsed().as_secs() / 60;
        state.history.record(minute, sample);
    }

    async fn read_certificate(&self, store: &Store) {
        let store = store.clone();
        let read = tokio::task::spawn_blocking(move || store.inspect(CredentialSlot::Remote));
        if let Ok(Ok(report)) = read.await {
            self.state().certificate = Some(Certificate::from(&report.info));
        }
    }

    /// Updates the page after an event.
    pub(crate) fn update(&self, event: &Event) {
        self.state().update(event, SystemTime::now());
    }

    /// Sets whether the tunnel serves another application than this page.
    pub(crate) fn set_replaced(&self, is_replaced: bool) {
        self.state().is_replaced = is_replaced;
    }

    /// Ends the streams that keep open pages up to date.
    pub(crate) fn stop(&self) {
        self.0.stopped.send_replace(true);
    }

    /// Returns the page as a web application for everyone.
    pub(crate) fn application(&self) -> Router {
        self.router(Audience::Public)
    }

    /// Returns the page as a web application for users of this machine. Pages of the same origin
    /// may show it in a frame.
    pub(crate) fn local_application(&self) -> Router {
        self.router(Audience::Local)
            .layer(axum::middleware::map_response(with_frames))
    }

    fn router(&self, audience: Audience) -> Router {
        let (root, json, events, logo) = (self.clone(), self.clone(), self.clone(), self.clone());
        let root = async move |headers: HeaderMap| {
            let (identity, facts) = (&root.0.identity, root.facts(SystemTime::now(), audience));
            if is_browser(&headers) {
                Html(view::html(identity, &facts)).into_response()
            } else {
                view::text(identity, &facts).into_response()
            }
        };
        let json = async move || {
            let facts = json.facts(SystemTime::now(), audience);
            Json(view::json(&json.0.identity, &facts))
        };
        let logo = async move || {
            let logo = logo.0.maker.logo.clone();
            ([(header::CONTENT_TYPE, logo.content_type)], logo.image)
        };
        let file = |content_type: &'static str, content: &'static str| {
            get(async move || ([(header::CONTENT_TYPE, content_type)], content))
        };
        Router::new()
            .route("/", get(root))
            .route("/status.json", get(json))
            .route("/events", get(async move || events.events(audience)))
            .route("/logo", get(logo))
            .route("/style.css", file("text/css; charset=utf-8", STYLE))
            .route("/page.js", file("text/javascript; charset=utf-8", SCRIPT))
            .fallback(async || (StatusCode::NOT_FOUND, "not found\n"))
            .layer(axum::middleware::map_response(with_security_headers))
    }

    /// Returns the parts of the page, and from then on those that change, until the device stops.
    fn events(&self, audience: Audience) -> impl IntoResponse + use<> {
        let mut ticks = interval(UPDATE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let facts = {
            let page = self.clone();
            move || page.facts(SystemTime::now(), audience)
        };
        let state = (facts, ticks, None::<Parts>, self.0.stopped.subscribe());
        let changes = stream::unfold(state, async |(facts, mut ticks, mut shown, mut stopped)| {
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = stopped.wait_for(|stopped| *stopped) => return None,
                }
                let parts = view::parts(&facts());
                let changed = changed(shown.as_ref(), &parts);
                shown = Some(parts);
                if let Some(event) = changed {
                    return Some((Ok::<_, Infallible>(event), (facts, ticks, shown, stopped)));
                }
            }
        });
        Sse::new(changes).keep_alive(KeepAlive::default())
    }

    fn facts(&self, now: SystemTime, audience: Audience) -> Facts {
        let cloud = self
            .state()
            .cloud
            .as_ref()
            .and_then(WeakClesydeCloud::upgrade);
        let status = cloud.as_ref().map(ClesydeCloud::status).unwrap_or_default();
        let remote = cloud.and_then(|cloud| cloud.remote().ok().flatten());
        let visitors = remote.as_ref().map(|remote| remote.visitors());
        let traffic = remote.as_ref().map(|remote| remote.traffic());
        let retry_at = remote.and_then(|remote| match remote.status().borrow().tunnel {
            TunnelStatus::Waiting { retry_at, .. } => Some(retry_at),
            _ => None,
        });
        let (visitors, traffic) = (visitors.unwrap_or_default(), traffic.unwrap_or_default());
        let state = self.state();
        let access_point = &self.0.identity.access_point;
        Facts {
            now,
            started: self.0.started,
            iot: Link::new(status.iot, state.iot_retry_at),
            remote: Link::new(status.remote, retry_at),
            url: match &state.url {
                Some(url) => url.clone(),
                None => format!("https://{access_point}/"),
            },
            is_replaced: state.is_replaced,
            applications: match (audience, &state.applications) {
                (Audience::Local, Some(applications)) => applications.all(),
                _ => Vec::new(),
            },
            last_outage: state.last_outage,
            certificate: state.certificate.clone(),
            connections: visitors.iter().map(|visitor| visitor.connections).sum(),
            visitors: visitors.len(),
            sent: traffic.sent,
            received: traffic.received,
            history: state.history.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the parts that differ from those that are shown, if any.
fn changed(shown: Option<&Parts>, parts: &Parts) -> Option<sse::Event> {
    let changed: serde_json::Map<String, serde_json::Value> = parts
        .iter()
        .enumerate()
        .filter(|(index, part)| shown.is_none_or(|shown| shown[*index] != **part))
        .map(|(_, (id, html))| ((*id).to_owned(), html.as_str().into()))
        .collect();
    if changed.is_empty() {
        return None;
    }
    sse::Event::default().json_data(changed).ok()
}

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("page.js");

/// The policy of [`SECURITY_HEADERS`] for a page in a frame.
const FRAMES_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
     img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

/// Headers of every response. The browser refuses resources that are not the page's own.
const SECURITY_HEADERS: &[(HeaderName, &str)] = &[
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
         img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (header::VARY, "accept"),
];

async fn with_security_headers(mut response: Response) -> Response {
    for (name, value) in SECURITY_HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn with_frames(mut response: Response) -> Response {
    response.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(FRAMES_POLICY),
    );
    response
}

/// Browsers accept HTML explicitly; curl and similar clients accept anything.
fn is_browser(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.contains("text/html"))
    })
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use futures_util::StreamExt;
    use tower::ServiceExt;

    use super::facts::tests::later;
    use super::*;
    use crate::application_check::ApplicationState;

    fn page() -> StatusPage {
        StatusPage(Arc::new(Page {
            identity: Identity {
                sn: "SN1".to_owned(),
                access_point: "sn1.example.com".to_owned(),
                name: None,
                model: None,
                version: "0.0.0",
            },
            maker: Maker::default(),
            started: later(0),
            state: Mutex::default(),
            stopped: watch::Sender::new(false),
        }))
    }

    async fn fetch(page: &StatusPage, path: &str, accept: &str) -> Response {
        let request = Request::builder()
            .uri(path)
            .header(header::ACCEPT, accept)
            .body(Body::empty())
            .unwrap();
        let response = page.application().oneshot(request).await.unwrap();
        for (name, value) in SECURITY_HEADERS {
            assert_eq!(response.headers()[name], value, "{path}");
        }
        response
    }

    async fn body(response: Response) -> String {
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn everything_that_the_page_names_is_served() {
        let page = page();
        let html = body(fetch(&page, "/", "text/html,*/*;q=0.8").await).await;
        assert!(html.starts_with("<!doctype html>"), "{html}");
        let mut total = html.len();
        for name in ["logo", "style.css", "page.js"] {
            assert!(html.contains(&format!("\"{name}\"")), "{name}");
            let response = fetch(&page, &format!("/{name}"), "*/*").await;
            assert_eq!(response.status(), StatusCode::OK, "{name}");
            total += body(response).await.len();
        }
        assert!(total < 100_000, "{total} bytes");
        assert!(!html.contains("style=") && !html.contains("<style"));
        let response = fetch(&page, "/other", "text/html").await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert!(
            body(fetch(&page, "/", "*/*").await)
                .await
                .starts_with("Starting")
        );
        let json = body(fetch(&page, "/status.json", "*/*").await).await;
        assert!(
            json.contains(r#""url":"https://sn1.example.com/""#),
            "{json}"
        );
    }

    #[tokio::test]
    async fn local_page_may_be_shown_in_a_frame_of_its_own_origin() {
        let request = Request::get("/").body(Body::empty()).unwrap();
        let response = page().local_application().oneshot(request).await.unwrap();
        for (name, value) in SECURITY_HEADERS {
            let expected = value.replace("frame-ancestors 'none'", "frame-ancestors 'self'");
            assert_eq!(response.headers()[name], expected, "{name}");
        }
    }

    #[tokio::test]
    async fn applications_are_named_on_this_machine_only() {
        let page = page();
        let application = |address: &str, reason: Option<&str>| ApplicationState {
            address: address.to_owned(),
            answers: Some(reason.is_none()),
            reason: reason.map(str::to_owned),
            since: Some(later(0)),
        };
        page.set_replaced(true);
        page.state().applications = Some(ApplicationStates::fixed(vec![
            application("127.0.0.1:8080", None),
            application("unix:/run/<app>", Some("connection refused")),
        ]));
        for accept in ["text/html", "*/*"] {
            let shown = body(fetch(&page, "/", accept).await).await;
            assert!(
                !shown.contains("8080") && !shown.contains("/run"),
                "{shown}"
            );
            let request = Request::get("/").header(header::ACCEPT, accept);
            let request = request.body(Body::empty()).unwrap();
            let local = page.local_application().oneshot(request).await.unwrap();
            let shown = body(local).await;
            for part in ["127.0.0.1:8080 answers", "does not answer"] {
                assert!(shown.contains(part), "{shown}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn events_send_all_parts_then_changes_and_end_at_a_stop() {
        let page = page();
        let mut events = fetch(&page, "/events", "text/event-stream")
            .await
            .into_body()
            .into_data_stream();
        let mut next = async || {
            let chunk = events.next().await?.unwrap();
            Some(String::from_utf8(chunk.to_vec()).unwrap())
        };
        let first = next().await.unwrap();
        assert!(
            first.contains("verdict-text") && first.contains("plot"),
            "{first}"
        );
        page.state().last_outage = Some(Outage {
            of: "messaging",
            from: later(0),
            until: later(9),
        });
        let change = next().await.unwrap();
        assert!(
            change.contains("for 9 s") && !change.contains("plot"),
            "{change}"
        );
        page.stop();
        assert_eq!(next().await, None);
    }

    #[test]
    fn only_a_connection_that_was_up_has_an_outage() {
        let mut state = State::default();
        let down = Event::IotDisconnected {
            reason: "refused".to_owned(),
            retry_in: Duration::from_secs(5),
        };
        state.update(&down, later(0));
        assert_eq!(state.iot_retry_at, Some(later(5)));
        state.update(&Event::IotConnected, later(6));
        assert_eq!((state.last_outage, state.iot_retry_at), (None, None));
        state.update(&down, later(10));
        state.update(&down, later(20));
        state.update(&Event::IotConnected, later(30));
        let outage = Outage {
            of: "messaging",
            from: later(10),
            until: later(30),
        };
        assert_eq!(state.last_outage, Some(outage));
    }
}
