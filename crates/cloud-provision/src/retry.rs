//! The retry policy for [`tower::retry::Retry`].
//!
//! The client retries only if the attempt had no effect (no connection was made) or the platform
//! reports a failure (429, 5xx). It does not retry after a broken connection or a timeout with the
//! request sent: the key may be used up, and the second response would be "refused" for a
//! registered device.
//!
//! A retry never registers a second device. Each carries the same serial number, which is the
//! device's identity, the same key, which the platform accepts once, and the same signing requests,
//! if any. A 5xx may hide a success (a gateway that timed out); the next request is then refused,
//! and [`AmbiguousAttempts`] distinguishes that from a refusal of the first attempt.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use cloud_net::ExponentialBackoff;
use tokio::time::{Instant, Sleep};
use tower::retry::Policy;

use crate::error::ProvisionError;

/// Number of attempts and the delays between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retry {
    /// Maximum number of requests, including the first. At least 1. Default: 5.
    pub attempts: u32,
    /// Maximum delay after the first failure; it doubles with each further one. Default: 1 s.
    pub first_delay: Duration,
    /// Maximum delay without a `Retry-After`. Default: 20 s.
    pub max_delay: Duration,
    /// Maximum `Retry-After` that the call waits for; a longer one ends the call with an error.
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

/// The retry policy of one registration: exponential backoff with jitter.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    retry: Retry,
    failures: u32,
    /// No delay exceeds this time.
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

    /// Returns the delay before the next attempt after this error, or `None` if there must be none.
    fn delay(&self, error: &ProvisionError) -> Option<Duration> {
        if !error.is_retryable() || self.failures >= self.retry.attempts {
            return None;
        }
        let backoff = ExponentialBackoff {
            first: self.retry.first_delay,
            max: self.retry.max_delay,
        };
        let requested = match error {
            ProvisionError::RateLimited { retry_after, .. }
            | ProvisionError::Server { retry_after, .. } => *retry_after,
            _ => None,
        };
        let delay = match requested {
            Some(requested) if requested > self.retry.max_retry_after => return None,
            // Never earlier than requested; jitter on top, because other devices received the same
            // value.
            Some(requested) => requested + self.retry.first_delay.mul_f64(rand::random()),
            None => backoff.delay(self.failures, rand::random()),
        };
        (Instant::now() + delay < self.deadline).then_some(delay)
    }
}

impl<Request: Clone, Response> Policy<Request, Response, ProvisionError> for Backoff {
    type Future = Sleep;

    fn retry(
        &mut self,
        _: &mut Request,
        result: &mut Result<Response, ProvisionError>,
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

/// Records attempts that may have registered the device before another attempt followed.
#[derive(Debug, Default)]
pub(crate) struct AmbiguousAttempts {
    /// HTTP status of the last such attempt; 0 for none.
    status: AtomicU16,
}

impl AmbiguousAttempts {
    pub(crate) fn record<T>(&self, result: &Result<T, ProvisionError>) {
        if let Err(ProvisionError::Server { status, .. }) = result {
            self.status.store(*status, Ordering::Relaxed);
        }
    }

    /// Converts a refusal after an ambiguous attempt into [`ProvisionError::RefusedAfterRetry`].
    pub(crate) fn explain(&self, error: ProvisionError) -> ProvisionError {
        let earlier = self.status.load(Ordering::Relaxed);
        match error {
            ProvisionError::Refused {
                url,
                status,
                message,
            } if earlier != 0 => ProvisionError::RefusedAfterRetry {
                url,
                status,
                message,
                earlier,
            },
            ProvisionError::Unauthorized {
                url,
                status,
                message,
            } if earlier != 0 => ProvisionError::RefusedAfterRetry {
                url,
                status,
                message: message.unwrap_or_else(|| "the provisioning key is not accepted".into()),
                earlier,
            },
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
            message: None,
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
    async fn delay_doubles_within_bounds_and_is_never_zero() {
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
    async fn retry_after_is_honored_up_to_its_limit() {
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
    async fn delay_never_exceeds_the_deadline() {
        let mut policy = Backoff::new(Retry::default(), Instant::now() + Duration::from_secs(10));
        policy.failures = 1;
        assert!(policy.delay(&server(Some(8))).is_some());
        assert!(policy.delay(&server(Some(11))).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn ambiguous_and_final_errors_are_not_retried() {
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
                message: None,
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
            ProvisionError::ConnectTimedOut {
                url: url(),
                proxy: None,
                limit,
            },
        ] {
            assert!(after(1, &error).is_some(), "{error}");
        }
    }
}
