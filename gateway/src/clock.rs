//! Time and randomness from the operating system; the only caller of either.
//!
//! Everything else gets a [`Clock`] and an [`Entropy`] and can be run under a test's.

use std::{fmt, sync::Arc};

use meridian_model::time::Time;

/// Wall-clock time. Deadlines and timers use tokio's own monotonic clock instead.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Time + Send + Sync>);

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::from_fn(|| {
            #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
            let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            // A clock set before 1970 reads as 1970: signatures fail loudly, nothing panics.
            Time::from_unix_ms(since_epoch.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
        })
    }

    /// A clock of the caller's making.
    pub fn from_fn(now: impl Fn() -> Time + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Time {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// A source of random numbers.
#[derive(Clone)]
pub struct Entropy(Arc<dyn Fn() -> u128 + Send + Sync>);

impl Entropy {
    /// Random numbers of version-4 UUIDs: 122 bits from the operating system's generator.
    #[must_use]
    pub fn system() -> Self {
        Self::from_fn(|| uuid::Uuid::new_v4().as_u128())
    }

    /// A source of the caller's making.
    pub fn from_fn(next: impl Fn() -> u128 + Send + Sync + 'static) -> Self {
        Self(Arc::new(next))
    }

    /// The next number.
    #[must_use]
    pub fn next(&self) -> u128 {
        (self.0)()
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}
