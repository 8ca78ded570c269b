//! Certificate rotation: requests the certificate that the platform desires, has it installed, and
//! retries with back-off after errors. The old certificate stays in use until the new one is. A
//! rate limit holds for all requests: of several certificates that the platform names in quick
//! succession, only some are requested, including the newest.
//!
//! Both certificates of a device are rotated in this way. A [`CertificateInstaller`] contains the
//! differences: how the certificate is requested, and how a new one is installed.
//! [`RemoteAccess`](crate::RemoteAccess) has its own; the owner of the session to the broker
//! implements the one for the broker.
//!
//! A core on virtual time makes the decisions, and [`CertificateRotator`] executes them.
//!
//! Invariants:
//! - There is at most one request or one installation; an installation is never cancelled while the
//!   rotator is polled.
//! - Each operation is a future owned by the rotator: dropping the rotator ends it.

mod core;
mod rate_limit;
mod status;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cloud_net::{LogThrottle, info_throttled, warn_throttled};
use futures_util::future::{BoxFuture, pending};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use self::core::{Action, Core, Event, RotationProgress, Wait};
pub use self::status::{RotationError, RotationStatus};
use crate::catch_panic::catch_panic;
use crate::certificate::serial::CertificateSerial;
use crate::certificate::{CertificatePem, CertificateResponse, CertificateStatus};
use crate::traits::{SourceError, StoreError};

/// Requests and installs a new certificate.
pub trait CertificateInstaller: Send + Sync + 'static {
    /// Requests the certificate with this serial number from the platform.
    ///
    /// # Cancel safety
    /// The future is dropped after a minute without a response, when messaging is lost, and when
    /// another certificate is desired.
    fn request(
        &self,
        serial: &CertificateSerial,
    ) -> impl Future<Output = Result<CertificateResponse, SourceError>> + Send;

    /// Verifies the certificate, stores it, and puts it into use, or changes nothing. Must have its
    /// own timeouts.
    ///
    /// # Cancel safety
    /// The future is dropped only together with the [`CertificateRotator`]. Then either the old or
    /// the new certificate is stored, complete.
    fn install(
        &self,
        certificate: CertificatePem,
        wanted: &CertificateSerial,
    ) -> impl Future<Output = Result<CertificateStatus, RotationError>> + Send;
}

/// The result of an attempt to rotate to the desired certificate.
#[derive(Debug)]
#[non_exhaustive]
pub enum RotationOutcome {
    /// The new certificate is in use.
    Rotated(CertificateStatus),
    /// The attempt failed. The old certificate stays in use, and the rotation is retried.
    Failed {
        /// The desired serial number.
        serial: CertificateSerial,
        /// The error.
        error: RotationError,
    },
}

/// See the [module](self).
///
/// ```
/// use cloud_remote::rotation::{CertificateInstaller, CertificateRotator, RotationOutcome};
/// use cloud_remote::{
///     CertificateResponse, CertificatePem, CertificateSerial, CertificateStatus, RotationError, SourceError,
/// };
///
/// /// A platform that never responds.
/// struct Mute;
///
/// impl CertificateInstaller for Mute {
///     async fn request(&self, _: &CertificateSerial) -> Result<CertificateResponse, SourceError> {
///         Err(SourceError::TimedOut)
///     }
///     async fn install(&self, _: CertificatePem, _: &CertificateSerial) -> Result<CertificateStatus, RotationError> {
///         unreachable!("there is nothing to install")
///     }
/// }
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// let mut rotation = CertificateRotator::new("broker", Mute, "41".parse()?);
/// rotation.set_online(true);
/// rotation.set_desired(Some("42".parse()?));
/// let outcome = rotation.next().await;
/// assert!(matches!(outcome, RotationOutcome::Failed { serial, .. } if serial.as_str() == "42"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct CertificateRotator<R> {
    /// Names the certificate in the log.
    label: &'static str,
    installer: Arc<R>,
    core: Core,
    started: Instant,
    work: Work,
    /// The result of the last event, not returned yet.
    outcome: Option<RotationOutcome>,
    progress: RotationProgress,
    status: watch::Sender<RotationStatus>,
    /// The end of the last rate-limit wait that was logged.
    logged_wait: Option<Duration>,
    throttles: LogThrottles,
}

/// The throttles of the log lines that the platform can cause.
#[derive(Debug, Default)]
struct LogThrottles {
    requesting: LogThrottle,
    rate_limited: LogThrottle,
    rotated: LogThrottle,
    failed: LogThrottle,
}

/// The operation in progress.
enum Work {
    None,
    Requesting(
        CertificateSerial,
        BoxFuture<'static, Result<CertificateResponse, SourceError>>,
    ),
    Installing(
        CertificateSerial,
        BoxFuture<'static, Result<CertificateStatus, RotationError>>,
    ),
}

impl std::fmt::Debug for Work {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => formatter.write_str("None"),
            Self::Requesting(serial, _) => write!(formatter, "Asking({serial})"),
            Self::Installing(serial, _) => write!(formatter, "Installing({serial})"),
        }
    }
}

/// The result of the operation, or a timer.
enum WorkResult {
    Response(CertificateSerial, Result<CertificateResponse, SourceError>),
    Installation(CertificateSerial, Result<CertificateStatus, RotationError>),
    Wait,
}

impl<R: CertificateInstaller> CertificateRotator<R> {
    /// Creates a rotator with the certificate that is in use. `label` names it in the log. Nothing
    /// happens until messaging is online and another certificate is desired.
    #[must_use]
    pub fn new(label: &'static str, installer: R, in_use: CertificateSerial) -> Self {
        Self {
            label,
            installer: Arc::new(installer),
            core: Core::new(in_use, rand::random()),
            started: Instant::now(),
            work: Work::None,
            outcome: None,
            progress: RotationProgress::Idle,
            status: watch::channel(RotationStatus::Idle).0,
            logged_wait: None,
            throttles: LogThrottles::default(),
        }
    }

