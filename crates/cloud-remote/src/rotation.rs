//! Replaces a certificate whenever the platform wishes for another: asks for it, has it installed, and tries again with
//! growing delays when anything is wrong. Until the new one is in use the old one is. A rate limit holds for all requests: of
//! certificates that are named in quick succession only some are requested, and the newest in any case.
//!
//! This is how both certificates of a device are rotated. What differs between them is a [`Replacement`]: how the platform
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

mod check;
mod planner;
mod rate_limit;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cloud_net::{LogThrottle, info_throttled, warn_throttled};
use futures_util::future::{BoxFuture, pending};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

pub use self::check::{CertificateError, check_client, check_page};
pub(crate) use self::check::{CheckedCertificate, check_server};
use self::planner::{Action, Event, Planner, Progress, Wait};
use crate::certificate::{CertificateAnswer, CertificatePem};
use crate::guarded::guarded;
use crate::serial::CertificateSerial;
use crate::source::{SourceError, StoreError};
use crate::status::{CertificateStatus, RotationError, RotationStatus};

/// How the platform is asked for a new certificate, and what is done with it.
pub trait Replacement: Send + Sync + 'static {
    /// Asks the platform for the certificate with this serial number.
    ///
    /// # Cancel safety
    /// The future is dropped when no answer came within a minute, when messaging is lost, and when another certificate is
    /// wished for.
    fn request(
        &self,
        serial: &CertificateSerial,
    ) -> impl Future<Output = Result<CertificateAnswer, SourceError>> + Send;

    /// Checks the certificate that came, stores it, and puts it into use: all of that, or nothing. Has to keep time limits
    /// of its own.
    ///
    /// # Cancel safety
    /// The future is dropped only together with the [`Rotation`]. The old or the new certificate is stored then, whole.
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
/// use cloud_remote::rotation::{Replacement, Rotation, RotationOutcome};
/// use cloud_remote::{
///     CertificateAnswer, CertificatePem, CertificateSerial, CertificateStatus, RotationError, SourceError,
/// };
///
/// /// A platform that never answers well.
/// struct Mute;
///
/// impl Replacement for Mute {
///     async fn request(&self, _: &CertificateSerial) -> Result<CertificateAnswer, SourceError> {
///         Err(SourceError::TimedOut)
///     }
///     async fn install(&self, _: CertificatePem, _: &CertificateSerial) -> Result<CertificateStatus, RotationError> {
///         unreachable!("there is nothing to install")
///     }
/// }
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// let mut rotation = Rotation::new("broker", Mute, "41".parse()?);
/// rotation.set_online(true);
/// rotation.desired("42".parse()?);
/// let outcome = rotation.next().await;
/// assert!(matches!(outcome, RotationOutcome::Failed { serial, .. } if serial.as_str() == "42"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Rotation<R> {
    /// For the log: whose certificate it is.
    of: &'static str,
    replacement: Arc<R>,
    planner: Planner,
    started: Instant,
    work: Work,
    /// Came of a change of orders, and is yet to be told.
    outcome: Option<RotationOutcome>,
    progress: Progress,
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
    Asking(
        CertificateSerial,
        BoxFuture<'static, Result<CertificateAnswer, SourceError>>,
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
            Self::Asking(serial, _) => write!(formatter, "Asking({serial})"),
            Self::Installing(serial, _) => write!(formatter, "Installing({serial})"),
        }
    }
}

/// What has come to its end.
enum Ended {
    Answer(CertificateSerial, Result<CertificateAnswer, SourceError>),
    Installation(CertificateSerial, Result<CertificateStatus, RotationError>),
    Wait,
}

impl<R: Replacement> Rotation<R> {
    /// With the certificate that is in use. `of` says in the log whose it is. Nothing happens until messaging is online
    /// and another one is wished for.
    #[must_use]
    pub fn new(of: &'static str, replacement: R, in_use: CertificateSerial) -> Self {
        Self {
            of,
            replacement: Arc::new(replacement),
            planner: Planner::new(in_use, rand::random()),
            started: Instant::now(),
            work: Work::None,
            outcome: None,
            progress: Progress::Idle,
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
    pub fn desired(&mut self, serial: CertificateSerial) {
        self.step(Event::Desired(Some(serial)));
    }

    /// Tells that no certificate is wished for any more. A request is given up; an installation goes on, and what it puts into
    /// use stays. That is not the same as a wish for the one that is in use now, which would be asked for after it.
    pub fn undesired(&mut self) {
        self.step(Event::Desired(None));
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
            let wake = self.planner.next_wake().map(|wake| self.started + wake);
            let ended = tokio::select! {
                biased;
                ended = self.work.ended() => ended,
                () = until(wake) => Ended::Wait,
            };
            match ended {
                Ended::Wait => self.step(Event::Tick),
                Ended::Answer(serial, answer) => self.answered(serial, answer),
                Ended::Installation(serial, Ok(status)) => {
                    info_throttled!(self.throttles.rotated, of = self.of, %serial, not_after = %status.not_after_text(), "a new certificate is in use");
                    self.outcome = Some(RotationOutcome::Rotated(status));
                    self.step(Event::Installed(Ok(())));
                }
                Ended::Installation(serial, Err(error)) => {
                    self.failed(serial, error);
                    self.step(Event::Installed(Err(())));
                }
            }
        }
    }

    fn answered(
        &mut self,
        serial: CertificateSerial,
        answer: Result<CertificateAnswer, SourceError>,
    ) {
        match answer {
            Ok(answer) => {
                let replacement = Arc::clone(&self.replacement);
                let (certificate, wanted) = (answer.into_certificate(), serial.clone());
                let install = guarded(
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
        for action in self.planner.step(self.started.elapsed(), event) {
            match action {
                Action::Request(serial) => {
                    info_throttled!(self.throttles.asking, of = self.of, %serial, "asking for a new certificate");
                    let replacement = Arc::clone(&self.replacement);
                    let wanted = serial.clone();
                    let request =
                        guarded(async move { replacement.request(&wanted).await }, || {
                            SourceError::unavailable("the certificate source panicked")
                        });
                    self.work = Work::Asking(serial, Box::pin(request));
                }
                Action::Abandon { timed_out } => {
                    if let Work::Asking(serial, _) = std::mem::replace(&mut self.work, Work::None)
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
        let progress = self.planner.progress();
        if progress == self.progress {
            return;
        }
        let status = match &progress {
            Progress::Idle => RotationStatus::Idle,
            Progress::Pending(serial) => RotationStatus::Pending {
                serial: serial.clone(),
            },
            Progress::Active(serial) => RotationStatus::InProgress {
                serial: serial.clone(),
            },
            Progress::Waiting { serial, until, why } => {
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
    async fn ended(&mut self) -> Ended {
        let ended = match self {
            Self::None => pending().await,
            Self::Asking(serial, request) => {
                let answer = request.await;
                Ended::Answer(serial.clone(), answer)
            }
            Self::Installing(serial, installation) => {
                let installed = installation.await;
                Ended::Installation(serial.clone(), installed)
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
pub const STORE_LIMIT: Duration = Duration::from_secs(60);
