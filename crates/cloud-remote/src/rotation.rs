//! Replaces a certificate whenever the platform wishes for another: asks for it, has it installed, and tries again with
//! growing delays when anything is wrong. Until the new one is in use the old one is. A rate limit holds for all requests: of
//! certificates that are named in quick succession only some are requested, and the newest in any case.
//!
//! This is how both certificates of a device are rotated. What differs between them is a [`CertificateInstaller`]: how the platform
//! is asked, and what it takes to put a new one into use. [`RemoteAccess`](crate::RemoteAccess) has its own; the one for the
//! broker is up to whoever has the session.
//!
//! Not here: what the certificate is for. Decisions are made by a planner of its own, on virtual time; this carries them out.
//!
//! Invariants
//! - There is one request, or one installation, at a time; an installation is never cut short while this is polled.
//! - Whatever takes time is a future held here: dropping this ends it.
//!
//! Protocol: `docs/protocol.md`, "Remote access" (certificate rotation) and "IoT messaging" (client certificate).

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

/// How the platform is asked for a new certificate, and what is done with it.
pub trait CertificateInstaller: Send + Sync + 'static {
    /// Asks the platform for the certificate with this serial number.
    ///
    /// # Cancel safety
    /// The future is dropped when no answer came within a minute, when messaging is lost, and when another certificate is
    /// wished for.
    fn request(
        &self,
        serial: &CertificateSerial,
    ) -> impl Future<Output = Result<CertificateResponse, SourceError>> + Send;

    /// Checks the certificate that came, stores it, and puts it into use: all of that, or nothing. Has to keep time limits
    /// of its own.
    ///
    /// # Cancel safety
    /// The future is dropped only together with the [`CertificateRotator`]. The old or the new certificate is stored then, whole.
    fn install(
        &self,
        certificate: CertificatePem,
        wanted: &CertificateSerial,
    ) -> impl Future<Output = Result<CertificateStatus, RotationError>> + Send;
}

/// What came of a wish.
#[derive(Debug)]
#[non_exhaustive]
pub enum RotationOutcome {
    /// A new certificate is in use.
    Rotated(CertificateStatus),
    /// It is not. The old one still is, and it will be tried again.
    Failed {
        /// The serial number that was wished for.
        serial: CertificateSerial,
        /// Why.
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
/// /// A platform that never answers well.
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
    /// For the log: whose certificate it is.
    of: &'static str,
    replacement: Arc<R>,
    core: Core,
    started: Instant,
    work: Work,
    /// Came of a change of orders, and is yet to be told.
    outcome: Option<RotationOutcome>,
    progress: RotationProgress,
    status: watch::Sender<RotationStatus>,
    /// The end of a wait that has been logged.
    logged_wait: Option<Duration>,
    throttles: LogThrottles,
}

/// The rate limits of the log lines that the platform can cause.
#[derive(Debug, Default)]
struct LogThrottles {
    asking: LogThrottle,
    rate_limited: LogThrottle,
    rotated: LogThrottle,
    failed: LogThrottle,
}

/// What is under way.
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

/// What has come to its end.
enum WorkResult {
    Answer(CertificateSerial, Result<CertificateResponse, SourceError>),
    Installation(CertificateSerial, Result<CertificateStatus, RotationError>),
    Wait,
}

impl<R: CertificateInstaller> CertificateRotator<R> {
    /// With the certificate that is in use. `of` says in the log whose it is. Nothing happens until messaging is online
    /// and another one is wished for.
    #[must_use]
    pub fn new(of: &'static str, replacement: R, in_use: CertificateSerial) -> Self {
        Self {
            of,
            replacement: Arc::new(replacement),
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

    /// How far the rotation is, now and on each change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<RotationStatus> {
        self.status.subscribe()
    }

    /// Tells whether the platform can be asked. A change to `false` gives a request up that is under way.
    pub fn set_online(&mut self, online: bool) {
        self.step(Event::Online(online));
    }

    /// Tells which certificate is wished for.
    pub fn set_desired(&mut self, serial: Option<CertificateSerial>) {
        self.step(Event::Desired(serial));
    }

    /// What came of the next attempt. Does all the work, so it has to be polled; waits for ever where there is none.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped; the work goes on with the next call.
    pub async fn next(&mut self) -> RotationOutcome {
        loop {
            if let Some(outcome) = self.outcome.take() {
                return outcome;
            }
            let wake = self.core.poll_timeout().map(|wake| self.started + wake);
            let ended = tokio::select! {
                biased;
                ended = self.work.ended() => ended,
                () = until(wake) => WorkResult::Wait,
            };
            match ended {
                WorkResult::Wait => self.step(Event::Tick),
                WorkResult::Answer(serial, answer) => self.answered(serial, answer),
                WorkResult::Installation(serial, Ok(status)) => {
                    info_throttled!(self.throttles.rotated, of = self.of, %serial, not_after = %status.not_after_text(), "a new certificate is in use");
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

    fn answered(
        &mut self,
        serial: CertificateSerial,
        answer: Result<CertificateResponse, SourceError>,
    ) {
        match answer {
            Ok(answer) => {
                let replacement = Arc::clone(&self.replacement);
                let (certificate, wanted) = (answer.into_certificate(), serial.clone());
                let install = catch_panic(
                    async move { replacement.install(certificate, &wanted).await },
                    || StoreError::new("the installation panicked").into(),
                );
                self.work = Work::Installing(serial, Box::pin(install));
                self.step(Event::Answered(Ok(())));
            }
            Err(error) => {
                self.failed(serial, error.into());
                self.step(Event::Answered(Err(())));
            }
        }
    }

    fn step(&mut self, event: Event) {
        for action in self.core.handle_event(self.started.elapsed(), event) {
            match action {
                Action::Request(serial) => {
                    info_throttled!(self.throttles.asking, of = self.of, %serial, "asking for a new certificate");
                    let replacement = Arc::clone(&self.replacement);
                    let wanted = serial.clone();
                    let request =
                        catch_panic(async move { replacement.request(&wanted).await }, || {
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
                        // One line for each wait, however many certificates are named meanwhile.
                        if self.logged_wait.replace(*until) != Some(*until) {
                            info_throttled!(self.throttles.rate_limited, of = self.of, %serial, wait = ?left, "other certificates are named in quick succession; the newest is requested later");
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
        warn_throttled!(self.throttles.failed, of = self.of, %serial, %error, "the certificate was not replaced; it will be tried again");
        self.outcome = Some(RotationOutcome::Failed { serial, error });
    }
}

impl Work {
    /// Waits for ever if nothing is under way. Cancel safe.
    async fn ended(&mut self) -> WorkResult {
        let ended = match self {
            Self::None => pending().await,
            Self::Requesting(serial, request) => {
                let answer = request.await;
                WorkResult::Answer(serial.clone(), answer)
            }
            Self::Installing(serial, installation) => {
                let installed = installation.await;
                WorkResult::Installation(serial.clone(), installed)
            }
        };
        *self = Self::None;
        ended
    }
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(wake) => sleep_until(wake).await,
        None => pending().await,
    }
}

/// Storing two small files: a flash card may be slow, but not this slow.
pub const STORE_TIMEOUT: Duration = Duration::from_secs(60);