    /// Returns a receiver of the state of the rotation.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<RotationStatus> {
        self.status.subscribe()
    }

    /// Reports whether the platform can be reached. A change to `false` cancels a request in
    /// progress.
    pub fn set_online(&mut self, online: bool) {
        self.step(Event::Online(online));
    }

    /// Sets the desired certificate, or `None` for none. With `None`, a request is cancelled; an
    /// installation continues, and its certificate stays. (The serial number of the certificate in
    /// use, in contrast, would be requested again after that installation.)
    pub fn set_desired(&mut self, serial: Option<CertificateSerial>) {
        self.step(Event::Desired(serial));
    }

    /// Returns the result of the next attempt. Does all the work, so it has to be polled; waits
    /// forever without work.
    ///
    /// # Cancel safety
    /// No work is lost when the future is dropped; the next call continues.
    pub async fn next(&mut self) -> RotationOutcome {
        loop {
            if let Some(outcome) = self.outcome.take() {
                return outcome;
            }
            let wake = self.core.poll_timeout().map(|wake| self.started + wake);
            let result = tokio::select! {
                biased;
                result = self.work.next_result() => result,
                () = until(wake) => WorkResult::Wait,
            };
            match result {
                WorkResult::Wait => self.step(Event::Tick),
                WorkResult::Response(serial, response) => self.handle_response(serial, response),
                WorkResult::Installation(serial, Ok(status)) => {
                    info_throttled!(self.throttles.rotated, certificate = self.label, %serial, not_after = %status.not_after_text(), "a new certificate is in use");
                    self.outcome = Some(RotationOutcome::Rotated(status));
                    self.step(Event::Installed(Ok(())));
                }
                WorkResult::Installation(serial, Err(error)) => {
                    self.failed(serial, error);
                    self.step(Event::Installed(Err(())));
                }
            }
        }
    }

    fn handle_response(
        &mut self,
        serial: CertificateSerial,
        response: Result<CertificateResponse, SourceError>,
    ) {
        match response {
            Ok(response) => {
                let installer = Arc::clone(&self.installer);
                let (certificate, wanted) = (response.into_certificate(), serial.clone());
                let install = catch_panic(
                    async move { installer.install(certificate, &wanted).await },
                    || StoreError::new("the installation panicked").into(),
                );
                self.work = Work::Installing(serial, Box::pin(install));
                self.step(Event::Response(Ok(())));
            }
            Err(error) => {
                self.failed(serial, error.into());
                self.step(Event::Response(Err(())));
            }
        }
    }

    fn step(&mut self, event: Event) {
        for action in self.core.handle_event(self.started.elapsed(), event) {
            match action {
                Action::Request(serial) => {
                    info_throttled!(self.throttles.requesting, certificate = self.label, %serial, "requesting a new certificate");
                    let installer = Arc::clone(&self.installer);
                    let wanted = serial.clone();
                    let request =
                        catch_panic(async move { installer.request(&wanted).await }, || {
                            SourceError::unavailable("the certificate source panicked")
                        });
                    self.work = Work::Requesting(serial, Box::pin(request));
                }
                Action::Cancel { timed_out } => {
                    if let Work::Requesting(serial, _) =
                        std::mem::replace(&mut self.work, Work::None)
                        && timed_out
                    {
                        self.failed(serial, SourceError::TimedOut.into());
                    }
                }
            }
        }
        self.publish_status();
    }

    fn publish_status(&mut self) {
        let progress = self.core.progress();
        if progress == self.progress {
            return;
        }
        let status = match &progress {
            RotationProgress::Idle => RotationStatus::Idle,
            RotationProgress::Pending(serial) => RotationStatus::Pending {
                serial: serial.clone(),
            },
            RotationProgress::Active(serial) => RotationStatus::InProgress {
                serial: serial.clone(),
            },
            RotationProgress::Waiting { serial, until, why } => {
                let (serial, left) = (serial.clone(), until.saturating_sub(self.started.elapsed()));
                let time = SystemTime::now() + left;
                match why {
                    Wait::Failure => RotationStatus::Retrying { serial, at: time },
                    Wait::RateLimit => {
                        // One line per wait, independently of the number of certificates named
                        // meanwhile.
                        if self.logged_wait.replace(*until) != Some(*until) {
                            info_throttled!(self.throttles.rate_limited, certificate = self.label, %serial, wait = ?left, "other certificates are named in quick succession; the newest is requested later");
                        }
                        RotationStatus::RateLimited {
                            serial,
                            until: time,
                        }
                    }
                }
            }
        };
        self.progress = progress;
        self.status.send_replace(status);
    }

    fn failed(&mut self, serial: CertificateSerial, error: RotationError) {
        warn_throttled!(self.throttles.failed, certificate = self.label, %serial, %error, "the certificate rotation failed; it is retried");
        self.outcome = Some(RotationOutcome::Failed { serial, error });
    }
}

impl Work {
    /// Waits forever without an operation. Cancel safe.
    async fn next_result(&mut self) -> WorkResult {
        let result = match self {
            Self::None => pending().await,
            Self::Requesting(serial, request) => {
                let response = request.await;
                WorkResult::Response(serial.clone(), response)
            }
            Self::Installing(serial, installation) => {
                let installed = installation.await;
                WorkResult::Installation(serial.clone(), installed)
            }
        };
        *self = Self::None;
        result
    }
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(wake) => sleep_until(wake).await,
        None => pending().await,
    }
}

/// Timeout of storing two small files: generous for a slow flash card.
pub const STORE_TIMEOUT: Duration = Duration::from_secs(60);
