//! When a failed request is tried again, and how long to wait before.

use std::time::{Duration, SystemTime};

use crate::error::ImageError;
use crate::registry::FetchPolicy;

/// A failed attempt.
#[derive(Debug)]
pub(crate) struct Failure {
    pub error: ImageError,
    /// Whether another attempt may succeed.
    pub transient: bool,
    /// What the registry asked for.
    pub retry_after: Option<Duration>,
}

impl Failure {
    pub fn fatal(error: ImageError) -> Failure {
        Failure {
            error,
            transient: false,
            retry_after: None,
        }
    }

    pub fn transient(error: ImageError) -> Failure {
        Failure {
            error,
            transient: true,
            retry_after: None,
        }
    }
}

/// Counts the attempts at one thing.
pub(crate) struct Backoff<'a> {
    policy: &'a FetchPolicy,
    failures: u32,
}

impl<'a> Backoff<'a> {
    pub fn new(policy: &'a FetchPolicy) -> Self {
        Backoff {
            policy,
            failures: 0,
        }
    }

    /// The last attempt got somewhere, so the next failure is a first one.
    pub fn progressed(&mut self) {
        self.failures = 0;
    }

    /// Waits until the next attempt, or gives the error back when there is none.
    pub async fn wait(&mut self, failure: Failure) -> Result<(), ImageError> {
        self.failures += 1;
        let jitter = fastrand::f64();
        match delay(self.policy, self.failures, &failure, jitter) {
            Some(delay) => {
                tracing::debug!(error = %failure.error, ?delay, "request is tried again");
                tokio::time::sleep(delay).await;
                Ok(())
            }
            None => Err(failure.error),
        }
    }
}

/// Pause after the failure number `failures`, or none when it was the last. `jitter` is in 0..1
/// and spreads clients which failed together.
fn delay(policy: &FetchPolicy, failures: u32, failure: &Failure, jitter: f64) -> Option<Duration> {
    if !failure.transient || failures >= policy.attempts {
        return None;
    }
    if let Some(asked) = failure.retry_after {
        return (asked <= policy.longest_retry_after).then_some(asked);
    }
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
    let full = policy
        .first_delay
        .saturating_mul(doubled)
        .min(policy.longest_delay);
    Some(full.mul_f64(0.5 + jitter / 2.0))
}

/// A `Retry-After` header: seconds or a date.
pub(crate) fn retry_after(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(header).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(transient: bool, retry_after: Option<u64>) -> Failure {
        Failure {
            error: ImageError::RateLimited {
                registry: "r".into(),
                retry_after: None,
            },
            transient,
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[test]
    fn delays_double_up_to_a_bound() {
        let policy = FetchPolicy {
            attempts: 8,
            first_delay: Duration::from_millis(100),
            longest_delay: Duration::from_millis(1000),
            longest_retry_after: Duration::from_secs(60),
            ..FetchPolicy::default()
        };
        for (failures, asked, jitter, expected) in [
            (1, None, 1.0, Some(100)),
            (1, None, 0.0, Some(50)),
            (2, None, 1.0, Some(200)),
            (4, None, 1.0, Some(800)),
            (5, None, 1.0, Some(1000)),
            (7, None, 0.5, Some(750)),
            (8, None, 1.0, None),
            (1, Some(7), 0.3, Some(7000)),
            (1, Some(0), 0.3, Some(0)),
            (1, Some(60), 0.3, Some(60_000)),
            (1, Some(61), 0.3, None),
            (8, Some(1), 0.3, None),
        ] {
            assert_eq!(
                delay(&policy, failures, &failure(true, asked), jitter),
                expected.map(Duration::from_millis),
                "{failures} {asked:?} {jitter}"
            );
        }
        assert_eq!(delay(&policy, 1, &failure(false, None), 0.5), None);
        let endless = FetchPolicy {
            attempts: u32::MAX,
            ..policy
        };
        assert!(delay(&endless, u32::MAX - 1, &failure(true, None), 1.0).is_some());
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (header, expected) in [
            ("5", Some(5)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(
                retry_after(header, now),
                expected.map(Duration::from_secs),
                "{header}"
            );
        }
    }
}
