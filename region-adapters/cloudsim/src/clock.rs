//! The only place of this crate that reads a clock. Everything else is told the time.

use std::time::UNIX_EPOCH;

/// Unix milliseconds. A clock before 1970 reads 0.
#[expect(clippy::disallowed_methods, reason = "the simulators' rim: the simulated wall clock is real time")]
pub(crate) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
