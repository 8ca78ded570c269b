//! When to ask again, and after how long: a policy for [`tower::retry::Retry`].
//!
//! Again only where nothing can have happened (no connection was made) or the platform itself says that it could not do
//! it (429, 5xx). Not after a break or a silence with the request sent: the key may be used up by then, and the second
//! answer would say "refused" about a device that is registered.
//!
//! No retry makes two devices of one. Each carries the same serial number, which is the device's identity, the same key,
//! which the platform takes once, and the same signing requests, if any. A 5xx may hide a success (a gateway that gave
//! up waiting); the next request is then refused, and [`Doubt`] tells that refusal from one that came first.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::time::{Instant, Sleep};
use tower::retry::Policy;

use crate::error::ProvisionError;

/// How often to ask and how long to wait in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retry {
    /// Requests in all, the first included. At least 1. Default: 5.
    pub attempts: u32,
    /// Upper bound of the wait after the first failure; it doubles with each. Default: 1 s.
    pub first_delay: Duration,
    /// Upper bound of any wait that we choose. Default: 20 s.
    pub max_delay: Duration,
    /// Longest `Retry-After` that is waited for; if the platform asks for more, the call ends and says so.
    /// Default: 60 s.
    pub max_retry_after: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(20),
            max_retry_after: Duration::from_secs(60),
        }
    }
}

/// The policy for one registration.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    retry: Retry,
    failures: u32,
    /// No wait goes beyond this moment.
    deadline: Instant,
}

impl Backoff {
    pub(crate) fn new(retry: Retry, deadline: Instant) -> Self {
        Self {
            retry,
            failures: 0,
            deadline,
        }
    }

    /// How long to wait after this error, the last of `self.failures`, before asking again; `None` is not to ask.
    fn delay(&self, error: &ProvisionError) -> Option<Duration> {
        if !error.is_retryable() || self.failures >= self.retry.attempts {
            return None;
        }
        let doublings = self.failures.saturating_sub(1).min(16);
        let bound = self
            .retry
            .first_delay
            .saturating_mul(1 << doublings)
            .min(self.retry.max_delay);
        let told = match error {
            ProvisionError::RateLimited { retry_after, .. }
            | ProvisionError::Server { retry_after, .. } => *retry_after,
            _ => None,
        };
        let delay = match told {
            Some(told) if told > self.retry.max_retry_after => return None,
            // Never sooner than told; a little later, as all the others were told the same.
            Some(told) => told + random_up_to(self.retry.first_delay),
            // Half of it is random: enough to pull a thousand devices apart, and never no wait at all.
            None => bound / 2 + random_up_to(bound / 2),
        };
        (Instant::now() + delay < self.deadline).then_some(delay)
    }
}

fn random_up_to(bound: Duration) -> Duration {
    bound.mul_f64(rand::random_range(0.0..=1.0))
}

impl<Request: Clone, Answer> Policy<Request, Answer, ProvisionError> for Backoff {
    type Future = Sleep;

    fn retry(
        &mut self,
        _: &mut Request,
        result: &mut Result<Answer, ProvisionError>,
    ) -> Option<Sleep> {
        let error = result.as_ref().err()?;
        self.failures += 1;
        let delay = self.delay(error)?;
        tracing::info!(attempt = self.failures, retry_in = ?delay, %error, "registration failed, trying again");
        Some(tokio::time::sleep(delay))
    }

    fn clone_request(&mut self, request: &Request) -> Option<Request> {
        Some(request.clone())
    }
}

/// Whether an attempt ended so that it may have registered the device, and another one followed.
#[derive(Debug, Default)]
pub(crate) struct Doubt {
    /// The HTTP status of the last one; 0 for none.
    status: AtomicU16,
}

impl Doubt {
    pub(crate) fn notice<T>(&self, result: &Result<T, ProvisionError>) {
        if let Err(ProvisionError::Server { status, .. }) = result {
            self.status.store(*status, Ordering::Relaxed);
        }
    }

    /// The error that a registration ends with, given what went before.
    pub(crate) fn explain(&self, error: ProvisionError) -> ProvisionError {
        let earlier = self.status.load(Ordering::Relaxed);
        match error {
            ProvisionError::Refused {
                url,
                status,
                message,
            } if earlier != 0 => ProvisionError::RefusedLater {
                url,
                status,
                message,
                earlier,
            },
            ProvisionError::Unauthorized { url, status } if earlier != 0 => {
                ProvisionError::RefusedLater {
                    url,
                    status,
                    message: "the provisioning key is not accepted".into(),
                    earlier,
                }
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use cloud_net::UntrustedText;

    use super::*;

    fn url() -> String {
        "https://api.example".to_owned()
    }

    fn server(retry_after: Option<u64>) -> ProvisionError {
        ProvisionError::Server {
            url: url(),
            status: 503,
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    fn after(failures: u32, error: &ProvisionError) -> Option<Duration> {
        let deadline = Instant::now() + Duration::from_secs(3600);
        Backoff {
            failures,
            ..Backoff::new(
                Retry {
                    attempts: 10,
                    ..Retry::default()
                },
                deadline,
            )
        }
        .delay(error)
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_doubles_within_bounds_and_is_never_zero() {
        for (failures, bound) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 20), (9, 20)] {
            let bound = Duration::from_secs(bound);
            for _ in 0..50 {
                let delay = after(failures, &server(None)).unwrap();
                assert!(
                    bound / 2 <= delay && delay <= bound,
                    "{failures}: {delay:?}"
                );
            }
        }
        assert_eq!(after(10, &server(None)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_platform_asks_for_is_waited_for_within_reason() {
        let delay = after(1, &server(Some(30))).unwrap();
        assert!((30..=31).contains(&delay.as_secs()), "{delay:?}");
        assert_eq!(after(1, &server(Some(61))), None);
        let limited = ProvisionError::RateLimited {
            url: url(),
            retry_after: Some(Duration::from_secs(2)),
        };
        assert!(after(1, &limited).unwrap() >= Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn no_wait_goes_beyond_the_deadline() {
        let mut policy = Backoff::new(Retry::default(), Instant::now() + Duration::from_secs(10));
        policy.failures = 1;
        assert!(policy.delay(&server(Some(8))).is_some());
        assert!(policy.delay(&server(Some(11))).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_have_happened_is_not_asked_for_again() {
        let reason = || UntrustedText::from("reset");
        let limit = Duration::from_secs(1);
        for error in [
            ProvisionError::Interrupted {
                url: url(),
                reason: reason(),
            },
            ProvisionError::TimedOut { url: url(), limit },
            ProvisionError::Refused {
                url: url(),
                status: 200,
                message: reason(),
            },
            ProvisionError::Unauthorized {
                url: url(),
                status: 401,
            },
            ProvisionError::Untrusted {
                url: url(),
                reason: reason(),
            },
        ] {
            assert_eq!(after(1, &error), None, "{error}");
        }
        for error in [
            ProvisionError::Unreachable {
                url: url(),
                reason: reason(),
            },
            ProvisionError::ConnectTimedOut { url: url(), limit },
        ] {
            assert!(after(1, &error).is_some(), "{error}");
        }
    }
}
